"""Many clients of the API at once: each gets what it would get alone, streams flow side by side, a full queue says so, and clients take turns."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest
import pytest_asyncio

from benchmarks.many_clients import report, run_clients
from modules.core.generation import TokenLogprob
from tests.engine.ties import assert_same_but_for_ties
from tests.live.conftest import SLOW, SLOW_SLOTS, async_client_of, client_of
from tests.paddock_server import STARTER, PaddockServer, wait_for

CLIENTS = 8
QUEUE_LIMIT = 4
QUESTIONS = (
    "How do I load a model?", "What is a LoRA?", "What is a preset?", "Where do I put model files?", "How do I use the API?",
    "What is temperature?", "What is a chat template?", "What is the notebook?",
)  # fmt: skip
LONG: dict[str, Any] = {"prompt": "Once upon a time", "stream": True, "extra_body": {"ban_eos": True}}


class Numbers(dict[str, int]):
    """A number for every text of a token, as token ids are not part of OpenAI's answers."""

    def __missing__(self, text: str) -> int:
        self[text] = len(self)
        return self[text]

    def entry(self, token: Any) -> TokenLogprob:
        top = tuple(TokenLogprob(self[other.token], other.token, other.logprob) for other in token.top_logprobs)
        return TokenLogprob(self[token.token], token.token, token.logprob, top)


@pytest.fixture(scope="module", params=[STARTER, "starter"])
def crowded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, models_dir: Path, loras_dir: Path) -> Iterator[PaddockServer]:
    """The starter model as GGUF and as a transformers folder, with eight slots and a short queue."""
    flags = ("--no-ui", "--model", request.param, "--option", f"slots={CLIENTS}", "--queue-limit", str(QUEUE_LIMIT))
    running = PaddockServer(tmp_path_factory.mktemp("crowded"), models_dir, loras_dir, *flags, model=request.param)
    yield running
    running.close()


@pytest_asyncio.fixture
async def many(crowded: PaddockServer) -> AsyncIterator[openai.AsyncOpenAI]:
    async with async_client_of(crowded) as client:
        yield client


def greedy(question: str) -> dict[str, Any]:
    return {
        "model": "", "messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": 40, "logprobs": True, "top_logprobs": 5,
        "extra_body": {"ban_eos": True},
    }  # fmt: skip


async def streamed(client: openai.AsyncOpenAI, place: int, order: list[int]) -> tuple[str, list[Any]]:
    """Text and tokens of a streamed reply; `order` takes note of whose piece came when."""
    text, tokens = "", []
    async for chunk in await client.chat.completions.create(**greedy(QUESTIONS[place]), stream=True):
        choice = chunk.choices[0]
        text += choice.delta.content or ""
        tokens += choice.logprobs.content if choice.logprobs else []
        if choice.delta.content:
            order.append(place)
    return text, tokens


async def test_eight_streams_at_once_are_each_as_alone(crowded: PaddockServer, many: openai.AsyncOpenAI) -> None:
    numbers = Numbers()
    alone = [(await many.chat.completions.create(**greedy(question))).choices[0] for question in QUESTIONS]
    before = crowded.counters()
    order: list[int] = []
    connections = psutil.Process(crowded.process.pid).net_connections
    with crowded.held():  # so that they begin together
        tasks = [asyncio.create_task(streamed(many, place, order)) for place in range(CLIENTS)]
        async with asyncio.timeout(20):
            while sum(row.status == psutil.CONN_ESTABLISHED for row in connections("tcp")) < CLIENTS:
                await asyncio.sleep(0.02)
    together = await asyncio.gather(*tasks)
    assert all(text == "".join(token.token for token in tokens) for text, tokens in together)
    found = [[numbers[token.token] for token in tokens] for _, tokens in together]
    assert_same_but_for_ties(found, [[numbers.entry(token) for token in choice.logprobs.content] for choice in alone])
    first_done = min(len(order) - 1 - order[::-1].index(place) for place in range(CLIENTS))
    assert len(set(order[: first_done + 1])) == CLIENTS, "one was done before another had begun"
    after = crowded.counters()
    tokens = sum(map(len, found))
    assert after["decode_tokens"] - before["decode_tokens"] == tokens
    assert after["steps"] - before["steps"] < tokens / 2, "they did not share steps"


def test_one_more_than_the_queue_holds_is_told_its_place_and_the_limit(crowded: PaddockServer) -> None:
    client = client_of(crowded)
    for _ in range(3):  # measured, so that a wait can be told
        client.completions.create(model="", prompt="Once", max_tokens=1)
    streams = [client.completions.create(model="", max_tokens=900, **LONG) for _ in range(CLIENTS + QUEUE_LIMIT)]
    wait_for(lambda: crowded.counters()["waiting"] == QUEUE_LIMIT, "the queue is full", 10)
    assert crowded.counters()["running"] == CLIENTS
    with pytest.raises(openai.RateLimitError) as caught:
        client.chat.completions.create(**greedy(QUESTIONS[0]))
    body = caught.value.body
    assert (body["details"]["place"], body["details"]["limit"]) == (QUEUE_LIMIT + 1, QUEUE_LIMIT)
    assert f"{QUEUE_LIMIT} requests are waiting and the queue holds {QUEUE_LIMIT}, so this one would be at place {QUEUE_LIMIT + 1}" in body["message"]
    when = re.search(r"Try again in a moment\. A place should be free in about (\d+) s\.$", body["message"])
    assert when is not None and body["type"] == "rate_limit_error"
    assert caught.value.response.headers["retry-after"] == when[1]
    for stream in streams:
        stream.close()
    wait_for(lambda: crowded.counters()["running"] == 0, "all slots are free")
    assert crowded.counters()["waiting"] == 0
    assert client.chat.completions.create(**greedy(QUESTIONS[1])).choices[0].message.content


def test_a_request_for_more_choices_than_there_is_room_leaves_none_behind(crowded: PaddockServer) -> None:
    client, most = client_of(crowded), CLIENTS + QUEUE_LIMIT
    with client.completions.create(model="", max_tokens=900, **LONG), pytest.raises(openai.RateLimitError):
        client.completions.create(model="", prompt=["a", "b"], n=most // 2, max_tokens=900, extra_body={"ban_eos": True})
    with pytest.raises(openai.BadRequestError, match=f"at most {most} in one request"):  # there would never be room for them
        client.completions.create(model="", prompt=["a", "b"], n=8, max_tokens=900)
    wait_for(lambda: crowded.counters()["running"] == crowded.counters()["waiting"] == 0, "those that were accepted are ended")


async def test_clients_of_all_kinds_are_served_and_leave_nothing_behind(server: PaddockServer) -> None:
    clients, rounds = 2 * CLIENTS, 4  # the run of benchmarks/many_clients.py, only shorter; half of them wait
    figures = await run_clients(server, clients, lambda done: done < rounds)
    assert figures.errors == []
    assert sum(figures.served.values()) + figures.left == clients * rounds and figures.left > 0
    assert all(line for line in report(figures, 0))
    await asyncio.to_thread(wait_for, lambda: server.counters()["running"] == server.counters()["waiting"] == 0, "nothing is left running")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only here every 127.x.x.x is this machine")
@pytest.mark.parametrize("told_apart_by", ["user", "address"])
async def test_a_client_with_one_request_does_not_wait_for_all_of_another_one(slow: PaddockServer, told_apart_by: str) -> None:
    ends: list[str] = []
    begun_s: dict[str, float] = {}  # when they got their slot, as the server says: a busy reader may see two ends in the wrong order

    async def ask(client: openai.AsyncOpenAI, name: str, max_tokens: int, user: str) -> None:
        fields = {"user": user} if told_apart_by == "user" else {}
        messages = [{"role": "user", "content": name}]
        asked_s = time.monotonic()
        stream = await client.chat.completions.create(
            model=SLOW, messages=messages, max_tokens=max_tokens, stream=True, stream_options={"include_usage": True},
            extra_body={"ban_eos": True}, **fields,
        )  # fmt: skip
        accepted[name].set()
        async for chunk in stream:
            if chunk.usage is not None:
                begun_s[name] = asked_s + chunk.usage.timings["queue_ms"] / 1000
        ends.append(name)

    # two slots: the long one keeps its own, and through the other go those who wait, one after the other
    lengths = {"long": 3000, "short": 400, "waiting 1": 120, "waiting 2": 120, "waiting 3": 120, "modest": 40}
    accepted = {name: asyncio.Event() for name in lengths}
    transport = httpx.AsyncHTTPTransport(local_address="127.0.0.1" if told_apart_by == "user" else "127.0.0.2")
    url = f"http://127.0.0.1:{slow.port}/v1"
    async with (
        openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as greedy_one,
        openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, http_client=httpx.AsyncClient(transport=transport)) as modest_one,
    ):
        tasks = []
        for name, length in lengths.items():
            who, user = (modest_one, "modest") if name == "modest" else (greedy_one, "greedy")
            tasks.append(asyncio.create_task(ask(who, name, length, user)))
            async with asyncio.timeout(20):
                await accepted[name].wait()
        await asyncio.to_thread(wait_for, lambda: slow.counters()["waiting"] == 4, "four wait", 5)
        assert not ends, "the short one was done too early for this test"
        await asyncio.gather(*tasks[1:])
        tasks[0].cancel()
        await asyncio.gather(tasks[0], return_exceptions=True)
    # when "waiting 1" and the modest one began is known too roughly to say who was first, as it counts from when they were asked for here
    assert begun_s["modest"] < begun_s["waiting 2"] < begun_s["waiting 3"]
    wait_for(lambda: slow.counters()["running"] == 0, "the long one is ended")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only here every 127.x.x.x is this machine")
async def test_who_floods_in_many_names_is_one_person_and_everybody_is_told_place_and_wait(slow: PaddockServer) -> None:
    url = f"http://127.0.0.1:{slow.port}"
    ask = {"model": SLOW, "prompt": "Once", "max_tokens": 3000, "stream": True, "ban_eos": True}

    def rows() -> list[tuple[str, int]]:
        found = httpx.get(f"{url}/v1/internal/requests").json()["now"]
        return [(row["person"], row["place"]) for row in found if row["status"] == "waiting" and row["place"]]

    async with contextlib.AsyncExitStack() as stack:
        flood, two, one = [
            await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=60, transport=httpx.AsyncHTTPTransport(local_address=f"127.0.0.{number}")))
            for number in (1, 2, 3)
        ]
        for _ in range(3):  # measured, so that a wait can be told
            assert (await flood.post("/v1/completions", json={**ask, "max_tokens": 1, "stream": False})).status_code == 200
        streams = []
        for number, (client, user) in enumerate([(flood, f"name {number}") for number in range(6)] + [(two, "a"), (two, "b"), (one, "c")]):
            streams.append(await stack.enter_async_context(client.stream("POST", "/v1/completions", json={**ask, "user": user})))
            counted = min(number + 1, SLOW_SLOTS), max(0, number + 1 - SLOW_SLOTS)
            await asyncio.to_thread(wait_for, lambda counted=counted: (slow.counters()["running"], slow.counters()["waiting"]) == counted, "it came", 20)
        expected = [("127.0.0.1", 1), ("127.0.0.2", 2), ("127.0.0.3", 3), ("127.0.0.1", 4), ("127.0.0.2", 5), ("127.0.0.1", 6), ("127.0.0.1", 7)]
        await asyncio.to_thread(wait_for, lambda: rows() == expected, "the flood is one person", 20)
        comment = await anext(line async for line in streams[-1].aiter_lines() if line.startswith(":"))
        assert re.fullmatch(r": waiting, place [3-7], about \d+ s", comment)
    await asyncio.to_thread(wait_for, lambda: slow.counters()["running"] == slow.counters()["waiting"] == 0, "all are gone")
