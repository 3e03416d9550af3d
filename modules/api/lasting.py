"""Streams that last longer than what they were asked with: who logs out, is disabled or has their key revoked is sent no more of them.

For the application it is a client that left; a client of the API is told why nothing more comes, in the shape in which it reads errors. Knows no accounts: whether
somebody is still let in is asked of who made it.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from modules.api.answers import json_bytes
from modules.api.anthropic_errors import anthropic_shape
from modules.api.errors import error_body
from modules.api.guard import Event, Scope, Send, route_path
from modules.api.ollama_errors import ollama_shape
from modules.api.sse import frame

LOOK_AGAIN_S = 5.0
STREAMS = (b"text/event-stream", b"application/x-ndjson")
ENDED = "Whoever asked for this is no longer let in: the key was revoked, the account disabled, or the login ended. Ask for what is missing with a key that is good."


class Lasting:
    """What a stream is sent through."""

    def __init__(self, send: Send, still: Callable[[], Awaitable[bool]], scope: Scope, look_again_s: float = LOOK_AGAIN_S) -> None:
        self._send, self._still, self._scope, self._look_again_s = send, still, scope, look_again_s
        self._looked_s = time.monotonic()
        self._ended = self._is_stream = False

    async def send(self, event: Event) -> None:
        """Pass an event on; at the first piece for somebody who is not let in any more the answer ends."""
        if self._ended:
            return
        if event["type"] == "http.response.start":
            self._is_stream = any(name.lower() == b"content-type" and value.startswith(STREAMS) for name, value in event.get("headers", []))
        now_s = time.monotonic()
        if event["type"] == "http.response.body" and event.get("more_body") and now_s - self._looked_s >= self._look_again_s:
            self._looked_s = now_s
            if not await self._still():
                self._ended = True
                event = {"type": "http.response.body", "body": last_words(self._scope) if self._is_stream else b"", "more_body": False}
        await self._send(event)


def last_words(scope: Scope) -> bytes:
    """What such a stream of the API ends with; nothing for one of the page, which asks again by itself."""
    if (ollama := ollama_shape(scope)) is not None:
        return json_bytes(ollama(401, ENDED)) + b"\n"
    if (anthropic := anthropic_shape(scope)) is not None:
        return frame(anthropic(401, ENDED), "error")
    return frame(error_body(ENDED, "invalid_request_error", code="invalid_api_key")) if route_path(scope).startswith("/v1/") else b""
