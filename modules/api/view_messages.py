"""One conversation as the page sees it: messages as safe HTML blocks, and the stream of its changes.

A stream is a snapshot of the last messages, then what changed: of the tree the messages that are new or others now, of replies being written their
new blocks at most twenty times a second, and their ends. A snapshot comes again only where anything may have changed. Knows no routes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from modules.api.sse import frame
from modules.api.view_growth import PATCH_INTERVAL_S, Growths, Patches, Rendering
from modules.core.errors import AppError, NotFound
from modules.core.messages import split_thinking
from modules.services.app import App
from modules.services.conversation_paths import KnownPath
from modules.services.receipts import short
from modules.services.replies import Reply

if TYPE_CHECKING:
    from modules.services.conversations import ConversationChange, MessageRecord, Subscription

T = TypeVar("T")
PING_S = 10.0
WINDOW = 40  # messages of a snapshot in a stream; the page asks for those before them
RENDER_TURN_S = 0.01  # how long others wait while messages are rendered


class ViewFunctions(Rendering, Protocol):
    """What the page's routes need from the page: rendering, the folder of its scripts, and the last touch to the page itself."""

    assets: Path
    assets_version: str
    fonts: Path

    def blocks(self, text: str) -> tuple[str, ...]:
        """Safe HTML blocks of a finished text."""
        ...

    def whole_page(self, html: bytes) -> bytes:
        """What is sent of the page that Gradio made."""
        ...


class MessageRendering:
    """Messages as the page shows them. One for all views: what is being written is rendered once for all who follow it."""

    def __init__(self, functions: ViewFunctions) -> None:
        self._functions = functions
        self.growths = Growths(functions)

    async def all(self, messages: Iterable[MessageRecord], growing: Callable[[str], Patches | None]) -> list[dict[str, Any]]:
        """Messages one after the other; many of them do not keep others waiting."""
        shown, begun_s = [], time.monotonic()
        for message in messages:
            shown.append(self.one(message, growing(message.id)))
            if time.monotonic() - begun_s > RENDER_TURN_S:
                await asyncio.sleep(0)
                begun_s = time.monotonic()
        return shown

    def one(self, message: MessageRecord, growing: Patches | None) -> dict[str, Any]:
        """A message, or what is there of it so far."""
        live = growing.reply if growing else None
        receipt = short(live.receipt if live else message.receipt)
        return {
            "id": message.id,
            "parent_id": message.parent_id,
            "role": message.role,
            "speaker": message.speaker,
            **(self._so_far(growing, receipt) if growing else self._whole(message, receipt)),
            "images": [f"ui/messages/{message.id}/images/{place}" for place in range(len(message.images))],
            "version": {"index": message.version_index, "count": message.version_count, "ids": list(message.version_ids)},
            "model": live.model if live else message.model,
            "created_s": message.created_s,
            "status": live.status if live else message.status,
            "error": live.error if live else message.error,
            "receipt": receipt,
            "rating": message.rating,
            "pinned": message.pinned,
            "files": [asdict(file) for file in message.files],
        }

    def _so_far(self, growing: Patches, receipt: dict[str, Any] | None) -> dict[str, Any]:
        look = growing.told()
        seconds = (receipt or {}).get("thinking_s")
        return {"blocks": look.answer, "thinking": {"html": look.thinking, "open": look.open, "seconds": seconds} if look.has_thinking else None}

    def _whole(self, message: MessageRecord, receipt: dict[str, Any] | None) -> dict[str, Any]:
        thought = split_thinking(message.content) if message.role == "assistant" else None
        if thought is None or not (thought.thinking or thought.open):
            return {"blocks": self._functions.blocks(thought.answer if thought else message.content), "thinking": None}
        thinking = {"html": self._functions.blocks(thought.thinking), "open": False, "seconds": (receipt or {}).get("thinking_s")}
        return {"blocks": self._functions.blocks(thought.answer), "thinking": thinking}


class ConversationView:
    """One follower's look at one conversation."""

    def __init__(self, app: App, rendering: MessageRendering, owner: str, conversation_id: str) -> None:
        self._app = app
        self._rendering = rendering
        self._owner = owner
        self._id = conversation_id
        self._growing: dict[str, Patches] = {}  # replies that are shown as being written, whose ends are still to be told
        self._path = KnownPath()  # what the follower was told
        self._window = 0  # where the messages begin that it was told with that
        self._settings: dict[str, Any] = {}

    async def snapshot(self, count: int | None = None) -> dict[str, Any]:
        """The whole conversation, or its last messages."""
        shown, together, running = await self._steady(lambda: self._app.conversations.paths.end(self._owner, self._id, count), lambda end: end.path)
        self._path, self._window = KnownPath(shown.path), len(shown.path) - len(shown.messages)
        self._settings = shown.settings.model_dump(mode="json")
        return {
            "id": shown.id,
            "title": shown.title,
            "rev": shown.rev,
            "settings": self._settings,
            "messages": await self._messages(shown.messages, running),
            "together": await self._messages(together, running),
            "running": [reply.id for reply in running],
        }

    async def before(self, message_id: str, count: int) -> list[dict[str, Any]]:
        """The messages that lead to one, at most so many."""
        running = self._app.replies.all_running(self._id)
        found = await self._app.conversations.paths.before(self._owner, message_id, count)
        if found and found[0].conversation_id != self._id:
            raise NotFound("This message belongs to another conversation; reload the page.")
        return await self._messages(found, running)

    async def _changed(self, touched: Iterable[str]) -> bytes:
        """What became of the messages that the follower knows."""
        known = self._path
        change, together, running = await self._steady(
            lambda: self._app.conversations.paths.since(self._owner, self._id, known, touched),
            lambda change: () if change is None else [message.id for message in change.added[-1:]] or known.ids[: change.kept][-1:],
        )
        if change is None or 0 < self._window >= change.kept:  # of those that stay the follower may know none
            return frame(await self.snapshot(WINDOW), "snapshot")
        after = known.ids[change.kept - 1] if change.kept else None
        known.go_on(change.kept, [message.id for message in change.added])
        settings = change.settings.model_dump(mode="json")
        told = {} if settings == self._settings else {"settings": settings}
        self._settings = settings
        return frame({
            **told,
            "title": change.title,
            "rev": change.rev,
            "after": after,
            "added": await self._messages(change.added, running),
            "changed": await self._messages(change.changed, running),
            "together": await self._messages(together, running),
            "running": [reply.id for reply in running],
        }, "change")  # fmt: skip

    async def _steady(self, read: Callable[[], Awaitable[T]], path: Callable[[T], Sequence[str]]) -> tuple[T, list[MessageRecord], tuple[Reply, ...]]:
        """Something as stored, versions to choose from, and the replies being written; read again when one of these ended meanwhile."""
        while True:
            running = self._app.replies.all_running(self._id)
            found = await read()
            together = await self._together(path(found))
            if self._app.replies.all_running(self._id) == running:
                return found, together, running

    async def _together(self, path: Sequence[str]) -> list[MessageRecord]:
        """The versions written together, while the last message shown is one of them and none was picked."""
        asked = self._app.replies.together(self._id)
        if not path or path[-1] not in asked:
            return []
        try:
            last = await self._app.conversations.message(self._owner, path[-1])
            left = [message_id for message_id in asked if message_id in last.version_ids]
            return [await self._app.conversations.message(self._owner, message_id) for message_id in left] if len(left) > 1 else []
        except NotFound:  # deleted just now, which is the next change
            return []

    async def _messages(self, messages: Iterable[MessageRecord], running: Sequence[Reply]) -> list[dict[str, Any]]:
        for reply in running:
            self._follow(reply)
        live = {reply.id for reply in running}
        return await self._rendering.all(messages, lambda message_id: self._growing[message_id] if message_id in live else None)

    def _follow(self, reply: Reply) -> None:
        found = self._growing.get(reply.id)
        if found is None or found.reply is not reply:  # the same message can grow again
            self._growing[reply.id] = Patches(reply, self._rendering.growths.of(reply))

    # ---- the stream ------------------------------------------------------------------------------------------------

    async def events(self) -> AsyncIterator[bytes]:
        """Frames of the stream; ends when the conversation is deleted."""
        with self._app.followers.follow(self._id), self._app.conversations.subscribe(self._id) as changes:
            wake = asyncio.Event()
            unwatch = self._app.models.watch(wake.set)
            try:
                async for item in self._frames(changes, wake):
                    yield item
            except AppError as error:
                yield frame({"message": error.message}, "gone")
            finally:
                unwatch()

    async def _frames(self, changes: Subscription, wake: asyncio.Event) -> AsyncIterator[bytes]:
        """Snapshot, then whatever comes: changes of the tree, of the loading model, of the replies."""
        yield frame(await self.snapshot(WINDOW), "snapshot")
        while True:
            for reply in self._app.replies.all_running(self._id):
                self._follow(reply)
            first, quiet = await _news(changes, wake, list(self._growing.values()))
            async for item in self._of_changes([*first, *changes.pending()]):
                yield item
            if wake.is_set():
                wake.clear()
                yield self._loading()
            behind = [patches for patches in self._growing.values() if patches.behind]
            for patches in behind:
                news = patches.take()
                if news:
                    yield news
                if not self._still_written(patches):
                    del self._growing[patches.reply.id]
                    yield await self._finished(patches.reply)
            if behind and self._growing:
                await asyncio.sleep(PATCH_INTERVAL_S)
            elif not behind and quiet:
                yield frame({}, "ping")

    async def _of_changes(self, pending: Sequence[ConversationChange]) -> AsyncIterator[bytes]:
        for change in pending:
            if change.kind == "title":
                yield frame({"title": change.title}, "title")
        others = [change.message_ids for change in pending if change.kind != "title"]
        if None in others:
            yield frame(await self.snapshot(WINDOW), "snapshot")
        elif others:
            yield await self._changed(dict.fromkeys(message_id for touched in others for message_id in touched or ()))

    def _loading(self) -> bytes:
        loading = self._app.models.status().loading
        return frame({"stage": loading.stage, "done": loading.done, "name": loading.name} if loading else {"stage": "", "done": None}, "loading")

    def _still_written(self, patches: Patches) -> bool:
        """So while its end is only about to be saved, and where the same message has begun to grow again."""
        return patches.reply in self._app.replies.all_running(self._id) or self._growing.get(patches.reply.id) is not patches

    async def _finished(self, reply: Reply) -> bytes:
        message = await self._app.conversations.message(self._owner, reply.id)
        return frame(self._rendering.one(message, None), "finished")


async def _news(changes: Subscription, wake: asyncio.Event, growing: Sequence[Patches]) -> tuple[list[ConversationChange], bool]:
    """Wait for anything new: the first change, if that was it, and whether nothing came until it was time for a ping."""
    if any(patches.behind for patches in growing):
        return [], False
    waits: list[asyncio.Future[Any]] = [asyncio.ensure_future(changes.get()), asyncio.ensure_future(wake.wait())]
    waits += [asyncio.ensure_future(patches.reply.waiter.wait()) for patches in growing]
    try:
        done, _ = await asyncio.wait(waits, timeout=PING_S, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
    change = waits[0]
    return ([change.result()] if change in done or not change.cancelled() else []), not done
