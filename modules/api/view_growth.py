"""How replies that are being written look so far: each is rendered once, however many follow it, and each follower gets what is new to it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol
from weakref import WeakKeyDictionary

from modules.api.sse import frame
from modules.core.messages import split_thinking

if TYPE_CHECKING:
    from modules.services.replies import Reply

PATCH_INTERVAL_S = 0.05
RENDER_AFTER_S = 0.8 * PATCH_INTERVAL_S  # what another follower had rendered less than that ago is new enough


class Update(Protocol):
    """A rendered text after it grew."""

    @property
    def blocks(self) -> Sequence[str]:
        """All its blocks; those that did not change are the same strings as before."""
        ...


class Streaming(Protocol):
    """Renders a growing text block by block."""

    def feed(self, text: str) -> Update:
        """Take the whole text so far."""
        ...


class Rendering(Protocol):
    """Makes renderers of growing texts."""

    def streaming(self) -> Streaming:
        """A renderer for one growing text."""
        ...


class Look(NamedTuple):
    """A reply as it looked at one of its versions."""

    version: int = -1
    answer: tuple[str, ...] = ()
    thinking: tuple[str, ...] = ()
    has_thinking: bool = False
    open: bool = False  # whether it still thinks


class Growth:
    """One reply, rendered as it grows."""

    def __init__(self, reply: Reply, rendering: Rendering) -> None:
        self._reply = reply
        self._answer, self._thinking = rendering.streaming(), rendering.streaming()
        self._look = Look()
        self._rendered_s = 0.0

    def look(self) -> Look:
        """How it looks now, or looked a moment ago while it is written."""
        reply = self._reply
        fresh = reply.running and time.monotonic() - self._rendered_s < RENDER_AFTER_S
        if self._look.version == reply.version or (fresh and self._look.version >= 0):
            return self._look
        thought = split_thinking(reply.text)
        has_thinking = bool(thought.thinking) or thought.open
        thinking = tuple(self._thinking.feed(thought.thinking).blocks) if has_thinking else ()
        self._look = Look(reply.version, tuple(self._answer.feed(thought.answer).blocks), thinking, has_thinking, thought.open)
        self._rendered_s = time.monotonic()
        return self._look


class Growths:
    """The replies that are being written and followed; each is forgotten with its reply."""

    def __init__(self, rendering: Rendering) -> None:
        self._rendering = rendering
        self._growths: WeakKeyDictionary[Reply, Growth] = WeakKeyDictionary()

    def of(self, reply: Reply) -> Growth:
        """The growth of a reply, one for all who follow it."""
        growth = self._growths.get(reply)
        if growth is None:
            growth = self._growths[reply] = Growth(reply, self._rendering)
        return growth


class Patches:
    """What one follower still has to get of one reply."""

    def __init__(self, reply: Reply, growth: Growth) -> None:
        self.reply = reply
        self._growth = growth
        self._seen = Look()
        self._place: int | None = None
        self._queued = False  # whether a place was told: until there is text, that stands and no empty text takes it away
        self._doing = ""

    @property
    def behind(self) -> bool:
        """Whether something came since the last `take`."""
        return self._seen.version != self.reply.version

    def told(self) -> Look:
        """How the reply looks now, for a message that is sent whole; what comes later goes on from there."""
        self._seen = self._growth.look()
        return self._seen

    def take(self) -> bytes:
        """Frames for what is new; empty where that is not rendered yet."""
        reply, before = self.reply, self._seen
        frames = []
        place = reply.generation.place if reply.generation and not reply.text else None
        if place != self._place and not reply.text:
            self._place, self._queued = place, True
            frames.append(frame({"id": reply.id, "place": place or 0, "expected_s": reply.generation.expected_s if reply.generation else None}, "queued"))
        if reply.doing != self._doing:
            self._doing = reply.doing
            frames.append(frame({"id": reply.id, "place": 0, "doing": reply.doing}, "queued"))
        look = self._seen = self._growth.look()
        if look.version == before.version or reply.doing or (self._queued and not reply.text):
            return b"".join(frames)
        first = _same(before.answer, look.answer)
        patch: dict[str, Any] = {
            "id": reply.id,
            "from": first,
            "blocks": look.answer[first:],
            "thinking": None,
            "model": reply.model,
            "completion_tokens": reply.receipt.get("completion_tokens", 0),
            "tokens_per_s": reply.speed(),
        }
        if look.has_thinking:
            first = _same(before.thinking, look.thinking)
            patch["thinking"] = {"from": first, "html": look.thinking[first:], "open": look.open, "seconds": reply.thinking_s}
        return b"".join((*frames, frame(patch, "patch")))


def _same(before: Sequence[str], after: Sequence[str]) -> int:
    """How many blocks at the beginning are the same."""
    for place, (one, other) in enumerate(zip(before, after, strict=False)):
        if one != other:
            return place
    return min(len(before), len(after))
