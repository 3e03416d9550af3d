"""What the page is shown of a conversation: never half of an old state and half of a new one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from modules.api.view_messages import ConversationView
from modules.services.conversation_settings import ConversationSettings
from modules.services.conversations import ConversationRecord
from modules.services.replies import Reply
from modules.store.records import MessageRecord


class EndingReply:
    """A conversation whose reply ends while it is being read for the first time."""

    def __init__(self) -> None:
        self.reply: Reply | None = Reply("reply", "talk", "me", text="half")
        self.reads = 0

    def running(self, _conversation_id: str) -> Reply | None:
        return self.reply

    async def read(self, _owner: str, _conversation_id: str) -> ConversationRecord:
        self.reads += 1
        status, content = ("streaming", "") if self.reply else ("stopped", "half and the rest")
        self.reply = None
        message = MessageRecord("reply", "talk", None, "assistant", content, 0.0, 0.0, status=status)
        return ConversationRecord("talk", "Talk", 1, ConversationSettings(), (message,))


async def test_a_reply_that_ends_while_it_is_read_is_shown_as_ended() -> None:
    talk = EndingReply()
    app: Any = SimpleNamespace(conversations=talk, replies=talk)
    functions: Any = SimpleNamespace(blocks=lambda text: (text,))
    shown = await ConversationView(app, functions, "me", "talk").snapshot()
    assert (shown["running"], shown["messages"][0]["status"], shown["messages"][0]["blocks"]) == (None, "stopped", ["half and the rest"])
    assert talk.reads == 2
