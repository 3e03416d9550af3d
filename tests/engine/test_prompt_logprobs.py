"""Log-probabilities of the prompt: each token once, whatever the chunks, the neighbours and the preemptions; nothing is taken from a cache."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from modules.core.errors import ContextOverflow, InvalidRequest
from modules.core.params import GenerationParams
from modules.engine.preparation import MOST_REPORTED
from tests.fakes import BOS, VOCAB_SIZE, FakeRunner, Inbox, next_byte, solo

ONLY = GenerationParams(temperature=0, prompt_logprobs=1, prompt_only=True)
BOTH = GenerationParams(temperature=0, prompt_logprobs=2, max_tokens=5)
GREEDY = GenerationParams(temperature=0, max_tokens=40)
LIKELY = 20 - float(np.logaddexp(20, np.log(VOCAB_SIZE - 1)))  # of what the fake model prefers, and below of anything else
UNLIKELY = LIKELY - 20
PROMPT = [BOS, *b"what is written here is longer than a chunk of the model, and than two of them at that"]


def reported(inbox: Inbox, generation) -> list[tuple[int, float]]:
    return [(entry.token_id, entry.logprob) for delta in inbox.deltas[generation] for entry in delta.prompt_logprobs]


def expected(ids: list[int]) -> list[tuple[int, float]]:
    rows = [(token, LIKELY if next_byte(ids[:place]) == token else UNLIKELY) for place, token in enumerate(ids)]
    return [(ids[0], 0.0), *((token, pytest.approx(value, abs=1e-4)) for token, value in rows[1:])]


def test_every_token_once_and_the_reply_as_without(bench):
    engine, runner, inbox = bench(FakeRunner(batch=16))
    own = [*PROMPT[:9], next_byte(PROMPT[:9])]  # one that the model prefers is among them
    for ids in (PROMPT, own, [BOS]):
        generation = engine.submit(ids, BOTH)
        inbox.wait(generation)
        assert reported(inbox, generation) == expected(ids)
        assert inbox.ids(generation) == solo(ids, 5)
    assert max(sum(row.outputs for row in batch) for batch in runner.batches) == 16


def test_alternatives_are_what_the_model_prefers(bench):
    engine, _, inbox = bench()
    generation = engine.submit(PROMPT, BOTH)
    inbox.wait(generation)
    entries = [entry for delta in inbox.deltas[generation] for entry in delta.prompt_logprobs]
    assert entries[0].top == () and all(len(entry.top) == 2 for entry in entries[1:])
    assert [entry.top[0].token_id for entry in entries[1:]] == [next_byte(PROMPT[:place]) for place in range(1, len(PROMPT))]


def test_only_the_prompt_writes_nothing_and_may_fill_the_context(bench):
    engine, _, inbox = bench(FakeRunner(context=64))
    ids = PROMPT[:64]
    generation = engine.submit(ids, ONLY)
    inbox.wait(generation)
    last = inbox.last(generation)
    assert reported(inbox, generation) == expected(ids) and inbox.ids(generation) == []
    assert (last.finish_reason, last.usage.completion_tokens, last.usage.prompt_tokens) == ("length", 0, 64)
    with pytest.raises(ContextOverflow, match="64"):
        engine.submit(ids, BOTH)
    with pytest.raises(ContextOverflow, match="65 tokens"):
        engine.submit([*ids, 1], ONLY)


def test_nothing_comes_from_a_cache_and_the_next_one_reuses_it(bench):
    engine, _, inbox = bench()
    plain = engine.submit(PROMPT, GREEDY)
    inbox.wait(plain)
    scored = engine.submit(PROMPT, ONLY)
    inbox.wait(scored)
    assert inbox.started[scored].reused_tokens == 0 and reported(inbox, scored) == expected(PROMPT)
    again = engine.submit([*PROMPT, 65], GREEDY)
    inbox.wait(again)
    assert inbox.started[again].reused_tokens >= len(PROMPT)


@pytest.mark.parametrize("outputs", [4, 7])
def test_few_outputs_a_step_are_shared_with_those_that_write(bench, outputs):
    runner = FakeRunner(slots=4, batch=32)
    runner.max_outputs = outputs
    engine, _, inbox = bench(runner)
    gate = runner.gate = threading.Semaphore(0)
    writing = [engine.submit([BOS, *text], GREEDY) for text in (b"one", b"two")]
    scored = [engine.submit([*PROMPT[:40], number], BOTH) for number in (65, 66)]
    gate.release(10_000)
    inbox.wait(*writing, *scored)
    for text, generation in zip((b"one", b"two"), writing, strict=True):
        assert inbox.ids(generation) == solo([BOS, *text], 40)
    for number, generation in zip((65, 66), scored, strict=True):
        assert reported(inbox, generation) == expected([*PROMPT[:40], number])


def test_one_that_lost_its_slot_reports_the_rest_and_nothing_twice(bench):
    runner = FakeRunner(slots=4, capacity=190, batch=8)
    engine, _, inbox = bench(runner)
    gate = runner.gate = threading.Semaphore(0)
    first = engine.submit([BOS, *b"the oldest of them"], GREEDY.model_copy(update={"max_tokens": 120}))
    second = engine.submit(PROMPT, ONLY)
    third = engine.submit([BOS, *b"growing"], GREEDY)
    gate.release(10_000)
    inbox.wait(first, second, third)
    assert reported(inbox, second) == expected(PROMPT)
    engine.call(lambda: None)


def test_preempted_between_two_chunks(bench):
    runner = FakeRunner(batch=16)
    engine, _, inbox = bench(runner)
    gate = runner.gate = threading.Semaphore(0)
    generation = engine.submit(PROMPT, BOTH)
    for _ in range(2):  # two chunks, then everything is emptied
        gate.release()
        assert runner.entered.acquire(timeout=10)
    emptied = threading.Thread(target=engine.call, args=(lambda: None,))
    emptied.start()
    gate.release(10_000)
    emptied.join(10)
    inbox.wait(generation)
    assert reported(inbox, generation) == expected(PROMPT) and inbox.ids(generation) == solo(PROMPT, 5)


def test_more_than_can_be_reported_is_refused(bench):
    count = MOST_REPORTED // 21 + 1
    engine, _, _ = bench(FakeRunner(context=count + 10))
    with pytest.raises(InvalidRequest, match=f"more than the limit of {MOST_REPORTED}"):
        engine.submit([1] * count, BOTH.model_copy(update={"prompt_logprobs": 20}))
