"""Clients that go away: whatever their request was doing, its slot or its place in the queue is free and nothing is computed for it any more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio

from tests.live.conftest import SLOW, async_client_of
from tests.live.conftest import SLOW_SLOTS as SLOTS
from tests.paddock_server import PaddockServer, wait_for

FREE_WITHIN_S = 5
PROMPT_TOKENS = 6000
MAX_TOKENS = 2000
PROMPT_ID = 300
WITHOUT_END = {"ban_eos": True}
SHORT = {"model": SLOW, "prompt": "Hello", "max_tokens": 3, "extra_body": WITHOUT_END}

TALK = {"messages": [{"role": "user", "content": "Hello"}]}
EVERY_ROUTE = (
    ("v1/chat/completions", {**TALK, "max_tokens": MAX_TOKENS, **WITHOUT_END}), ("v1/completions", {"prompt": "Hello", "max_tokens": MAX_TOKENS, **WITHOUT_END}),
    ("v1/messages", {**TALK, "max_tokens": MAX_TOKENS, **WITHOUT_END}), ("v1/responses", {"input": "Hello", "max_output_tokens": MAX_TOKENS, **WITHOUT_END}),
    ("api/chat", {**TALK, "options": {"num_predict": MAX_TOKENS, **WITHOUT_END}}), ("api/generate", {"prompt": "Hello", "options": {"num_predict": MAX_TOKENS, **WITHOUT_END}}),
)  # fmt: skip


@pytest_asyncio.fixture
async def visitor(slow: PaddockServer) -> AsyncIterator[openai.AsyncOpenAI]:
    async with async_client_of(slow) as client:
        yield client


class Leaving:
    """What the engine counted while a request was left."""

    def __init__(self, server: PaddockServer) -> None:
        self._server = server
        self._before = server.counters()
        assert self._before["running"] == self._before["waiting"] == 0

    def since(self, name: str) -> int:
        """How much a counter grew."""
        return self._server.counters()[name] - self._before[name]

    async def until(self, name: str, least: int) -> None:
        """Wait for a counter to have grown."""
        await asyncio.to_thread(wait_for, lambda: self.since(name) >= least, f"{name} grew by {least}")

    async def freed(self, cancelled: int) -> None:
        """All slots are free soon, so many were cancelled, and the next request has the engine for itself."""
        await asyncio.to_thread(wait_for, lambda: self._server.counters()["running"] == 0, "the slots are free", FREE_WITHIN_S)
        after = self._server.counters()
        assert after["cancelled"] - self._before["cancelled"] == cancelled
        assert after["waiting"] == 0
        self._server.ask("POST", "v1/completions", {"model": SLOW, "prompt": "Hello", "max_tokens": 3, **WITHOUT_END})
        later = self._server.counters()
        assert later["decode_tokens"] - after["decode_tokens"] == 3, "it was still being written"
        assert later["cancelled"] == after["cancelled"]


@pytest.fixture
def leaving(slow: PaddockServer) -> Leaving:
    return Leaving(slow)


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": SLOW, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": MAX_TOKENS, "extra_body": WITHOUT_END, **fields}


def reading(**fields: Any) -> dict[str, Any]:
    """A request whose prompt takes ten seconds to read."""
    return {"model": SLOW, "max_tokens": MAX_TOKENS, "extra_body": WITHOUT_END, **fields}


async def abandon(task: asyncio.Task[Any]) -> None:
    """Close the connection of a request under way."""
    assert not task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_in_the_middle_of_a_stream(visitor: openai.AsyncOpenAI, leaving: Leaving) -> None:
    stream = await visitor.chat.completions.create(**chat(stream=True, n=SLOTS))
    pieces = 0
    async for _ in stream:
        pieces += 1
        if pieces == 6:
            break
    await stream.close()
    await leaving.freed(cancelled=SLOTS)
    assert leaving.since("decode_tokens") < SLOTS * MAX_TOKENS / 2


async def test_in_the_middle_of_a_whole_reply(visitor: openai.AsyncOpenAI, leaving: Leaving) -> None:
    task = asyncio.create_task(visitor.chat.completions.create(**chat()))
    await leaving.until("decode_tokens", 5)
    await abandon(task)
    await leaving.freed(cancelled=1)
    assert leaving.since("decode_tokens") < MAX_TOKENS / 2


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("path", "body"), EVERY_ROUTE, ids=[path for path, _ in EVERY_ROUTE])
async def test_every_route_that_writes_frees_its_slot(slow: PaddockServer, leaving: Leaving, path: str, body: dict[str, Any], stream: bool) -> None:
    async def ask() -> None:
        async with httpx.AsyncClient(base_url=slow.url, timeout=60) as http, http.stream("POST", path, json={"model": SLOW, "stream": stream, **body}) as answer:
            assert answer.status_code == 200 and stream, await answer.aread()
            async for _ in answer.aiter_lines():
                come.set()

    come = asyncio.Event()
    task = asyncio.create_task(ask())
    await leaving.until("decode_tokens", 5)
    if stream:
        async with asyncio.timeout(20):
            await come.wait()
    await abandon(task)
    await leaving.freed(cancelled=1)
    assert leaving.since("decode_tokens") < MAX_TOKENS / 2


@pytest.mark.parametrize("stream", [True, False])
async def test_while_the_prompt_is_read(visitor: openai.AsyncOpenAI, leaving: Leaving, stream: bool) -> None:
    async def ask() -> None:
        ids = [PROMPT_ID + stream] * PROMPT_TOKENS  # another prompt each time: no cache to continue
        answer = await visitor.completions.create(**reading(stream=stream, prompt=ids))
        async for _ in answer:
            raise AssertionError("the prompt was read to its end before the client left")

    task = asyncio.create_task(ask())
    await leaving.until("prefill_tokens", 1)
    await abandon(task)
    await leaving.freed(cancelled=1)
    assert 0 < leaving.since("prefill_tokens") < PROMPT_TOKENS
    assert leaving.since("decode_tokens") == 3, "only the request after it may have written"


async def test_while_waiting_for_a_slot(visitor: openai.AsyncOpenAI, slow: PaddockServer, leaving: Leaving) -> None:
    running = await visitor.chat.completions.create(**chat(stream=True, n=SLOTS, max_tokens=400))
    waiting = asyncio.create_task(visitor.chat.completions.create(**chat()))
    await asyncio.to_thread(wait_for, lambda: slow.counters()["waiting"] == 1, "one waits")
    await abandon(waiting)
    await asyncio.to_thread(wait_for, lambda: slow.counters()["waiting"] == 0, "nobody waits", FREE_WITHIN_S)
    assert slow.counters()["running"] == SLOTS
    reasons = [chunk.choices[0].finish_reason async for chunk in running]
    assert reasons.count("length") == SLOTS  # the others were not disturbed
    assert leaving.since("decode_tokens") == SLOTS * 400
    await leaving.freed(cancelled=1)


async def test_the_others_do_not_notice(visitor: openai.AsyncOpenAI, leaving: Leaving) -> None:
    alone = await visitor.completions.create(**{**SHORT, "max_tokens": 300, "seed": 5})
    stays = asyncio.create_task(visitor.completions.create(**{**SHORT, "max_tokens": 300, "seed": 5}))
    leaves = await visitor.chat.completions.create(**chat(stream=True))
    await anext(aiter(leaves))
    await leaves.close()
    done = await stays
    assert done.usage.completion_tokens == alone.usage.completion_tokens == 300
    assert done.choices[0].text == alone.choices[0].text
    await leaving.freed(cancelled=1)


async def test_many_who_leave_at_once(visitor: openai.AsyncOpenAI, slow: PaddockServer, leaving: Leaving) -> None:
    tasks = [asyncio.create_task(visitor.chat.completions.create(**chat())) for _ in range(6)]
    await asyncio.to_thread(wait_for, lambda: slow.counters()["waiting"] == 6 - SLOTS, "four wait")
    await asyncio.gather(*map(abandon, tasks))
    await leaving.freed(cancelled=6)
