"""Adapters of single requests: the field `adapters` beyond OpenAI's, through the official client, many at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.e2e.adapter_files import write_adapter
from tests.live.conftest import async_client_of, client_of
from tests.paddock_server import STARTER, PaddockServer

QUESTION = [{"role": "user", "content": "How do I load a model?"}]
GREEDY: dict[str, Any] = {"model": STARTER, "messages": QUESTION, "temperature": 0, "max_tokens": 24}
SETS: tuple[list[dict[str, Any]] | None, ...] = (
    None, [], [{"name": "odd"}], [{"name": "odd", "scale": 0}], [{"name": "even", "scale": 2}], [{"name": "odd", "scale": 2}, {"name": "even", "scale": -2}],
)  # fmt: skip


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory, models_dir: Path, starter_dir: Path) -> Iterator[PaddockServer]:
    """A server with two adapters."""
    loras = tmp_path_factory.mktemp("adapters")
    write_adapter(loras / "odd", starter_dir, rank=4)
    write_adapter(loras / "even", starter_dir, rank=2)
    running = PaddockServer(tmp_path_factory.mktemp("adapted"), models_dir, loras, "--no-ui", "--model", STARTER, "--option", "slots=4")
    yield running
    running.close()


@pytest.fixture(scope="module")
def alone(adapted: PaddockServer) -> list[str]:
    """What each set writes when nobody else asks."""
    with client_of(adapted) as client:
        return [client.chat.completions.create(**GREEDY, extra_body={"adapters": chosen}).choices[0].message.content or "" for chosen in SETS]


def test_each_set_acts_and_none_leaves_a_trace(alone: list[str]) -> None:
    plain, empty, odd, off, even, both = alone
    assert plain == empty == off
    assert len({plain, odd, even, both}) == 4


async def test_many_at_the_same_time_get_what_each_gets_alone(adapted: PaddockServer, alone: list[str]) -> None:
    async def ask(client: openai.AsyncOpenAI, place: int) -> str:
        text = ""
        stream = await client.chat.completions.create(**GREEDY, stream=True, user=str(place % 3), extra_body={"adapters": SETS[place % len(SETS)]})
        async for piece in stream:
            text += piece.choices[0].delta.content or ""
        return text

    async with async_client_of(adapted) as client:
        texts = await asyncio.gather(*(ask(client, place) for place in range(4 * len(SETS))))
    assert texts == alone * 4


def test_the_answer_names_them(adapted: PaddockServer) -> None:
    body = {**GREEDY, "adapters": [{"name": "odd", "scale": 0.5}]}
    assert adapted.ask("POST", "v1/chat/completions", body)["adapters"] == [{"name": "odd", "scale": 0.5}]
    assert "adapters" not in adapted.ask("POST", "v1/chat/completions", GREEDY)
    plain = {"model": STARTER, "prompt": "A LoRA is", "max_tokens": 3}
    assert adapted.ask("POST", "v1/completions", {**plain, "adapters": [{"name": "even"}]})["adapters"] == [{"name": "even", "scale": 1.0}]


@pytest.mark.parametrize(
    ("adapters", "status", "words"),
    [
        ([{"name": "nowhere"}], 404, "There is no adapter “nowhere”"),
        ([{"name": "odd", "scale": 5}], 400, "less than or equal to 4; got 5"),
        ([{"name": "odd"}, {"name": "odd", "scale": 2}], 400, "each adapter once"),
        ([{"name": "odd", "path": "/etc/passwd"}], 400, "path"),
        ("odd", 400, "adapters"),
    ],
)
def test_what_cannot_be_used_is_refused_with_a_sentence(adapted: PaddockServer, adapters: Any, status: int, words: str) -> None:
    with client_of(adapted) as client, pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(**GREEDY, extra_body={"adapters": adapters})
    assert caught.value.status_code == status
    assert words in caught.value.message


async def test_one_who_goes_away_while_waiting_for_other_adapters_is_forgotten(adapted: PaddockServer) -> None:
    async def until(**counts: int) -> None:
        counters: dict[str, int] = {}
        for _ in range(400):
            counters = await asyncio.to_thread(adapted.counters)
            if all(counters[name] == count for name, count in counts.items()):
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"{counts} did not happen: {counters}")

    async with async_client_of(adapted) as client:
        with adapted.slowed():
            endless = {**GREEDY, "max_tokens": 900, "stream": True}
            first = await client.chat.completions.create(**endless, extra_body={"ban_eos": True})
            await anext(aiter(first))
            second = asyncio.create_task(client.chat.completions.create(**GREEDY, extra_body={"adapters": [{"name": "odd"}]}))
            await until(running=1, waiting=1)
            second.cancel()
            await until(running=1, waiting=0)
            await first.close()
            await until(running=0)
        reply = await client.chat.completions.create(**GREEDY, extra_body={"adapters": SETS[4]})
    assert reply.choices[0].message.content
