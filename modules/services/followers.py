"""Who is looking: streams that follow a text being written, and pages that are on their way.

What nobody looks at any more need not be written on. Leaving is told by the page itself when its tab is closed or loaded anew; a connection
that merely broke, or a tab in the background that gave its stream back, is not leaving. Knows no text and no engine.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

DETACH_S = 3.0  # a closed tab's own stream is seen to end within this time
RETURN_S = 20.0  # a page that was asked for opens its stream within this time, also on a slow machine
LOOK_S = 0.02


class Followers:
    """Counts followers by a key: the id of a conversation, or the name of a notebook. One event loop uses it."""

    def __init__(self) -> None:
        self._following: Counter[str] = Counter()
        self._expected_s: dict[str, float] = {}

    @contextmanager
    def follow(self, key: str) -> Iterator[None]:
        """Be a follower."""
        self._expected_s.pop(key, None)
        self._following[key] += 1
        try:
            yield
        finally:
            self._following[key] -= 1
            if not self._following[key]:
                del self._following[key]

    def expect(self, key: str) -> None:
        """A page that will follow was asked for; a reload asks for it before the old page leaves."""
        now_s = time.monotonic()
        self._expected_s = {other: since_s for other, since_s in self._expected_s.items() if now_s - since_s < RETURN_S}
        self._expected_s[key] = now_s

    async def left(self, key: str) -> bool:
        """After a page said that it leaves: whether nobody follows any more and nobody is about to."""
        if not await self._until(lambda: not self._following[key], DETACH_S):
            return False
        expected_s = self._expected_s.get(key)
        if expected_s is None:
            return True
        return not await self._until(lambda: key not in self._expected_s, expected_s + RETURN_S - time.monotonic())

    async def _until(self, condition: Callable[[], bool], limit_s: float) -> bool:
        end_s = time.monotonic() + limit_s
        while not condition():
            if time.monotonic() >= end_s:
                return False
            await asyncio.sleep(LOOK_S)
        return True
