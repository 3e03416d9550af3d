"""What the page is shown of a conversation: never half of an old state and half of a new one, and after a change only what changed."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from modules.api.view_messages import WINDOW, ConversationView, MessageRendering
from modules.core.errors import NotFound
from modules.services.conversation_news import WAITING_LIMIT
from modules.services.conversations import ConversationService, MessageStatus
from modules.services.followers import Followers
from modules.services.replies import Reply
from modules.services.storage import Storage
from modules.ui.render import BlockCache, Renderer, StreamingRenderer

ME = "me"
LIMIT_S = 20


class Counting(Renderer):
    """Counts the blocks that it renders."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def group_html(self, tokens: Any) -> str:
        self.count += 1
        return super().group_html(tokens)


class Talk:
    """A real conversation, and replies that a test writes: those that are listed here count as being written."""

    def __init__(self, folder: Path) -> None:
        self.storage = Storage(folder)
        self.conversations = ConversationService(self.storage)
        self.running: list[Reply] = []
        self.asked: tuple[str, ...] = ()
        self.renderer = Counting()
        cache = BlockCache(self.renderer)
        functions: Any = SimpleNamespace(blocks=cache.blocks, streaming=lambda: StreamingRenderer(self.renderer))
        self.rendering = MessageRendering(functions)
        replies = SimpleNamespace(all_running=lambda _id: tuple(self.running), together=lambda _id: self.asked)
        models = SimpleNamespace(watch=lambda _wake: lambda: None)
        self.app: Any = SimpleNamespace(conversations=self.conversations, replies=replies, followers=Followers(), models=models)
        self.id = ""

    async def begin(self, count: int = 0) -> Talk:
        rows = [{"role": ("user", "assistant")[place % 2], "content": f"Message {place}."} for place in range(count)]
        self.id = await self.conversations.import_(ME, {"title": "Talk", "messages": rows})
        return self

    def view(self) -> ConversationView:
        return ConversationView(self.app, self.rendering, ME, self.id)

    async def ids(self) -> list[str]:
        return [message.id for message in (await self.conversations.read(ME, self.id)).messages]

    async def reply(self, text: str = "", parent: str | None = None) -> Reply:
        """One that is being written from now on."""
        message = await self.conversations.append(ME, self.id, parent, "assistant", "", status="streaming")
        self.running.append(Reply(message.id, self.id, ME, text=text))
        return self.running[-1]

    async def end(self, reply: Reply, status: MessageStatus = "complete") -> None:
        """Its last words have come, and are saved."""
        reply.status = status
        reply.touch()
        await self.conversations.save_reply(ME, reply.id, content=reply.text, status=status)
        self.running.remove(reply)
        reply.touch()


class Tab:
    """What a page knows by what it was told, as message_list.js and message_path.js put it together."""

    def __init__(self, talk: Talk) -> None:
        self.talk = talk
        self.names: list[str] = []
        self.messages: dict[str, dict[str, Any]] = {}
        self.path: list[str] = []
        self.together: list[str] = []
        self.unread: str | None = None  # what leads to this one is still to be read
        self.bytes = 0

    def take(self, raw: bytes) -> None:
        """Do as the events say."""
        for one in raw.decode().split("\n\n")[:-1]:
            name, _, data = one.partition("\n")
            self.names.append(name.removeprefix("event: "))
            getattr(self, self.names[-1])(json.loads(data.removeprefix("data: ")))
        self.bytes += len(raw)

    def snapshot(self, data: dict[str, Any]) -> None:
        messages = data["messages"]
        before = messages[0]["parent_id"] if messages else None
        self._put(self.path.index(before) + 1 if before in self.path else 0, messages, data)
        self.unread = messages[0]["id"] if before else None

    def change(self, data: dict[str, Any]) -> None:
        self.messages |= {message["id"]: message for message in data["changed"] if message["id"] in self.messages}
        self._put(0 if data["after"] is None else self.path.index(data["after"]) + 1, data["added"], data)

    def _put(self, kept: int, added: list[dict[str, Any]], data: dict[str, Any]) -> None:
        self.path = [*self.path[:kept], *(message["id"] for message in added)]
        self.messages |= {message["id"]: message for message in (*added, *data["together"])}
        self.together = [message["id"] for message in data["together"]]

    def patch(self, data: dict[str, Any]) -> None:
        message = self.messages[data["id"]]
        message["blocks"][data["from"] :] = data["blocks"]
        if data["thinking"]:
            html = (message["thinking"] or {"html": []})["html"]
            message["thinking"] = {**data["thinking"], "html": html[: data["thinking"]["from"]] + data["thinking"]["html"]}

    def finished(self, data: dict[str, Any]) -> None:
        self.messages[data["id"]] = data

    def ignored(self, data: dict[str, Any]) -> None:
        """Nothing that is shown in a message."""

    title = queued = loading = ping = ignored

    async def read_older(self) -> None:
        """What leads to the messages of the last snapshot; those that are known are read anew."""
        while self.unread:
            older = plain(await self.talk.view().before(self.unread, 7))
            self.path = [*(message["id"] for message in older if message["id"] not in self.path), *self.path]
            self.messages |= {message["id"]: message for message in older}
            self.unread = older[0]["id"] if older[0]["parent_id"] else None

    @property
    def shown(self) -> list[dict[str, Any]]:
        """The messages on the screen."""
        return [self.messages[message_id] for message_id in self.path]


def plain(messages: list[dict[str, Any]]) -> Any:
    """As they are after the way through JSON."""
    return json.loads(json.dumps(messages))


@pytest.fixture
async def talk(tmp_path: Path) -> AsyncIterator[Talk]:
    made = Talk(tmp_path)
    yield made
    await made.storage.close()


@asynccontextmanager
async def followed(talk: Talk, known: Tab | None = None) -> AsyncIterator[tuple[Tab, AsyncIterator[bytes]]]:
    """A tab that has a snapshot, and the stream that goes on."""
    tab, events = known or Tab(talk), talk.view().events()
    async with asyncio.timeout(LIMIT_S):
        tab.take(await anext(events))
        yield tab, events
    await events.aclose()  # type: ignore[attr-defined]


async def until(tab: Tab, events: AsyncIterator[bytes], done: Any) -> None:
    """Take what comes, until something is so."""
    while not done():
        tab.take(await anext(events))


async def test_a_reply_that_ends_while_it_is_read_is_shown_as_ended(talk: Talk) -> None:
    await talk.begin()
    reply = await talk.reply("half")
    read, reads = talk.conversations.paths.end, []

    async def ending(owner: str, conversation_id: str, count: int | None = None) -> Any:
        reads.append(found := await read(owner, conversation_id, count))
        if len(reads) == 1:
            reply.text = "half and the rest"
            await talk.end(reply, "stopped")
        return found

    talk.conversations.paths.end = ending  # type: ignore[method-assign]
    shown = await talk.view().snapshot()
    assert (shown["running"], shown["messages"][0]["status"], list(shown["messages"][0]["blocks"])) == ([], "stopped", ["<p>half and the rest</p>\n"])
    assert len(reads) == 2


async def test_a_growing_reply_of_several_blocks_looks_as_it_will_at_its_end(talk: Talk) -> None:
    await talk.begin(3)
    text = "<think>First this.\n\nThen *that*.\n\nDone.</think>One.\n\n```\ntwo\n```\n\n* three\n* four\n\nFive, the last."
    async with followed(talk) as (tab, events), followed(talk) as (other, others):
        reply = await talk.reply(parent=(await talk.ids())[-1])
        await until(tab, events, lambda: reply.id in tab.path)
        await until(other, others, lambda: reply.id in other.path)
        for length in (9, 24, 40, 52, 60, 75, 90, len(text)):
            reply.text = text[:length]
            reply.touch()
            count = tab.names.count("patch")
            await until(tab, events, lambda count=count: tab.names.count("patch") > count)
            fresh = (await talk.view().snapshot(1))["messages"][0]
            assert tab.messages[reply.id]["blocks"] == list(fresh["blocks"])
            assert (tab.messages[reply.id]["thinking"] or {}).get("html") == (list(fresh["thinking"]["html"]) if fresh["thinking"] else None)
        looked = talk.renderer.count
        await until(other, others, lambda: other.messages[reply.id]["blocks"] == tab.messages[reply.id]["blocks"])
        assert talk.renderer.count == looked, "what one tab was shown is not rendered again for another one"
        assert other.messages[reply.id]["thinking"]["html"] == tab.messages[reply.id]["thinking"]["html"]
        await talk.end(reply)
        await until(tab, events, lambda: "finished" in tab.names)
        assert len(tab.messages[reply.id]["blocks"]) == 4


async def test_several_replies_grow_and_end_each_by_itself(talk: Talk) -> None:
    await talk.begin()
    first, second = await talk.reply("first"), await talk.reply("second")
    talk.asked = (first.id, second.id)
    async with followed(talk) as (tab, events):
        second.text = "more"
        second.touch()
        await until(tab, events, lambda: "patch" in tab.names)
        await talk.end(second)
        await until(tab, events, lambda: tab.messages[second.id]["status"] == "complete")
        assert tab.names.count("finished") == 1 and talk.running == [first]
        await talk.end(first)
        await until(tab, events, lambda: tab.names.count("finished") == 2)


async def test_a_reply_is_not_finished_before_its_end_is_saved(talk: Talk) -> None:
    await talk.begin()
    reply = await talk.reply("first")
    async with followed(talk) as (tab, events):
        reply.status = "stopped"  # the last words have come
        reply.touch()
        await until(tab, events, lambda: "patch" in tab.names)
        await talk.end(reply, "stopped")
        await until(tab, events, lambda: "finished" in tab.names)
        assert (tab.messages[reply.id]["status"], tab.messages[reply.id]["blocks"]) == ("stopped", ["<p>first</p>\n"])


async def test_a_reply_that_began_while_the_one_before_was_ending_is_reported_as_ended_too(talk: Talk) -> None:
    await talk.begin()
    first = await talk.reply("first")
    async with followed(talk) as (tab, events):
        first.status = "complete"
        await talk.conversations.save_reply(ME, first.id, content=first.text, status=first.status)
        second = await talk.reply("second", first.id)
        talk.running.remove(first)
        first.touch()
        await until(tab, events, lambda: tab.names.count("finished") == 1)
        await talk.end(second)  # before the follower looks again
        await until(tab, events, lambda: tab.names.count("finished") == 2)
        assert tab.path == [first.id, second.id] and [message["status"] for message in tab.shown] == ["complete", "complete"]


async def test_a_message_that_grows_again_is_told_as_ended_once_more(talk: Talk) -> None:
    await talk.begin()
    reply = await talk.reply("One.")
    await talk.end(reply)
    async with followed(talk) as (tab, events):
        again = Reply.continuing(await talk.conversations.message(ME, reply.id), ME)
        talk.running.append(again)
        talk.conversations.tell(talk.id, reply.id)
        await until(tab, events, lambda: tab.messages[reply.id]["status"] == "streaming")
        again.text += "\n\nTwo."
        again.touch()
        await until(tab, events, lambda: len(tab.messages[reply.id]["blocks"]) == 2)
        await talk.end(again)
        await until(tab, events, lambda: "finished" in tab.names)
        assert tab.messages[reply.id]["status"] == "complete"


async def test_of_a_thousand_messages_only_what_changed_is_sent_and_rendered(talk: Talk) -> None:
    await talk.begin(1000)
    async with followed(talk) as (tab, events):
        assert len(tab.path) == WINDOW
        last = (await talk.ids())[-1]
        tab.bytes, rendered = 0, talk.renderer.count
        added = await talk.conversations.append(ME, talk.id, last, "user", "One more.")
        await until(tab, events, lambda: added.id in tab.path)
        await talk.conversations.rate(ME, last, 1)
        await until(tab, events, lambda: tab.messages[last]["rating"] == 1)
        await talk.conversations.update_settings(ME, talk.id, {"system_prompt": "Be short."})
        await until(tab, events, lambda: len(tab.names) == 4)
        assert tab.names == ["snapshot", "change", "change", "change"]
        assert talk.renderer.count == rendered + 1, "the new message"
        assert tab.bytes < 6000
        version = await talk.conversations.add_version(ME, tab.path[-5], "Another turn.")
        await until(tab, events, lambda: tab.path[-1] == version.id)
        await talk.conversations.select_version(ME, version.version_ids[0])
        await until(tab, events, lambda: tab.path[-1] == added.id)
        assert tab.messages[version.version_ids[0]]["version"]["count"] == 2 and "snapshot" not in tab.names[1:]


@pytest.mark.parametrize("seed", range(6))
async def test_all_tabs_show_what_stands_there(talk: Talk, seed: int) -> None:
    """One that follows, one that was away meanwhile, and one that comes later; after anything that can be done."""
    chance = random.Random(seed)
    await talk.begin(chance.choice([0, 3, WINDOW + 20]))
    async with followed(talk) as (tab, events), followed(talk) as (away, _):
        await away.read_older()
        for number in range(30):
            await act(talk, chance, number)
            if chance.random() < 0.4:
                await until_same(talk, tab, events)
        await until_same(talk, tab, events)
        for known in (away, None):
            async with followed(talk, known) as (other, again):
                await until_same(talk, other, again)
                assert other.names[-1] == "snapshot"


async def until_same(talk: Talk, tab: Tab, events: AsyncIterator[bytes]) -> None:
    """Take what comes, until the tab shows what stands there."""
    whole = await talk.view().snapshot()
    await tab.read_older()
    while (tab.shown, tab.together) != (plain(whole["messages"]), [message["id"] for message in whole["together"]]):
        tab.take(await anext(events))
        await tab.read_older()


async def act(talk: Talk, chance: random.Random, number: int) -> None:
    """Something that a person does with a message."""
    ids = await talk.ids()
    target = chance.choice(ids) if ids else None
    action = chance.choice(["append", "append", "version", "select", "rate", "pin", "delete", "together", "pick"])
    if action == "append" or target is None:
        await talk.conversations.append(ME, talk.id, ids[-1] if ids else None, "assistant", f"Said {number}.")
    elif action == "version":
        await talk.conversations.add_version(ME, target, f"Version {number}.")
    elif action == "select":
        await talk.conversations.select_version(ME, chance.choice((await talk.conversations.message(ME, target)).version_ids))
    elif action == "pin":
        await talk.conversations.pin_message(ME, target, bool(number % 2))
    elif action == "delete":
        await talk.conversations.delete_message(ME, ids[chance.randrange(len(ids) // 2, len(ids))])
    elif action == "together":
        made = [await talk.conversations.append(ME, talk.id, ids[-1], "assistant", f"Side {number}, {place}.") for place in range(2)]
        talk.asked = tuple(message.id for message in made)
        await talk.conversations.select_version(ME, made[0].id)
    elif action == "pick" and talk.asked:
        picked, talk.asked = talk.asked[number % 2], ()
        if (await alive(talk, picked)):
            await talk.conversations.select_version(ME, picked)
    elif (await talk.conversations.message(ME, target)).role == "assistant":
        await talk.conversations.rate(ME, target, (-1, 1)[number % 2])


async def alive(talk: Talk, message_id: str) -> bool:
    try:
        await talk.conversations.message(ME, message_id)
    except NotFound:
        return False
    return True


async def test_who_is_far_behind_is_sent_the_end_anew(talk: Talk) -> None:
    await talk.begin(4)
    ids = await talk.ids()
    async with followed(talk) as (tab, events):
        for place in range(WAITING_LIMIT + 1):
            await talk.conversations.rate(ME, ids[1], (-1, 1)[place % 2])
        await until(tab, events, lambda: len(tab.names) > 1)
        assert tab.names == ["snapshot", "snapshot"] and tab.messages[ids[1]]["rating"] == -1


async def test_a_path_of_which_the_follower_knows_nothing_is_sent_anew(talk: Talk) -> None:
    await talk.begin(WINDOW + 10)
    async with followed(talk) as (tab, events):
        version = await talk.conversations.add_version(ME, (await talk.ids())[2], "Otherwise.")
        await until(tab, events, lambda: tab.path[-1] == version.id)
        assert tab.names == ["snapshot", "snapshot"] and len(tab.path) == 3


async def test_a_deleted_conversation_ends_the_stream(talk: Talk) -> None:
    await talk.begin(2)
    events = talk.view().events()
    async with asyncio.timeout(LIMIT_S):
        await anext(events)
        await talk.conversations.delete(ME, talk.id)
        assert [raw.split(b"\n")[0] async for raw in events] == [b"event: gone"]


async def test_messages_of_another_conversation_are_not_given(talk: Talk) -> None:
    await talk.begin(3)
    other = (await talk.ids())[-1]
    await talk.begin(3)
    with pytest.raises(NotFound):
        await talk.view().before(other, 2)
