"""A deterministic sequence runs alone, in steps that depend on nothing else, and nobody waits for ever because of it."""

from __future__ import annotations

from modules.core.model import DraftSource
from modules.core.params import GenerationParams
from tests.engine.test_scheduler import check_output, make, run_all, sequence, step
from tests.fakes import BOS, FakeRunner


def exact(ids: list[int], count: int = 8, client: str = ""):
    one = sequence(ids, count, client)
    one.deterministic = True
    return one


def rows_of(runner: FakeRunner, begin: int = 0) -> list[list[tuple[int, int, int]]]:
    return [[(row.slot, row.start, len(row.token_ids)) for row in rows] for rows in runner.batches[begin:]]


def alone(ids: list[int]) -> list[list[tuple[int, int, int]]]:
    """The steps of such a sequence on an idle model."""
    runner = FakeRunner(slots=3, context=1024, batch=512)
    scheduler = make(runner)
    scheduler.submit(exact(ids))
    run_all(scheduler, runner)
    return rows_of(runner)


def test_the_steps_are_the_same_whatever_was_before_and_however_fast_the_machine_is():
    ids = [3] * 300
    expected = alone(ids)
    assert expected == [[(0, 0, 128)], [(0, 128, 128)], [(0, 256, 44)], *([(0, 300 + done, 1)] for done in range(7))]
    runner = FakeRunner(slots=3, context=1024, batch=512)
    scheduler = make(runner, 1 << 20)
    for seconds in (0.001, 100.0):
        for number in range(5):
            scheduler.submit(sequence([*[3] * 200, number]))
        while scheduler.running or scheduler.waiting:
            step(scheduler, runner, seconds)
        done = len(runner.batches)
        again = exact(ids)
        scheduler.submit(again)
        run_all(scheduler, runner)
        check_output(again)
        assert again.reused == 0
        assert rows_of(runner, done) == expected


def test_it_waits_for_those_who_run_and_the_others_wait_for_it():
    runner = FakeRunner(slots=3, context=1024, batch=512)
    scheduler = make(runner)
    before, one, after = sequence([1] * 20, 30), exact([2] * 20, 10), [sequence([number] * 20, 10) for number in (3, 4)]
    scheduler.submit(before)
    step(scheduler, runner)
    for other in (one, *after):
        scheduler.submit(other)
    order = []
    while scheduler.running or scheduler.waiting:
        ended = step(scheduler, runner)
        order += ended
        assert one not in scheduler.running or scheduler.running == [one]
    assert order == [before, one, *after]
    for done in order:
        check_output(done)


def test_many_of_them_and_many_others_all_end():
    runner = FakeRunner(slots=3, context=256, capacity=300, batch=64)
    scheduler = make(runner, 1 << 16)
    everyone = [(exact if number % 3 == 0 else sequence)([number] * 60, 30, client=f"{number % 4}") for number in range(24)]
    for one in everyone:
        scheduler.submit(one)
    run_all(scheduler, runner)
    for one in everyone:
        check_output(one)


def test_one_that_lost_its_slot_is_computed_again_in_the_same_steps():
    ids = [3] * 300
    expected = alone(ids)
    runner = FakeRunner(slots=3, context=1024, batch=512)
    scheduler = make(runner, 1 << 20)
    one = exact(ids)
    scheduler.submit(one)
    for _ in range(6):
        step(scheduler, runner)
    assert one.produced == 4
    done = len(runner.batches)
    scheduler.empty_for(0, 10)
    run_all(scheduler, runner)
    check_output(one)
    assert rows_of(runner, done) == expected


def test_nothing_is_drafted_for_it(bench):
    engine, runner, inbox = bench(FakeRunner(rule=lambda ids: 97, context=512), draft=DraftSource(None, 4))
    params = GenerationParams(temperature=0, max_tokens=60, deterministic=True)
    generation = engine.submit([BOS, *b"aaaaaaaaaaaaaaaa"], params)
    inbox.wait(generation)
    assert inbox.text(generation) == "a" * 60
    assert engine.counters().drafted_tokens == 0
    assert {len(row.token_ids) for rows in runner.batches[1:] for row in rows} == {1}
