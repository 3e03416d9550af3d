"""People take turns in what waits for one thread, however much each has asked for."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from modules.core.generation import EmbeddingRequest
from modules.engine.client import EngineClient
from modules.engine.person_turns import PersonTurns


def test_one_piece_each_in_turn_and_none_is_lost() -> None:
    done: list[str] = []
    begin = threading.Event()
    with ThreadPoolExecutor(1) as thread:
        thread.submit(begin.wait)
        turns = PersonTurns(thread)
        for person, count in (("Ann", 4), ("Ben", 1), ("Cem", 2)):
            for number in range(count):
                turns.submit(person, partial(done.append, f"{person}{number}"))
        begin.set()
    assert done == ["Ann0", "Ben0", "Cem0", "Ann1", "Cem1", "Ann2", "Ann3"]


@pytest.mark.processes
async def test_who_asks_for_one_vector_does_not_wait_for_all_of_another_person(starter_gguf: Path) -> None:
    client = await EngineClient.start(str(starter_gguf), "", {"context_length": 512, "slots": 1, "threads": 1, "threads_batch": 1}, name="Starter")
    ended: list[str] = []

    async def asked(person: str, *texts: str) -> None:
        await client.embed(EmbeddingRequest(inputs=texts, person=person))
        ended.append(person)

    try:
        many = [asyncio.create_task(asked("Ann", *["What is a LoRA? " * 20] * 24)) for _ in range(12)]
        await asyncio.sleep(0)  # hers are sent first
        await asyncio.gather(*many, asked("Ben", "Hi"))
    finally:
        await client.close()
    assert ended.index("Ben") <= 3, ended


@pytest.mark.processes
async def test_vectors_that_nobody_waits_for_any_more_are_not_made(starter_gguf: Path) -> None:
    client = await EngineClient.start(str(starter_gguf), "", {"context_length": 512, "slots": 1, "threads": 1, "threads_batch": 1}, name="Starter")
    text = "What is a LoRA? " * 100
    try:
        await client.embed(EmbeddingRequest(inputs=(text,)))
        begun_s = time.monotonic()
        await client.embed(EmbeddingRequest(inputs=(text,) * 8))
        eight_s = time.monotonic() - begun_s
        gone = [asyncio.create_task(client.embed(EmbeddingRequest(inputs=(text,) * 64))) for _ in range(4)]
        await asyncio.sleep(eight_s / 8)
        for task in gone:
            task.cancel()
        begun_s = time.monotonic()
        await client.embed(EmbeddingRequest(inputs=("Hi",)))
        assert time.monotonic() - begun_s < 8 * eight_s  # 256 texts take 32 times as long
        assert all(task.cancelled() for task in gone)
        assert client.alive
    finally:
        await client.close()


@pytest.mark.processes
async def test_scores_are_in_turns_of_people_and_stop_when_nobody_waits_for_them(starter_gguf: Path) -> None:
    client = await EngineClient.start(str(starter_gguf), "", {"context_length": 512, "slots": 1, "threads": 1, "threads_batch": 1}, name="Starter")
    ended: list[str] = []
    ids = [1, *(5 + number % 300 for number in range(500))]

    async def scored(person: str, count: int) -> None:
        await client.score(ids[:count], person=person)
        ended.append(person)

    try:
        begun_s = time.monotonic()
        many = [asyncio.create_task(scored("Ann", 500)) for _ in range(12)]
        await asyncio.sleep(0)
        ben = asyncio.create_task(scored("Ben", 10))
        while "Ben" not in ended:
            await asyncio.sleep(0.001)
        assert len(ended) <= 4, ended
        await asyncio.gather(*many, ben)
        twelve_s = time.monotonic() - begun_s
        gone = [asyncio.create_task(client.score(ids[:500], person="Ann")) for _ in range(48)]
        last = asyncio.create_task(client.score(ids[:10], person="Ann"))
        await asyncio.sleep(0)
        for task in gone:
            task.cancel()
        begun_s = time.monotonic()
        assert len(await last) == 9
        assert time.monotonic() - begun_s < 2 * twelve_s  # 48 texts take four times as long
        assert (await asyncio.gather(*gone, return_exceptions=True))[0].__class__ is asyncio.CancelledError
    finally:
        await client.close()
