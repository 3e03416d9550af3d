"""Steps of the tests of a pool: a request, its whole text, an address that is preferred."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from modules.core.generation import ChatPrompt, Delta, GenerationRequest
from modules.core.messages import Message
from modules.loaders.remote.backend import Backend, Times
from modules.loaders.remote.pool import Pool
from modules.loaders.remote.requests import Ask
from tests.openai_upstream import Upstream

QUICK = Times(check_interval_s=0.05, check_s=0.3, connect_s=1.0, silence_s=5.0)
ASK = Ask(GenerationRequest(prompt=ChatPrompt(messages=(Message(role="user", content="Hi"),))), "tale", 3)
CHAT = "/v1/chat/completions"


async def write(pool: Pool, ask: Ask = ASK, deltas: list[Delta] | None = None) -> str:
    """The whole text of a reply."""
    found: list[Delta] = [] if deltas is None else deltas
    await pool.write(ask, found.append, lambda: None)
    assert found[-1].finish_reason == "stop"
    return "".join(delta.text for delta in found)


async def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        await asyncio.sleep(0.005)


def preferring(pool: Pool, upstream: Upstream) -> Backend:
    """Make all other addresses look busier."""
    for backend in pool.backends:
        backend.busy = 0 if backend.url == upstream.url else 1
    return next(backend for backend in pool.backends if backend.url == upstream.url)
