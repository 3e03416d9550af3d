"""The open notebook, all others, and views of its text: drawn by `assets/notebook_text.js`."""

from __future__ import annotations

from modules.ui.views.frame import View


class NotebookText(View):
    """The open notebook."""

    module = "notebook_text"
