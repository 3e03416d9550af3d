"""How many threads: the fastest number, as long as nothing else wants its cores."""

from __future__ import annotations

import pytest

from modules.loaders.llama_cpp.threads import (
    FIRST_REST_S,
    JUDGED_STEPS,
    LONGEST_REST_S,
    LiveThreads,
    Threads,
    calmer_threads,
    fastest_of_large,
    fastest_threads,
    is_clear,
    large_counts,
)

FAST, CALM = Threads(2, 2), Threads(1, 1)


@pytest.mark.parametrize(
    ("cores", "times", "expected"),
    [
        (2, {1: (0.0004, 0.0038), 2: (0.0003, 0.0021)}, (2, 2)),
        (2, {1: (0.0004, 0.0038), 2: (0.00039, 0.0038)}, (1, 1)),  # within the noise
        (2, {1: (0.012, 0.3), 2: (0.0119, 0.16)}, (1, 2)),  # writing waits for memory, reading does not
        (8, {1: (0.04, 2.0), 4: (0.014, 0.6), 8: (0.012, 0.33)}, (8, 8)),
        (8, {1: (0.0004, 0.004), 4: (0.0006, 0.002), 8: (0.0008, 0.002)}, (1, 4)),
    ],
)
def test_the_fastest(cores: int, times: dict[int, tuple[float, float]], expected: tuple[int, int]) -> None:
    assert fastest_threads(lambda count, worth_s: times[count], cores) == Threads(*expected)


@pytest.mark.parametrize(
    ("fast", "cores", "expected"), [((2, 2), 2, (1, 1)), ((1, 2), 2, (1, 1)), ((1, 1), 2, (1, 1)), ((8, 8), 8, (4, 4)), ((1, 4), 8, (1, 1))]
)
def test_the_calmer_number_is_the_next_smaller_one(fast: tuple[int, int], cores: int, expected: tuple[int, int]) -> None:
    assert calmer_threads(Threads(*fast), cores) == Threads(*expected)


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ({8: 0.10, 4: 0.16}, 8),
        ({8: 0.10, 4: 0.103}, 4),  # all wait for memory: the others are left to who needs them
        ({24: 0.20, 12: 0.11}, 12),  # slow cores hold up the fast ones
        ({2: 0.10, 1: 0.18}, 2),
    ],
)
def test_a_large_model_is_written_with_all_cores_or_half_of_them(times: dict[int, float], expected: int) -> None:
    assert tuple(times) == large_counts(max(times))
    assert fastest_of_large(times) == expected


def test_one_look_is_enough_where_the_difference_is_plain() -> None:
    assert is_clear({8: 0.10, 4: 0.16})
    assert is_clear({8: 0.16, 4: 0.10})
    assert not is_clear({8: 0.10, 4: 0.12})
    assert large_counts(3) == (3, 2)


class Machine:
    """Steps of a model on two cores, one of which may be wanted by something else; a clock that only steps move."""

    def __init__(self, fast: Threads = FAST, calm: Threads = CALM) -> None:
        self.now_s = 0.0
        self.live = LiveThreads(fast, calm, 0.0015, lambda: self.now_s)
        self.busy = False

    def step(self, tokens: int = 1) -> float:
        both = self.live.present == FAST
        seconds = tokens * (0.001 if both and not self.busy else 0.066 if both else 0.0015)
        self.now_s += seconds
        self.live.note(tokens, seconds)
        return seconds

    def run(self, seconds: float, tokens: int = 1) -> float:
        """Tokens a second over so long."""
        end_s, done, begun_s = self.now_s + seconds, 0, self.now_s
        while self.now_s < end_s:
            self.step(tokens)
            done += tokens
        return done / (self.now_s - begun_s)


@pytest.mark.parametrize("tokens", [1, 4])
def test_a_busy_machine_gets_a_core_and_gives_it_back(tokens: int) -> None:
    machine = Machine()
    assert machine.run(20, tokens) > 990
    machine.busy = True
    machine.run(4 * JUDGED_STEPS * 0.066, tokens)
    assert machine.live.present == CALM
    assert machine.run(300, tokens) > 0.9 / 0.0015
    machine.busy = False
    machine.run(LONGEST_REST_S + 1, tokens)
    assert machine.live.present == FAST
    assert machine.run(20, tokens) > 990


@pytest.mark.parametrize("tokens", [1, 4])
def test_busy_from_the_first_step_on(tokens: int) -> None:
    """Nothing undisturbed was seen with the fast number, but the calmer one was measured."""
    machine = Machine()
    machine.busy = True
    machine.run(1, tokens)
    assert machine.run(300, tokens) > 0.9 / 0.0015


def test_one_slow_step_changes_nothing() -> None:
    machine = Machine()
    machine.run(1)
    for _ in range(50):
        machine.live.note(1, 0.06)
        machine.run(0.2)
    assert machine.live.present == FAST


def test_steps_that_are_slower_than_alone_but_faster_than_with_one_thread_stay() -> None:
    """What was measured with the machine to itself is no yardstick for a server that does other things too."""
    machine = Machine()
    for _ in range(2000):
        machine.live.note(1, 0.0018)
    assert machine.live.present == FAST


def test_a_context_that_grows_is_no_disturbance_for_long() -> None:
    """Steps get slower with both numbers; the calmer one's time is an old one, and is measured anew."""
    live_s, growth = 0.0, 1.0
    live = LiveThreads(FAST, CALM, 0.0013, lambda: live_s)
    calm_s = 0.0
    while growth < 6:
        seconds = growth * (0.001 if live.present == FAST else 0.0013)
        growth += 0.0002
        live_s += seconds
        calm_s += seconds if live.present == CALM else 0.0
        live.note(1, seconds)
    assert calm_s < 0.1 * live_s


def test_numbers_that_were_set_stay() -> None:
    machine = Machine(FAST, FAST)
    machine.run(1)
    machine.busy = True
    machine.run(10)
    assert machine.live.present == FAST


def test_rests_grow_and_begin_anew_after_quiet() -> None:
    machine = Machine()
    machine.run(20)
    rests = []
    for quiet in (False, False, False, True):
        if quiet:
            machine.busy = False
            machine.run(LONGEST_REST_S)
        machine.busy = True
        while machine.live.present == FAST:
            machine.step()
        begun_s = machine.now_s
        while machine.live.present == CALM:
            machine.step()
        rests.append(round(machine.now_s - begun_s))
    assert rests == [FIRST_REST_S, 2 * FIRST_REST_S, 4 * FIRST_REST_S, FIRST_REST_S]
