"""A step that is the last one again is not planned: it is the one that would be, and never where anything is new."""

from __future__ import annotations

import threading
import time

import pytest

from modules.core.params import GenerationParams
from modules.engine.scheduler import Scheduler
from modules.engine.sequence import Sequence
from tests.engine.test_scheduler import check_output, make, sequence, step
from tests.fakes import FakeRunner


def writing(capacity: int = 0, **others) -> tuple[Scheduler, FakeRunner, Sequence]:
    """One reply that is being written, a planned step behind its first token."""
    runner = FakeRunner(slots=2, context=64, capacity=capacity or None, **others)
    scheduler = make(runner)
    one = sequence([1, 2, 3], 40)
    scheduler.submit(one)
    for _ in range(3):
        step(scheduler, runner)
    return scheduler, runner, one


def test_a_step_that_is_the_last_one_again_is_the_one_that_would_be_planned():
    scheduler, runner, one = writing()
    while len(one.ids) < one.max_length:
        again = scheduler.again()
        assert again
        assert again == scheduler.plan()
        step(scheduler, runner)
    assert not scheduler.again()  # it has ended
    check_output(one)


@pytest.mark.parametrize("what", ["another comes", "it ends", "there is less room", "something was done"])
def test_a_step_is_planned_where_anything_is_new(what):
    scheduler, _, one = writing()
    assert scheduler.again()
    if what == "another comes":
        scheduler.submit(sequence([4, 5, 6]))
    elif what == "it ends":
        scheduler.finish(one)
    elif what == "there is less room":
        scheduler.capacity_tokens = 20
    else:
        scheduler.look_again()
    assert not scheduler.again()


def test_idle_caches_make_room_in_time_for_one_that_writes_on():
    scheduler, runner, first = writing(capacity=50)
    for _ in range(15):
        step(scheduler, runner)
    scheduler.finish(first)
    second = sequence([9] * 20, 25)
    scheduler.submit(second)
    while scheduler.running or scheduler.waiting:  # the model refuses what has no room
        step(scheduler, runner)
    assert len(first.ids) + 20 < 50 < len(first.ids) + len(second.ids)
    check_output(second)


def test_one_that_lost_tokens_reads_them_again():
    scheduler, runner, one = writing()
    runner.truncate(one.slot, 2)
    one.computed = 2  # as after drafts that could not be taken out by themselves
    assert not scheduler.again()
    while scheduler.running:
        step(scheduler, runner)
    check_output(one)


def test_one_that_is_computed_alone_keeps_its_steady_steps():
    runner = FakeRunner(slots=2, context=64)
    scheduler = make(runner)
    one = sequence([1, 2, 3], 10)
    one.deterministic = True
    scheduler.submit(one)
    for _ in range(3):
        step(scheduler, runner)
        assert not scheduler.again()
    assert scheduler.plan()[0].row.steady


def test_after_whatever_was_asked_for_between_two_steps_the_next_one_is_planned(bench):
    engine, runner, inbox = bench(FakeRunner(slots=2))
    runner.gate = threading.Semaphore(20)
    planned, plan = [], engine._scheduler.plan

    def noted():
        planned.append(len(runner.batches))
        return plan()

    engine._scheduler.plan = noted
    generation = engine.submit([1, 2, 3], GenerationParams(temperature=0, max_tokens=60))
    while len(runner.batches) < 20:
        time.sleep(0.001)
    assert len(planned) < 4
    threading.Timer(0.05, runner.gate.release, (1000,)).start()
    engine.lend(lambda: None, 0)
    inbox.wait(generation)
    assert planned[-1] >= 20
