"""The sidebar: conversations, the model's state, the theme switch: drawn by `assets/conversation_list.js`."""

from __future__ import annotations

from modules.ui.views.frame import View


class ConversationList(View):
    """The sidebar: conversations, the model's state, the theme switch."""

    module = "conversation_list"
