"""Streams that last longer than what they were asked with: who logs out, is disabled or has their key revoked is sent no more of them.

For the application it is a client that left. Knows no accounts: whether somebody is still let in is asked of who made it.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from modules.api.guard import Event, Send

LOOK_AGAIN_S = 5.0


class Lasting:
    """What a stream is sent through."""

    def __init__(self, send: Send, still: Callable[[], Awaitable[bool]], look_again_s: float = LOOK_AGAIN_S) -> None:
        self._send, self._still, self._look_again_s = send, still, look_again_s
        self._looked_s = time.monotonic()
        self._ended = False

    async def send(self, event: Event) -> None:
        """Pass an event on; at the first piece for somebody who is not let in any more the answer ends."""
        if self._ended:
            return
        now_s = time.monotonic()
        if event["type"] == "http.response.body" and event.get("more_body") and now_s - self._looked_s >= self._look_again_s:
            self._looked_s = now_s
            if not await self._still():
                self._ended = True
                event = {"type": "http.response.body", "body": b"", "more_body": False}
        await self._send(event)
