"""Notebook: texts that the model writes on, and what it finds likely in them. Drawn by the browser from the page's own routes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modules.ui.views.notebook_text import NotebookText

if TYPE_CHECKING:
    from modules.services.app import App


def build(app: App) -> None:
    """Make the tab's components in the layout that is open now."""
    NotebookText(elem_id="notebook")
