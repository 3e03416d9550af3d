"""Usage is added up by person, day and model, outlives the server, and a quota refuses who has had enough for today."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from modules.core.errors import AppError, QuotaExceeded
from modules.core.generation import Delta, Started, Usage
from modules.core.person import Person, asked_by
from modules.core.settings import Settings
from modules.engine.client_generation import ClientGeneration, Inbox
from modules.services.storage import Storage
from modules.services.usage import Spender, Spent, UsageService

NOON = 1_800_014_400.0 - 1_800_014_400 % 86_400 + 12 * 3600


class Clock:
    now_s = NOON

    def __call__(self) -> float:
        return self.now_s


async def no_cancel(forget: bool) -> None:
    """Nothing runs."""


KEPT: list[ClientGeneration] = []


def begun(usage: UsageService, model: str = "m") -> Inbox:
    inbox = Inbox()
    KEPT.append(ClientGeneration(inbox, model, no_cancel))
    usage.begun(KEPT[-1])
    inbox.start(Started(10, 4, 0, 1))
    return inbox


async def test_what_ended_is_added_up_kept_and_told_by_person(tmp_path: Path) -> None:
    clock, storage = Clock(), Storage(tmp_path)
    usage = UsageService(storage, Settings(), clock)
    whole, broken = begun(usage), begun(usage)
    whole.push(Delta("a", (1,) * 5, finish_reason="stop", usage=Usage(10, 4, 5, prefill_s=0.25, decode_s=0.5)))
    with asked_by(Person("ann")):
        other = begun(usage)
        usage.spent("embedder", Usage(prompt_tokens=7), 1.0)
        other.push(Delta("a", (1, 1)))
    other.fail(AppError("It died."))  # what it wrote was computed all the same
    broken.abandon()
    itself = Inbox()
    usage.begun(ClientGeneration(itself, "m", no_cancel), by_itself=True)
    itself.push(Delta(finish_reason="stop", usage=Usage(3)))
    before = await usage.everybody(1)
    assert before[Spender("local", usage.today, "m")].requests == 2
    assert before[Spender("", usage.today, "m")].prompt_tokens == 3
    assert before[Spender("ann", usage.today, "m")].counted_tokens == 10 - 4 + 2
    await usage.close()
    await storage.close()

    storage = Storage(tmp_path)
    usage = UsageService(storage, Settings(), clock)
    assert await usage.everybody(1) == before
    own = await usage.own(1)
    assert list(own) == [Spender("local", usage.today, "m")]
    assert own[Spender("local", usage.today, "m")].completion_tokens == 5
    assert own[Spender("local", usage.today, "m")].compute_s >= 0.75
    usage.note("ann", "m", Spent(1, 1))
    clock.now_s += 24 * 3600
    usage.note("ann", "m", Spent(1, 1))
    with asked_by(Person("ann")):
        assert [(who.day[-2:], spent.prompt_tokens) for who, spent in (await usage.own(2)).items()] == [("16", 1), ("15", 7), ("15", 11)]
        assert len(await usage.own(1)) == 1
    await usage.close()
    await storage.close()


async def test_a_quota_is_looked_at_before_a_request_and_begins_anew_at_midnight(tmp_path: Path) -> None:
    clock, storage = Clock(), Storage(tmp_path)
    usage = UsageService(storage, Settings(daily_tokens=100), clock)
    for person in (None, Person("ann")):
        with asked_by(person) if person else asked_by(Person("local")):
            await usage.check()
            running = begun(usage)
            running.push(Delta("a", (1, 1)))
            assert (await usage.quota()).used_tokens == 10 - 4 + 2  # of one that runs as far as it has come
            running.push(Delta("", (), finish_reason="stop", usage=Usage(1000, 950, 49)))
            await usage.check()
            assert (await usage.quota()).used_tokens == 99
            await usage.close()  # what is written counts as well
            usage.spent("m", Usage(prompt_tokens=1), 0)
            with pytest.raises(QuotaExceeded, match=r"100 tokens a day is reached: 100 were .* 00:00 UTC, in 12 h 0 min") as caught:
                await usage.check()
            assert caught.value.details == {"limit": 100, "used": 100, "retry_after_s": 12 * 3600}
    clock.now_s += 12 * 3600
    await usage.check()
    await usage.close()
    await storage.close()


async def test_what_cannot_be_written_is_kept_for_the_next_time(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    usage = UsageService(storage, Settings(), Clock())
    await storage.open()

    async def full(work: object) -> None:
        raise AppError("The disk is full.")

    usual, storage.run = storage.run, full  # type: ignore[method-assign, assignment]
    usage.note("ann", "m", Spent(1, 5))
    await usage.close()
    storage.run = usual  # type: ignore[method-assign]
    usage.note("ann", "m", Spent(1, 5))
    await asyncio.gather(usage.close(), usage.everybody(1))
    assert await usage.everybody(1) == {Spender("ann", usage.today, "m"): Spent(2, 10)}
    await storage.close()


async def test_what_is_being_written_ends_once_its_person_has_reached_their_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modules.services.usage.LOOK_AGAIN_S", 0.01)
    storage = Storage(tmp_path)
    usage = UsageService(storage, Settings(daily_tokens=100), Clock())
    with asked_by(Person("ann")):
        first, second = begun(usage), begun(usage)
        anns = KEPT[-2:]
    with asked_by(Person("ben")):
        bens = begun(usage)
    first.push(Delta("words", (1,) * 80))
    await asyncio.sleep(0.1)
    assert not first.ended and not second.ended  # 6 + 80 and 6
    second.push(Delta("more", (1,) * 10))
    for generation in anns:
        told = [delta.text async for delta in take(generation)]
        assert told == ["words"] or told == ["more"]
    assert first.ended and second.ended and not bens.ended
    first.push(Delta("late", (1,), finish_reason="cancelled", usage=Usage(10, 4, 81)))  # what the engine said before it heard of it
    with asked_by(Person("ann")):
        assert (await usage.quota()).used_tokens == 102
    bens.push(Delta("", (), finish_reason="stop", usage=Usage(10, 4, 1)))
    await usage.close()
    await storage.close()


async def take(generation: ClientGeneration) -> AsyncIterator[Delta]:
    """Its deltas; it has to end with the sentence about the limit."""
    with pytest.raises(QuotaExceeded, match="100 tokens a day is reached"):
        async with asyncio.timeout(10):
            async for delta in generation:
                yield delta
