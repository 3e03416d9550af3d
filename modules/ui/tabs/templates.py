"""Templates: how messages become the text that a model reads. Drawn by the browser from the page's own routes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modules.ui.views.template_editor import TemplateEditor

if TYPE_CHECKING:
    from modules.services.app import App


def build(app: App) -> None:
    """Make the tab's components in the layout that is open now."""
    TemplateEditor(elem_id="templates")
