"""The open conversation and its composer: drawn by `assets/message_list.js`."""

from __future__ import annotations

from modules.ui.views.frame import View


class MessageList(View):
    """The open conversation and its composer."""

    module = "message_list"
