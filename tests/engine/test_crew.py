"""Sequences take turns where that writes more tokens in a second, and only there."""

from __future__ import annotations

import pytest

from modules.engine.crew import FEWEST_TIMES, RENEW_STEPS, Crew
from tests.engine.test_scheduler import check_output, make, sequence
from tests.fakes import FakeRunner, next_byte

ODD = {1: 10.6, 2: 33.6, 3: 36.4, 4: 38.3, 5: 49.9, 6: 54.3, 7: 57.7, 8: 51.4}  # milliseconds by rows, as measured for 135 M in Q8_0 on one core
EVEN = {rows: 10 + rows for rows in range(1, 9)}  # as on a graphics card


def chosen(costs: dict[int, float], decoding: int, steps: int = 40) -> list[int]:
    """The sizes that a crew takes one after the other."""
    crew, sizes = Crew(), []
    for _ in range(steps):
        sizes.append(crew.size(decoding))
        crew.note(sizes[-1], costs[sizes[-1]])
    return sizes


@pytest.mark.parametrize(("decoding", "best"), [(1, 1), (2, 1), (3, 1), (4, 4), (5, 5), (8, 8)])
def test_the_size_that_writes_most_is_found(decoding: int, best: int) -> None:
    assert set(chosen(ODD, decoding)[-20:]) == {best}
    assert set(chosen(EVEN, decoding)[-20:]) == {decoding}


def test_what_is_known_from_one_reply_is_not_tried_again() -> None:
    crew = Crew()
    for _ in range(FEWEST_TIMES):
        crew.note(1, 10.0)
    tried = []
    for _ in range(FEWEST_TIMES + 1):
        tried.append(crew.size(2))
        crew.note(tried[-1], {1: 10.0, 2: 33.0}[tried[-1]])
    assert tried == [2] * FEWEST_TIMES + [1]


def test_a_machine_that_changed_is_noticed() -> None:
    crew = Crew()
    for step in range(3 * RENEW_STEPS):
        costs = ODD if step < 20 else EVEN
        size = crew.size(2)
        crew.note(size, costs[size])
    assert crew.size(2) == 2
    busy = Crew()
    for step in range(3 * RENEW_STEPS):
        size = busy.size(2)
        busy.note(size, ODD[size] * (100 if step == 1 else 1))  # one step was held up by something else
    assert busy.size(2) == 1


def test_those_who_take_turns_all_come_to_the_same_end() -> None:
    runner = FakeRunner(slots=3, capacity=400)
    scheduler = make(runner)
    together = [sequence([40 + place] * 5, 30) for place in range(3)]
    for one in together:
        scheduler.submit(one)
    alone = behind = 0
    while scheduler.running or scheduler.waiting:
        scheduler.admit()
        shares = scheduler.plan()
        runner.forward([share.row for share in shares])
        scheduler.advance(shares, ODD[len(shares)])
        alone += len(shares) == 1
        for share in shares:
            if share.completes:
                share.sequence.ids.append(next_byte(share.sequence.ids))
                if len(share.sequence.ids) >= share.sequence.max_length:
                    scheduler.finish(share.sequence)
        running = [one.produced for one in scheduler.running]
        behind = max(behind, max(running, default=0) - min(running, default=0))
    assert alone > 60 and behind <= 2
    for one in together:
        check_output(one)


def test_a_reply_that_is_alone_again_goes_on_at_once() -> None:
    crew = Crew()
    for size in (1, 2):
        for _ in range(FEWEST_TIMES):
            crew.note(size, ODD[size])
    assert crew.size(2) == 1 and crew.size(1) == 1
    crew.is_whole = True
    assert crew.size(2) == 2
