from __future__ import annotations

import threading
import time

import pytest

from modules.core.errors import AppError, NoModelLoaded, OutOfMemory
from modules.core.params import GenerationParams
from modules.engine.engine import Engine
from tests.fakes import BOS, ByteTokenizer, FakeRunner, Inbox, solo

GREEDY = GenerationParams(temperature=0, max_tokens=20)


def until(condition) -> None:
    """Wait for something that another thread does."""
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.002)


def prompt(text: str) -> list[int]:
    return [BOS, *text.encode()]


# ---- failures ------------------------------------------------------------------------------------------------------


def test_a_failed_step_ends_what_ran_and_the_engine_lives(bench):
    engine, runner, inbox = bench(FakeRunner(slots=2, context=2048), name="Tiny")
    gate = runner.gate = threading.Semaphore(0)
    running = [engine.submit(prompt(name), GenerationParams(temperature=0)) for name in "ab"]
    waiting = engine.submit(prompt("c"), GREEDY)
    gate.release(10)
    until(lambda: engine.counters().steps == 10)
    runner.fail_with = RuntimeError("CUDA error: an illegal memory access\nand a long tail")
    gate.release(1000)
    inbox.wait(*running, waiting)
    for generation in running:
        assert "Tiny failed while computing (RuntimeError: CUDA error: an illegal memory access)" in str(inbox.errors[generation])
        assert "tail" not in str(inbox.errors[generation])
        assert inbox.ids(generation) == solo(prompt("ab"[running.index(generation)]), len(inbox.ids(generation)))
    assert inbox.ids(waiting) == solo(prompt("c"), 20)
    assert engine.broken == ""


def test_failures_in_a_row_say_that_the_process_should_be_replaced(bench):
    engine, runner, inbox = bench()
    for _ in range(3):
        runner.fail_with = RuntimeError("gone")
        generation = engine.submit(prompt("a"), GREEDY)
        inbox.wait(generation)
        assert isinstance(inbox.errors[generation], AppError)
    assert "3 times in a row" in engine.broken


def test_out_of_memory_sends_the_youngest_back_and_all_end_exactly(bench):
    engine, runner, inbox = bench(FakeRunner(slots=4, context=128))
    runner.memory_tokens = 150
    gate = runner.gate = threading.Semaphore(0)
    prompts = [prompt(name * 30) for name in "abcd"]
    generations = [engine.submit(ids, GenerationParams(temperature=0, max_tokens=40)) for ids in prompts]
    gate.release(10_000)
    inbox.wait(*generations)
    for ids, generation in zip(prompts, generations, strict=True):
        assert inbox.ids(generation) == solo(ids, 40)
    assert engine.counters().capacity_tokens <= 150


def test_out_of_memory_alone_ends_with_a_sentence(bench):
    engine, runner, inbox = bench(name="Tiny")
    runner.memory_tokens = 40
    generation = engine.submit(prompt("abc"), GenerationParams(temperature=0))
    inbox.wait(generation)
    assert isinstance(inbox.errors[generation], OutOfMemory)
    assert "Tiny ran out of memory at" in str(inbox.errors[generation])
    assert inbox.ids(generation) == solo(prompt("abc"), 37)
    inbox.wait(engine.submit(prompt("b"), GREEDY))


def test_out_of_memory_alone_costs_those_who_come_later_no_room(bench):
    """One that had all the room says nothing about shorter ones: they run side by side in whole steps."""
    engine, runner, inbox = bench(FakeRunner(slots=4, batch=64))
    runner.fail_with = OutOfMemory("The device is full.")
    first = engine.submit(prompt("a" * 100), GREEDY)
    inbox.wait(first)
    assert isinstance(inbox.errors[first], OutOfMemory)
    assert engine.counters().capacity_tokens == runner.capacity_tokens
    engine.pause()
    later = [engine.submit(prompt(name * 100), GREEDY) for name in "bcde"]
    engine.pause(False)
    inbox.wait(*later)
    assert max(map(len, runner.batches)) == 4
    assert len(runner.batches[0][0].token_ids) == 64


def test_the_room_lost_to_others_comes_back_after_a_while(bench, monkeypatch):
    engine, runner, inbox = bench(FakeRunner(slots=4, context=128))
    engine._scheduler.crew.is_whole = True  # on a busy machine taking turns can look quicker
    gate = runner.gate = threading.Semaphore(0)
    prompts = [prompt(name * 30) for name in "abcd"]
    generations = [engine.submit(ids, GenerationParams(temperature=0, max_tokens=90)) for ids in prompts]
    gate.release(5)
    until(lambda: engine.counters().steps == 5)
    runner.fail_with = OutOfMemory("Another program took the memory.")
    gate.release(3)
    until(lambda: engine.counters().steps == 7)
    assert engine.counters().capacity_tokens < runner.capacity_tokens
    assert engine.counters().running < 4
    monkeypatch.setattr("modules.engine.room.IS_LESS_S", 0.0)
    gate.release(10_000)
    inbox.wait(*generations)
    for ids, generation in zip(prompts, generations, strict=True):
        assert inbox.ids(generation) == solo(ids, 90)
    assert max(map(len, runner.batches[10:])) == 4  # all together again
    assert engine.counters().capacity_tokens == runner.capacity_tokens


def test_scoring_a_long_text_does_not_look_like_a_hang(bench):
    engine, runner, _ = bench(FakeRunner(context=1024, batch=64))
    gate = runner.gate = threading.Semaphore(0)
    scores = []
    caller = threading.Thread(target=lambda: scores.extend(engine.score([5] * 300)))
    caller.start()
    begins = set()
    for _ in range(5):
        assert runner.entered.acquire(timeout=10)
        begins.add(engine.busy_since_s)
        time.sleep(0.002)
        gate.release()
    caller.join(10)
    assert len(begins) == 5
    assert len(scores) == 299


def test_closing_ends_a_long_score():
    runner, inbox = FakeRunner(context=1024, batch=64), Inbox()
    engine = Engine(runner, ByteTokenizer(), inbox, name="Tiny")
    gate = runner.gate = threading.Semaphore(0)
    errors = []

    def score():
        try:
            engine.score([5] * 1000)
        except NoModelLoaded as error:
            errors.append(error)

    caller = threading.Thread(target=score)
    caller.start()
    assert runner.entered.acquire(timeout=10)
    threading.Timer(0.05, gate.release).start()
    assert engine.close()
    caller.join(10)
    assert len(errors) == 1


class BrokenRow:
    """A row whose device fails when it is read."""

    def __getattr__(self, name):
        raise RuntimeError("device lost")


def test_a_row_that_cannot_be_read_ends_only_its_own_reply(bench):
    engine, runner, inbox = bench()
    runner.rule = lambda ids: BrokenRow() if ids[1] == ord("x") and len(ids) > 4 else 65
    good, bad = engine.submit(prompt("a"), GREEDY), engine.submit(prompt("x"), GREEDY)
    inbox.wait(good, bad)
    assert inbox.text(good) == "A" * 20
    assert inbox.text(bad) == "AAA"
    assert "RuntimeError: device lost" in str(inbox.errors[bad])


def test_closing_ends_everything_with_a_sentence_and_frees_the_model():
    runner, inbox = FakeRunner(slots=1, context=100_000), Inbox()
    engine = Engine(runner, ByteTokenizer(), inbox, name="Tiny")
    gate = runner.gate = threading.Semaphore(0)
    generations = [engine.submit(prompt(name), GenerationParams(temperature=0)) for name in "ab"]
    threading.Timer(0.1, gate.release, (5,)).start()
    assert engine.close()
    assert runner.closed
    for generation in generations:
        assert isinstance(inbox.errors[generation], NoModelLoaded)
    with pytest.raises(NoModelLoaded, match="Tiny was unloaded"):
        engine.submit(prompt("c"), GREEDY)
    with pytest.raises(NoModelLoaded):
        engine.call(lambda: None)


def test_a_closed_engine_leaves_no_caller_waiting():
    runner, inbox = FakeRunner(), Inbox()
    engine = Engine(runner, ByteTokenizer(), inbox)
    outcomes = []

    def keep_calling():
        try:
            while True:
                engine.call(lambda: None)
        except NoModelLoaded:
            outcomes.append("told")

    callers = [threading.Thread(target=keep_calling) for _ in range(4)]
    for caller in callers:
        caller.start()
    assert engine.close()
    for caller in callers:
        caller.join(10)
    assert outcomes == ["told"] * 4
