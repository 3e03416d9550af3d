"""Server-sent events: framing, keep-alive and the end of a stream when the client is gone.

Source: WHATWG HTML, section "Server-sent events".
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import Any, TypeVar

from fastapi import Request

from modules.api.answers import json_bytes
from modules.api.streamed import Streamed

T = TypeVar("T")
DISCONNECT_POLL_S = 0.2
HEADERS = (("cache-control", "no-store"), ("x-accel-buffering", "no"))


def frame(data: Any, event: str = "") -> bytes:
    """One event; `data` becomes one line of JSON."""
    head = f"event: {event}\n" if event else ""
    return head.encode() + b"data: " + json_bytes(data) + b"\n\n"


def stream(events: AsyncIterator[bytes]) -> Streamed:
    """A streaming response; the iterator is closed as soon as the client is gone."""
    return Streamed(events, media_type="text/event-stream", headers=dict(HEADERS))


async def unless_gone(request: Request, work: Awaitable[T]) -> T | None:
    """Wait for `work`, but cancel it and return None as soon as the client has gone away."""
    task = asyncio.ensure_future(work)
    try:
        while not task.done():
            await asyncio.wait({task}, timeout=DISCONNECT_POLL_S)
            if not task.done() and await request.is_disconnected():
                return None
        return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
