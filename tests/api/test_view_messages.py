"""What the page is shown of a conversation: never half of an old state and half of a new one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from modules.api.view_messages import ConversationView
from modules.services.conversation_news import ConversationNews, Subscription
from modules.services.conversation_settings import ConversationSettings
from modules.services.conversations import ConversationRecord
from modules.services.followers import Followers
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


class FollowingReplies:
    """A conversation whose first reply ends, and whose second one is begun just as the end of the first is told."""

    def __init__(self) -> None:
        self.first, self.second = (Reply(name, "talk", "me", text=name) for name in ("first", "second"))
        self.news = ConversationNews()
        # As asked for by the first snapshot, the loop, and the second snapshot; by then the second has ended too
        self._running: Iterator[Reply | None] = iter((self.first, self.first, None, self.second, self.second))

    def running(self, _conversation_id: str) -> Reply | None:
        return next(self._running, None)

    def subscribe(self, conversation_id: str) -> Subscription:
        return self.news.subscribe(conversation_id)

    async def read(self, _owner: str, _conversation_id: str) -> ConversationRecord:
        return ConversationRecord("talk", "Talk", 1, ConversationSettings(), ())

    async def message(self, _owner: str, message_id: str) -> MessageRecord:
        return MessageRecord(message_id, "talk", None, "assistant", message_id, 0.0, 0.0, status="stopped")

    def end(self, reply: Reply) -> None:
        reply.status = "stopped"
        reply.touch()


async def test_a_reply_that_began_while_the_one_before_was_ending_is_reported_as_ended_too() -> None:
    talk = FollowingReplies()
    models = SimpleNamespace(watch=lambda _wake: lambda: None)
    app: Any = SimpleNamespace(conversations=talk, replies=talk, followers=Followers(), models=models)
    streaming = SimpleNamespace(feed=lambda text: SimpleNamespace(first=0, blocks=(text,)))
    functions: Any = SimpleNamespace(blocks=lambda text: (text,), streaming=lambda: streaming)
    finished: list[str] = []
    async with asyncio.timeout(5):
        events = ConversationView(app, functions, "me", "talk").events()
        await anext(events)
        talk.end(talk.first)
        talk.news.publish("talk", "tree")
        await anext(events)
        talk.end(talk.second)
        while len(finished) < 2:
            event, _, data = (await anext(events)).decode().strip().partition("\n")
            if event.endswith("finished"):
                finished.append(json.loads(data.removeprefix("data: "))["id"])
        await events.aclose()  # type: ignore[attr-defined]
    assert finished == ["first", "second"]
