"""One conversation as the page sees it: messages as safe HTML blocks, and the stream of its changes.

A stream is a snapshot, then patches of the reply being written at most twenty times a second, then the finished message; a new snapshot
whenever the tree changed. Knows nothing of routes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from modules.api.sse import frame
from modules.core.errors import AppError
from modules.core.messages import split_thinking
from modules.services.app import App
from modules.services.replies import Reply

if TYPE_CHECKING:
    from modules.services.conversations import ConversationRecord, MessageRecord, Subscription

PATCH_INTERVAL_S = 0.05
PING_S = 10.0


class Update(Protocol):
    """What changed in a rendered text: replace the blocks from `first` on."""

    @property
    def first(self) -> int:
        """Index of the first changed block."""
        ...

    @property
    def blocks(self) -> Sequence[str]:
        """The new blocks from there on."""
        ...


class Streaming(Protocol):
    """Renders a growing text block by block."""

    def feed(self, text: str) -> Update:
        """Take the whole text so far."""
        ...


class ViewFunctions(Protocol):
    """What the page's routes need from the page: rendering and the folder of its scripts."""

    assets: Path

    def blocks(self, text: str) -> tuple[str, ...]:
        """Safe HTML blocks of a finished text."""
        ...

    def streaming(self) -> Streaming:
        """A renderer for one growing text."""
        ...


class ConversationView:
    """One follower's look at one conversation."""

    def __init__(self, app: App, functions: ViewFunctions, owner: str, conversation_id: str) -> None:
        self._app = app
        self._functions = functions
        self._owner = owner
        self._id = conversation_id
        self._shown: Reply | None = None  # the reply that the last snapshot showed as being written

    async def snapshot(self) -> dict[str, Any]:
        """The whole conversation."""
        record, reply = await self._read()
        self._shown = reply
        return {
            "id": record.id,
            "title": record.title,
            "rev": record.rev,
            "settings": record.settings.model_dump(mode="json"),
            "messages": [self._message(message, reply) for message in record.messages],
            "running": reply.id if reply else None,
        }

    async def _read(self) -> tuple[ConversationRecord, Reply | None]:
        """The conversation as stored and the reply being written; read again when that one ended or began meanwhile, so that both fit."""
        while True:
            reply = self._app.replies.running(self._id)
            record = await self._app.conversations.read(self._owner, self._id)
            if self._app.replies.running(self._id) is reply:
                return record, reply

    def _message(self, message: MessageRecord, reply: Reply | None) -> dict[str, Any]:
        live = reply if reply is not None and reply.id == message.id else None
        receipt = dict((live.receipt if live else message.receipt) or {})
        text = live.text if live else message.content
        thought = split_thinking(text) if message.role == "assistant" else None
        thinking = None
        if thought and (thought.thinking or thought.open):
            thinking = {
                "html": list(self._functions.blocks(thought.thinking)),
                "open": thought.open and live is not None,
                "seconds": receipt.get("thinking_s"),
            }
        return {
            "id": message.id,
            "parent_id": message.parent_id,
            "role": message.role,
            "blocks": list(self._functions.blocks(thought.answer if thought else text)),
            "images": [f"ui/messages/{message.id}/images/{place}" for place in range(len(message.images))],
            "thinking": thinking,
            "version": {"index": message.version_index, "count": message.version_count, "ids": list(message.version_ids)},
            "model": live.model if live else message.model,
            "created_s": message.created_s,
            "status": live.status if live else message.status,
            "error": live.error if live else message.error,
            "receipt": receipt or None,
        }

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
        """Snapshot, then whatever comes: changes of the tree, of the loading model, of the reply."""
        patches: _Patches | None = None
        yield frame(await self.snapshot(), "snapshot")
        while True:
            reply = self._app.replies.running(self._id) or self._shown  # one that has ended since is still to be reported
            if reply is not None and (patches is None or patches.reply is not reply):
                patches = _Patches(reply, self._functions)
            first, quiet = await _news(changes, wake, patches)
            async for item in self._of_changes([*first, *changes.pending()]):
                yield item
            if wake.is_set():
                wake.clear()
                yield self._loading()
            if patches is not None and patches.behind:
                for item in patches.take():
                    yield item
                if self._app.replies.running(self._id) is patches.reply:  # also while its end is only about to be saved
                    await asyncio.sleep(PATCH_INTERVAL_S)
                else:
                    yield await self._finished(patches.reply)
                    self._shown = None if self._shown is patches.reply else self._shown  # a snapshot may have shown the next one
                    patches = None
            elif quiet:
                yield frame({}, "ping")

    async def _of_changes(self, pending: Sequence[Any]) -> AsyncIterator[bytes]:
        for change in pending:
            if change.kind == "title":
                yield frame({"title": change.title}, "title")
        if any(change.kind != "title" for change in pending):
            yield frame(await self.snapshot(), "snapshot")

    def _loading(self) -> bytes:
        loading = self._app.models.status().loading
        return frame({"stage": loading.stage, "done": loading.done, "name": loading.name} if loading else {"stage": "", "done": None}, "loading")

    async def _finished(self, reply: Reply) -> bytes:
        message = await self._app.conversations.message(self._owner, reply.id)
        return frame(self._message(message, None), "finished")


async def _news(changes: Subscription, wake: asyncio.Event, patches: _Patches | None) -> tuple[list[Any], bool]:
    """Wait for anything new: the first change, if that was it, and whether nothing came until it was time for a ping."""
    if patches is not None and patches.behind:
        return [], False
    waits: list[asyncio.Future[Any]] = [asyncio.ensure_future(changes.get()), asyncio.ensure_future(wake.wait())]
    if patches is not None:
        waits.append(asyncio.ensure_future(patches.reply.waiter.wait()))
    try:
        done, _ = await asyncio.wait(waits, timeout=PING_S, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
    change = waits[0]
    return ([change.result()] if change in done or not change.cancelled() else []), not done


class _Patches:
    """Turns the growth of one reply into patches of blocks."""

    def __init__(self, reply: Reply, functions: ViewFunctions) -> None:
        self.reply = reply
        self.seen = -1
        self._answer = functions.streaming()
        self._thinking = functions.streaming()
        self._place: int | None = None

    @property
    def behind(self) -> bool:
        """Whether something came since the last `take`."""
        return self.seen != self.reply.version

    def take(self) -> list[bytes]:
        """Frames for what came since the last call."""
        reply = self.reply
        self.seen = reply.version
        frames = []
        place = reply.generation.place if reply.generation and not reply.text else None
        if place and place != self._place:
            self._place = place
            frames.append(frame({"id": reply.id, "place": place}, "queued"))
        thought = split_thinking(reply.text)
        update = self._answer.feed(thought.answer)
        patch: dict[str, Any] = {
            "id": reply.id,
            "from": update.first,
            "blocks": list(update.blocks),
            "thinking": None,
            "model": reply.model,
            "completion_tokens": reply.receipt.get("completion_tokens", 0),
            "tokens_per_s": reply.speed(),
        }
        if thought.thinking or thought.open:
            change = self._thinking.feed(thought.thinking)
            patch["thinking"] = {"from": change.first, "html": list(change.blocks), "open": thought.open, "seconds": reply.thinking_s}
        frames.append(frame(patch, "patch"))
        return frames
