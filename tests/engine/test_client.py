from __future__ import annotations

import asyncio
import gc
import itertools

import pytest

from modules.core.errors import (
    AppError,
    Busy,
    ContextOverflow,
    InvalidRequest,
)
from modules.core.generation import ChatPrompt, Delta, GenerationRequest, TextPrompt, TokenPrompt
from modules.core.messages import Message
from modules.core.params import GenerationParams
from modules.engine.client import EngineClient
from modules.engine.client_generation import Inbox, joined
from tests.engine.client_steps import ENDLESS, GREEDY, ids_of, text, until
from tests.fakes import solo

pytestmark = pytest.mark.processes


async def test_a_loaded_engine_tells_about_itself(start):
    stages = []
    client = await start({"on_progress": lambda stage, done: stages.append((stage, done))})
    assert ("Reading weights", 0.5) in stages
    card = client.card
    assert (card.name, card.loader, card.slots, card.context_length, card.vocab_size) == ("Tiny", "fake", 4, 4096, 259)
    assert (card.notes, card.bos_id, card.pid) == (("A note.",), 256, client.pid)
    assert client.alive


async def test_eight_at_once_are_interleaved_and_each_is_its_own(start):
    client = await start(slots=8, step_s=0.005)
    order = []

    async def follow(number: int) -> list[int]:
        generation = await client.submit(text("x" * number * 9, client=str(number)))
        ids = []
        async for delta in generation:
            order.append(number)
            ids += delta.token_ids
        return ids

    results = await asyncio.gather(*(follow(number) for number in range(1, 9)))
    for number, ids in enumerate(results, 1):
        assert ids == solo([256, *(b"x" * number * 9)], 20)
    changes = sum(first != second for first, second in itertools.pairwise(order))
    assert changes > 3 * 8


async def test_what_is_known_at_the_start_and_at_the_end(start):
    client = await start()
    prompt = ChatPrompt(messages=(Message(role="user", content="hello"),))
    generation = await client.submit(GenerationRequest(prompt=prompt, params=GREEDY.model_copy(update={"logprobs": 1})))
    deltas = [delta async for delta in generation]
    assert generation.started.dropped_messages == 3
    assert generation.started.starts_thinking == "<think>"
    assert generation.started.prompt_tokens == 6
    assert generation.usage == deltas[-1].usage
    assert generation.usage.completion_tokens == 20
    assert sum(len(delta.logprobs) for delta in deltas) == 20
    assert generation.model == "Tiny"


async def test_small_questions(start):
    client = await start()
    assert await client.tokenize("ab") == [97, 98]
    assert await client.count(ChatPrompt(messages=(Message(role="user", content="hello"),))) == 5
    found = (await client.next_tokens(TextPrompt(text="ab"), 3)).tokens
    assert found[0].token_id == solo([256, 97, 98], 1)[0]
    assert len(found) == 3
    assert await client.score([1, 2, 3]) == [-2.0, -3.0]
    counters = await client.counters()
    assert (counters.slots, counters.running, counters.waiting) == (4, 0, 0)


@pytest.mark.parametrize("spill_bytes", [0, 1 << 16])
async def test_two_conversations_in_one_slot_as_the_loader_allows(start, spill_bytes):
    client = await start(slots=1, spill_bytes=spill_bytes)
    reused = []
    for letter in "abab":
        generation = await client.submit(text(letter * 100))
        await ids_of(generation)
        reused.append(generation.usage.reused_tokens)
    counters = await client.counters()
    kept = spill_bytes > 0
    assert reused == ([0, 1, 100, 100] if kept else [0, 1, 1, 1])
    assert (counters.spilled_tokens > 100, 0 < counters.spilled_bytes <= spill_bytes) == (kept, kept)
    assert counters.restored_tokens == (200 if kept else 0)


async def test_errors_arrive_as_what_they_are(start):
    client = await start({"queue_limit": 1}, slots=1, context=64, step_s=0.02)
    with pytest.raises(ContextOverflow, match="holds 64"):
        await client.submit(text("x" * 64))
    with pytest.raises(InvalidRequest, match="Token id 9999"):
        await client.submit(GenerationRequest(prompt=TokenPrompt(token_ids=(9999,))))
    first = await client.submit(text("a"))
    second = await client.submit(text("b"))
    with pytest.raises(Busy, match="place 2") as caught:
        await client.submit(text("c"))
    assert caught.value.details["limit"] == 1
    assert len(await ids_of(first)) == len(await ids_of(second)) == 20


async def test_the_place_in_the_queue(start):
    client = await start(slots=1, step_s=0.02)
    first = await client.submit(text("a", GenerationParams(temperature=0, max_tokens=15)))
    second, third = await client.submit(text("b")), await client.submit(text("c"))
    heard = []
    third.on_place = lambda: heard.append(third.place)
    await ids_of(first)
    await ids_of(second)
    await ids_of(third)
    assert heard[0] == 2
    assert heard[-1] is None
    assert third.started is not None


async def test_a_failed_step_ends_only_what_ran(start):
    client = await start()
    with pytest.raises(AppError, match="Tiny failed while computing .RuntimeError: asked to fail"):
        await ids_of(await client.submit(text("oh?")))
    assert await ids_of(await client.submit(text("a"))) == solo([256, 97], 20)


async def test_failing_again_and_again_replaces_the_process(start):
    reasons = []
    client = await start({"on_exit": reasons.append})
    for _ in range(3):
        with pytest.raises(AppError):
            await ids_of(await client.submit(text("oh?")))
    await until(lambda: asyncio.sleep(0, bool(reasons)))  # a moment after the process ended
    assert "3 times in a row" in reasons[0]
    assert not client.alive


# ---- stop ----------------------------------------------------------------------------------------------------------


async def test_stop_frees_the_slot_and_the_text_so_far_arrives(start):
    client = await start(slots=1, step_s=0.01)
    generation = await client.submit(text("a", ENDLESS))
    got: list[Delta] = []
    async for delta in generation:
        got.append(delta)
        if sum(len(d.token_ids) for d in got) >= 5:
            await generation.cancel()
    assert got[-1].finish_reason == "cancelled"
    counters = await client.counters()
    assert (counters.running, counters.cancelled) == (0, 1)
    ids = [token_id for delta in got for token_id in delta.token_ids]
    assert ids == solo([256, 97], len(ids))


async def test_a_consumer_that_goes_away_frees_the_slot_within_one_step(start):
    client = await start(slots=2, step_s=0.05)
    generation = await client.submit(text("x" * 3000, ENDLESS))  # 47 steps of prefill
    await until(lambda: _steps_reached(client, 3))
    before = (await client.counters()).steps
    await generation.aclose()
    await until(lambda: _idle(client))
    assert (await client.counters()).steps <= before + 1
    assert [delta async for delta in generation] == []


async def test_one_that_is_dropped_is_cancelled(start):
    client = await start(step_s=0.01)
    generation = await client.submit(text("a", ENDLESS))
    await generation.__anext__()
    del generation
    gc.collect()
    await until(lambda: _idle(client))


async def test_leaving_the_block_cancels(start):
    client = await start(step_s=0.01)
    async with await client.submit(text("a", ENDLESS)) as generation:
        async for _ in generation:
            break
    await until(lambda: _idle(client))


async def test_one_who_gives_up_while_waiting_to_be_accepted_leaves_nothing_behind(start):
    client = await start(step_s=0.01)
    task = asyncio.create_task(client.submit(text("a", ENDLESS)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: _idle(client))
    assert await ids_of(await client.submit(text("b"))) == solo([256, 98], 20)


async def test_the_first_event_is_the_answer_where_nothing_ran_before(start, monkeypatch):
    """Where something runs, whoever asks is accepted before the step ends in which the others write."""
    told = []
    take = EngineClient._take
    monkeypatch.setattr(EngineClient, "_take", lambda client, message: (told.append(next(iter(message))), take(client, message))[1])
    client = await start(step_s=1.0)
    told.clear()
    generation = await client.submit(text("a", ENDLESS))
    assert "re" not in told
    assert generation.started is not None
    second = await client.submit(text("b", ENDLESS))
    assert "re" in told
    assert second.started is None
    for one in (generation, second):
        await one.aclose()


async def _idle(client: EngineClient) -> bool:
    counters = await client.counters()
    return counters.running == counters.waiting == 0


async def _steps_reached(client: EngineClient, steps: int) -> bool:
    return (await client.counters()).steps >= steps


async def test_a_slow_consumer_holds_up_nobody_and_loses_nothing(start):
    client = await start()
    slow = await client.submit(text("a", GenerationParams(temperature=0, max_tokens=2000)))
    await slow.__anext__()
    assert await ids_of(await client.submit(text("b"))) == solo([256, 98], 20)
    await until(lambda: _idle(client))
    deltas = [delta async for delta in slow]
    assert len(deltas) < 5
    assert sum(len(delta.token_ids) for delta in deltas) > 1900


# ---- small parts ---------------------------------------------------------------------------------------------------


def test_deltas_are_joined_in_order():
    whole = joined([Delta("a", (1,)), Delta("b", (2, 3)), Delta("", (), (), "stop", "x")])
    assert whole == Delta("ab", (1, 2, 3), (), "stop", "x")


async def test_an_inbox_keeps_few_objects_however_slow_the_consumer():
    inbox = Inbox()
    for number in range(10_000):
        inbox.push(Delta(chr(97 + number % 26), (number,)))
    assert len(inbox._deltas) <= 64
    assert inbox.take().token_ids == tuple(range(10_000))
    assert inbox.take() is None
