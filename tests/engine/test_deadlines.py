"""A deadline ends what runs like its length, and refuses what still waits."""

from __future__ import annotations

import threading
import time

from modules.core.errors import Busy
from modules.core.params import GenerationParams
from modules.engine.deadlines import Deadlines
from modules.engine.sequence import Sequence
from tests.fakes import BOS, FakeRunner, solo

PROMPT = [BOS, *b"hello"]


def timed(seconds: float, **fields) -> GenerationParams:
    return GenerationParams(temperature=0, ban_eos=True, deadline_s=seconds, **fields)


def test_a_running_reply_ends_at_its_deadline_with_what_it_has(bench):
    engine, runner, inbox = bench(FakeRunner(slots=1, context=4096))
    gate = runner.gate = threading.Semaphore(0)
    generation = engine.submit(PROMPT, timed(3600))
    gate.release(5)
    for _ in range(6):
        assert runner.entered.acquire(timeout=20)
    engine._sequences[generation].deadline_s = engine._deadlines._next_s = time.monotonic()
    gate.release(1)  # the step that was under way; before the next one it is seen
    inbox.wait(generation)
    assert inbox.last(generation).finish_reason == "length"
    written = inbox.ids(generation)
    assert len(written) == 6
    assert written == solo(PROMPT, len(written))
    runner.gate = None
    after = engine.submit(PROMPT, timed(0, max_tokens=3))
    inbox.wait(after)
    assert len(inbox.ids(after)) == 3


def test_one_that_still_waits_is_refused_and_the_others_go_on(bench):
    engine, runner, inbox = bench(FakeRunner(slots=1), name="Tiny")
    gate = runner.gate = threading.Semaphore(0)
    running = engine.submit(PROMPT, timed(0, max_tokens=20))
    waiting, patient = engine.submit(PROMPT, timed(0.05, max_tokens=5)), engine.submit(PROMPT, timed(3600, max_tokens=5))
    time.sleep(0.1)
    gate.release(10_000)
    inbox.wait(running, waiting, patient)
    assert isinstance(inbox.errors[waiting], Busy)
    assert "Tiny is busy: this request was still waiting when its deadline passed" in str(inbox.errors[waiting])
    assert waiting not in inbox.started
    assert [len(inbox.ids(one)) for one in (running, patient)] == [20, 5]
    assert engine.counters().waiting == engine.counters().running == 0


def test_only_those_that_passed_are_named_and_once():
    deadlines = Deadlines()
    sequences = [Sequence([1], 5, deadline_s=due) for due in (0.0, 3.0, 1.0, 2.0)]
    for one in sequences:
        deadlines.add(one)
    deadlines.forget(sequences[3])
    assert deadlines.passed(0.5) == []
    assert deadlines.passed(2.5) == [sequences[2]]
    assert deadlines.passed(2.6) == []
    assert deadlines.passed(100.0) == [sequences[1]]
    assert deadlines.passed(1e9) == []
