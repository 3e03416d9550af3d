"""When news is handed over."""

from __future__ import annotations

import pytest

from modules.core.generation import Started
from modules.engine import events
from modules.engine.events import Event, Generation, Outbox
from modules.engine.sequence import Sequence


class Clock:
    """Stands in for the module `time`."""

    now_s = 100.0

    def __init__(self) -> None:
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    one = Clock()
    monkeypatch.setattr(events, "time", one)
    return one


def writing() -> Sequence:
    sequence = Sequence([1], 1000)
    sequence.generation = Generation(None, 0, 1)
    return sequence


@pytest.mark.parametrize(("step_ms", "least", "most"), [(1, 19, 21), (7.5, 18, 21), (20, 16, 17), (24, 20, 22), (33, 15, 16), (34, 28, 30), (50, 19, 21)])
def test_some_twenty_times_a_second_and_never_with_three_long_steps_at_once(clock, step_ms, least, most):
    calls: list[list[Event]] = []
    outbox, sequence = Outbox(calls.append), writing()
    end_s = clock.now_s + 10
    while clock.now_s < end_s:
        clock.now_s += step_ms / 1e3
        sequence.new_ids.append(1)
        outbox.changed(sequence)
        outbox.deliver(())
    assert 10 * least <= len(calls) <= 10 * most


def test_what_waits_is_handed_over_before_something_else_is_done(clock):
    calls: list[list[Event]] = []
    outbox, sequence = Outbox(calls.append), writing()
    for at_once in (False, False, True):
        clock.now_s += 0.001
        sequence.new_ids.append(1)
        outbox.changed(sequence)
        outbox.deliver((), at_once=at_once)
    assert [len(call[0].delta.token_ids) for call in calls] == [1, 2]


@pytest.mark.parametrize(("step_s", "others", "pause_s"), [(0.002, 0, events.ALONE_TAKEN_S), (0.002, 1, 0.0003), (0.5, 0, events.TAKEN_S), (0.5, 2, events.TAKEN_S)])
def test_who_passes_a_first_token_on_has_a_moment_to_himself(clock: Clock, step_s: float, others: int, pause_s: float) -> None:
    calls: list[list[Event]] = []
    outbox, sequence = Outbox(calls.append), writing()
    begun_s = clock.now_s
    clock.now_s += step_s
    for one in (sequence, *(writing() for _ in range(others))):
        one.new_ids.append(1)
        outbox.changed(one)
    outbox.add(Event(sequence.generation, started=Started(1, 0, 0, 0)))
    outbox.deliver((), begun_s=begun_s)
    assert len(calls) == 1
    assert clock.slept == [pytest.approx(pause_s)]
    outbox.changed(sequence)
    outbox.deliver((), at_once=True, begun_s=begun_s)
    outbox.add(Event(sequence.generation, started=Started(1, 0, 0, 0)))
    outbox.deliver(())  # before a step
    assert len(calls) == 3
    assert len(clock.slept) == 1
