"""Chat: the open conversation and its composer. Everything moving in it is drawn by the browser from the page's own routes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modules.ui.views.message_list import MessageList

if TYPE_CHECKING:
    from modules.services.app import App


def build(app: App) -> None:
    """Make the tab's components in the layout that is open now."""
    MessageList(elem_id="chat")
