"""What the page is shown of a conversation: never half of an old state and half of a new one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
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
    """A conversation with two replies, one after the other; what the store has of a reply is saved by `end`."""

    def __init__(self) -> None:
        self.first, self.second = (Reply(name, "talk", "me", text=name) for name in ("first", "second"))
        self.news = ConversationNews()
        self.current: Reply | None = self.first
        self.saved: set[str] = set()

    def running(self, _conversation_id: str) -> Reply | None:
        return self.current

    def subscribe(self, conversation_id: str) -> Subscription:
        return self.news.subscribe(conversation_id)

    async def read(self, _owner: str, _conversation_id: str) -> ConversationRecord:
        return ConversationRecord("talk", "Talk", 1, ConversationSettings(), ())

    async def message(self, _owner: str, message_id: str) -> MessageRecord:
        status, content = ("stopped", message_id) if message_id in self.saved else ("streaming", "")
        return MessageRecord(message_id, "talk", None, "assistant", content, 0.0, 0.0, status=status)

    def stop(self, reply: Reply) -> None:
        """The last words have come; they are not saved yet."""
        reply.status = "stopped"
        reply.touch()

    def end(self, reply: Reply, following: Reply | None = None) -> None:
        """They are saved, and perhaps another reply begins at once."""
        self.saved.add(reply.id)
        self.current = following
        reply.touch()


@asynccontextmanager
async def followed(talk: FollowingReplies) -> AsyncIterator[AsyncIterator[tuple[str, dict[str, Any]]]]:
    """Names and data of the events that a follower gets."""
    models = SimpleNamespace(watch=lambda _wake: lambda: None)
    app: Any = SimpleNamespace(conversations=talk, replies=talk, followers=Followers(), models=models)
    streaming = SimpleNamespace(feed=lambda text: SimpleNamespace(first=0, blocks=(text,)))
    functions: Any = SimpleNamespace(blocks=lambda text: (text,), streaming=lambda: streaming)
    events = ConversationView(app, functions, "me", "talk").events()

    async def read() -> AsyncIterator[tuple[str, dict[str, Any]]]:
        async for raw in events:
            name, _, data = raw.decode().strip().partition("\n")
            yield name.removeprefix("event: "), json.loads(data.removeprefix("data: "))

    async with asyncio.timeout(5):
        yield read()
    await events.aclose()  # type: ignore[attr-defined]


async def test_a_reply_is_not_finished_before_its_end_is_saved() -> None:
    talk = FollowingReplies()
    async with followed(talk) as events:
        async for name, data in events:
            if name == "snapshot":
                talk.stop(talk.first)
                asyncio.get_running_loop().call_later(0.2, talk.end, talk.first)
            if name == "finished":
                assert (data["status"], data["blocks"]) == ("stopped", ["first"])
                break


async def test_a_reply_that_began_while_the_one_before_was_ending_is_reported_as_ended_too() -> None:
    talk = FollowingReplies()
    finished: list[str] = []

    def second_begins() -> None:
        talk.stop(talk.first)
        talk.end(talk.first, talk.second)
        talk.news.publish("talk", "tree")

    async with followed(talk) as events:
        asyncio.get_running_loop().call_later(0.2, second_begins)
        async for name, data in events:
            if name == "finished":
                finished.append(data["id"])
                if len(finished) == 2:
                    break
                talk.stop(talk.second)  # and ends before the follower looks again
                talk.end(talk.second)
    assert finished == ["first", "second"]
