"""A list to choose from whose entries come and go while the page is open."""

from __future__ import annotations

from typing import Any

import gradio as gr


class ChangingChoice(gr.Dropdown):
    """Gradio answers with a failure of the server where the page still names an entry that was just taken out; here what uses the name decides."""

    is_template = True  # drawn as what it is made from

    def preprocess(self, payload: Any) -> str | None:
        """The name that the page has, also of an entry that is gone; what is no name is none."""
        return payload if isinstance(payload, str) else None
