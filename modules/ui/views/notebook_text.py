"""The notebook: one text that grows at its end: drawn by `assets/notebook_text.js`."""

from __future__ import annotations

from modules.ui.views.frame import View


class NotebookText(View):
    """The notebook: one text that grows at its end."""

    module = "notebook_text"
