"""What the tests of the client do again and again."""

from __future__ import annotations

import asyncio
import sys
import time

from modules.core.generation import GenerationRequest, TextPrompt
from modules.core.params import GenerationParams

COMMAND = (sys.executable, "-m", "tests.engine.fake_child")
GREEDY = GenerationParams(temperature=0, max_tokens=20)
ENDLESS = GenerationParams(temperature=0)


def text(content: str, params: GenerationParams = GREEDY, client: str = "") -> GenerationRequest:
    return GenerationRequest(prompt=TextPrompt(text=content), params=params, client=client)


async def ids_of(generation) -> list[int]:
    return [token_id async for delta in generation for token_id in delta.token_ids]


async def until(condition, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < end, "did not happen in time"
        await asyncio.sleep(0.005)
