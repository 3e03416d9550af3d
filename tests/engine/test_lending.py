"""Replies go on while the model is lent for something long, where they can."""

from __future__ import annotations

import threading
import time
from itertools import pairwise

import pytest

from modules.core.model import Adapter
from modules.core.params import GenerationParams
from modules.engine.engine import Engine
from tests.engine.test_adapter_turns import AdaptedRunner, solo
from tests.engine.test_scheduler import check_output, make, run_all, sequence, step
from tests.fakes import ByteTokenizer, FakeRunner, Inbox, next_byte

PROMPT = [1, 2, 3]


class ReadRunner(AdaptedRunner):
    """Counts the steps before each chunk of a text that is scored."""

    def __init__(self, **options) -> None:
        super().__init__(**options)
        self.before: list[int] = []

    def score(self, token_ids, chunk_done=None):
        def told() -> None:
            self.before.append(len(self.batches))
            chunk_done()

        return super().score(token_ids, told)


@pytest.mark.parametrize(
    ("capacity", "adapters", "steps"),
    [(512, (), [1, 1, 1, 1]), (82, (), [0, 0, 0, 0]), (512, (Adapter(path="one"),), [0, 0, 0, 0])],
    ids=["beside it", "no room", "other adapters"],
)
def test_a_reply_goes_on_by_a_token_for_each_chunk(capacity: int, adapters: tuple[Adapter, ...], steps: list[int]) -> None:
    runner, inbox = ReadRunner(slots=2, context=256, capacity=capacity, batch=16), Inbox()
    runner.gate = threading.Semaphore(1)  # for the prompt
    engine = Engine(runner, ByteTokenizer(), inbox, set_adapters=runner.set_adapters)
    one = engine.submit(PROMPT, GenerationParams(temperature=0, max_tokens=60))
    for _ in range(2):
        assert runner.entered.acquire(timeout=5)  # the next step waits at the gate
    reading = threading.Thread(target=engine.score, args=([9] * 80, adapters))
    reading.start()
    while engine._commands.empty():
        time.sleep(0.001)
    runner.gate.release(200)
    reading.join(10)
    inbox.wait(one)
    assert engine.close()
    assert [after - before for before, after in pairwise(runner.before)] == steps
    assert inbox.ids(one) == solo(PROMPT, 60, ())


def test_a_step_that_fails_meanwhile_ends_the_reply_and_not_the_reading() -> None:
    runner, inbox = FakeRunner(slots=2, context=256, batch=16), Inbox()
    runner.gate = threading.Semaphore(1)  # for the prompt
    engine = Engine(runner, ByteTokenizer(), inbox)
    one = engine.submit(PROMPT, GenerationParams(temperature=0, max_tokens=200))
    for _ in range(2):
        assert runner.entered.acquire(timeout=5)  # the next step waits at the gate
    done: list[int] = []

    def fail() -> None:
        runner.fail_with = RuntimeError("out of luck")
        engine.chunk_done()
        done.append(1)

    lending = threading.Thread(target=engine.lend, args=(fail, 10))
    lending.start()
    while engine._commands.empty():
        time.sleep(0.001)
    runner.gate.release(200)
    lending.join(10)
    inbox.wait(one)
    assert done == [1] and "out of luck" in str(inbox.errors[one])
    assert engine.score([9] * 80) == [-9.0] * 79
    assert engine.close()


class SeeingRunner(FakeRunner):
    """What stands in its slots cannot be saved, as where there are images."""

    def state_bytes(self, slot: int) -> int:
        return 0

    def save_state(self, slot: int) -> list[int]:
        raise AssertionError("nothing of it can be saved")


def test_what_cannot_be_moved_gives_way_and_goes_on_later() -> None:
    runner = SeeingRunner(slots=2, context=256, batch=64)
    scheduler = make(runner)
    one = sequence(PROMPT, 20)
    scheduler.submit(one)
    for _ in range(3):
        step(scheduler, runner)
    scheduler.empty_for(0, 10)
    assert (one.slot, one.preemptions) == (-1, 1)
    run_all(scheduler, runner)
    check_output(one)


def test_who_had_to_move_stands_beside_the_others_again() -> None:
    runner = FakeRunner(slots=6, context=100, batch=64)
    runner.mixes_slots = False
    scheduler = make(runner)
    both = [sequence([number] * 10, 40) for number in (1, 2)]
    for one in both:
        scheduler.submit(one)
    for _ in range(3):
        step(scheduler, runner)
    assert [one.slot for one in both] == [0, 1]
    scheduler.empty_for(0, 10)
    assert [one.slot for one in both] == [2, 1] and not any(one.preemptions for one in both)
    scheduler.finish(both[1])
    scheduler.submit(late := sequence([3] * 10, 40))
    run_all(scheduler, runner)
    for one in (both[0], late):
        check_output(one)


def test_idle_caches_give_way_to_replies_beside_it() -> None:
    runner = FakeRunner(slots=3, context=256, capacity=128, batch=16)
    inbox = Inbox()
    engine = Engine(runner, ByteTokenizer(), inbox)
    rests = engine.submit([7] * 20, GenerationParams(temperature=0, max_tokens=4))
    inbox.wait(rests)
    runner.gate = threading.Semaphore(1)
    one = engine.submit(PROMPT, GenerationParams(temperature=0, max_tokens=60))
    inbox.wait_for(lambda: inbox.ids(one))
    steps: list[int] = []

    def read() -> None:
        for _ in range(6):
            runner.gate.release()  # type: ignore[union-attr]
            engine.chunk_done()
            steps.append(engine.counters().steps)

    room = runner.capacity_tokens - engine.counters().cached_tokens - 3
    lending = threading.Thread(target=engine.lend, args=(read, room))
    lending.start()
    runner.gate.release()
    lending.join(10)
    runner.gate.release(200)
    inbox.wait(one)
    assert engine.close()
    assert steps == list(range(steps[0], steps[0] + 6))
    assert inbox.ids(one) == solo_bytes(60)


def solo_bytes(count: int) -> list[int]:
    ids = list(PROMPT)
    for _ in range(count):
        ids.append(next_byte(ids))
    return ids[len(PROMPT) :]


def test_steps_have_as_much_time_as_calls_one_after_the_other() -> None:
    class Slow(FakeRunner):
        def forward(self, rows):
            time.sleep(0.005)
            return super().forward(rows)

    runner, inbox = Slow(slots=2, context=1024, batch=16), Inbox()
    engine = Engine(runner, ByteTokenizer(), inbox)
    over, calls = threading.Event(), []

    def call() -> None:
        while not over.is_set():
            engine.lend(lambda: calls.append(len(runner.batches)) or time.sleep(0.05), 0)

    calling = threading.Thread(target=call)
    calling.start()
    while len(calls) < 2:
        time.sleep(0.001)
    one = engine.submit([3] * 640, GenerationParams(temperature=0, max_tokens=2))  # 40 steps
    inbox.wait(one)
    over.set()
    calling.join()
    during = [after - before for before, after in pairwise(calls) if 0 < after < 41]
    assert len(during) <= 20, during  # with a step between two calls they would be forty
    alone = len(calls)
    engine.lend(lambda: time.sleep(0.3), 0)
    begun_s = time.monotonic()
    engine.lend(lambda: calls.append(0), 0)  # nobody is answered: at once
    assert time.monotonic() - begun_s < 0.25
    assert len(calls) == alone + 1
    assert engine.close()
