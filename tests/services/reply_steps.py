"""What the tests of replies do again and again."""

from __future__ import annotations

from typing import Any

from modules.services.app import App
from modules.services.conversations import MessageRecord
from modules.services.replies import Reply
from tests.services.conftest import until

ANN = "ann"
SHORT = {"preset": "", "params": {"temperature": 0, "max_tokens": 12}}
ENDLESS = {"preset": "", "params": {"temperature": 0, "ban_eos": True}}


async def talk(app: App, settings: dict[str, Any] = SHORT) -> str:
    return await app.conversations.create(ANN, settings)


async def shown(app: App, conversation_id: str) -> tuple[MessageRecord, ...]:
    return (await app.conversations.read(ANN, conversation_id)).messages


async def ended(app: App, conversation_id: str) -> MessageRecord:
    """The last message, when nothing is being written any more."""
    await until(lambda: app.replies.running(conversation_id) is None)
    return (await shown(app, conversation_id))[-1]


async def growing(app: App, conversation_id: str, characters: int = 20) -> Reply:
    """The reply of a conversation, once it has some text."""
    reply = app.replies.running(conversation_id)
    assert reply is not None
    await until(lambda: len(reply.text) >= characters)
    assert reply.running
    return reply
