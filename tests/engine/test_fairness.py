"""Running replies go on while long prompts are read: on a machine whose time is reckoned, not measured."""

from __future__ import annotations

from itertools import pairwise

import pytest

from modules.engine.pace import LEAST_CHUNK_S, LONGEST_ALONE_S, LONGEST_CHUNK_S, MIN_CHUNK_TOKENS
from tests.engine.test_scheduler import check_output, make, sequence, step
from tests.fakes import FakeRunner, next_byte

# Seconds of any step, and of each token: a graphics card, two small models on a processor, a large one, one with few active parameters, one beside much else
MACHINES = {"card": (0.015, 0.0003), "tiny": (0.002, 0.0004), "small": (0.03, 0.008), "large": (0.4, 0.05), "experts": (0.4, 0.004), "starved": (1.5, 0.001)}


class Machine:
    """A scheduler and a model whose steps take a reckoned time."""

    def __init__(self, fixed_s: float, token_s: float, *, apart: bool = False) -> None:
        self.runner = FakeRunner(slots=4, context=8192, batch=512)
        self.runner.mixes_slots = not apart
        self.scheduler = make(self.runner)
        self.fixed_s, self.token_s = fixed_s, token_s
        self.now_s = 0.0
        self.times: dict[object, list[float]] = {}  # of each token

    def step(self) -> None:
        self.scheduler.admit()
        shares = self.scheduler.plan()
        seconds = self.fixed_s + self.token_s * sum(len(share.row.token_ids) for share in shares)
        self.runner.forward([share.row for share in shares])
        self.now_s += seconds
        self.scheduler.advance(shares, seconds)
        for share in shares:
            one = share.sequence
            if share.completes:
                one.ids.append(next_byte(one.ids))
                self.times.setdefault(one, []).append(self.now_s)
                if len(one.ids) >= one.max_length:
                    self.scheduler.finish(one)
                    check_output(one)

    def until(self, condition) -> None:
        for _ in range(20_000):
            if condition():
                return
            self.step()
        raise AssertionError("did not happen")


@pytest.mark.parametrize("written", [1, 4, 10])
@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("kind", MACHINES)
def test_a_long_prompt_holds_no_stream_up_for_long_and_is_not_held_up_for_long(kind: str, apart: bool, written: int) -> None:
    fixed_s, token_s = MACHINES[kind]
    machine = Machine(fixed_s, token_s, apart=apart)
    streams = [sequence([number] * 40, 6000) for number in range(2)]
    for one in streams:
        machine.scheduler.submit(one)
    machine.until(lambda: all(one.produced >= written for one in streams))
    decode_s = fixed_s + 2 * token_s
    begun_s, long = machine.now_s, sequence([9, 8] * 2048, 4)
    machine.scheduler.submit(long)
    machine.until(lambda: long.produced >= 1)
    read_s = machine.now_s - begun_s
    chunk_s = max(min(LONGEST_CHUNK_S, max(LEAST_CHUNK_S, 2 * decode_s)), MIN_CHUNK_TOKENS * token_s)
    for one in streams:
        times = [begun_s, *(time for time in machine.times[one] if time > begun_s)]
        gaps = [after - before for before, after in pairwise(times)]
        assert max(gaps) <= 1.001 * (2 * decode_s + chunk_s)
    at_once_s = 4096 * token_s + 8 * fixed_s
    rounds = 28 if apart else 8  # with caches apart each chunk has a step of its own
    assert read_s <= 2 * at_once_s + rounds * decode_s  # the streams have the rest


def test_many_long_prompts_together_are_one_chunk_a_step() -> None:
    fixed_s, token_s = MACHINES["small"]
    machine = Machine(fixed_s, token_s)
    stream = sequence([1] * 40, 6000)
    machine.scheduler.submit(stream)
    machine.until(lambda: stream.produced >= 10)
    begun_s, prompts = machine.now_s, [sequence([number] * 1000, 4) for number in (5, 6, 7)]
    for one in prompts:
        machine.scheduler.submit(one)
    machine.until(lambda: all(one.produced >= 1 for one in prompts))
    times = [begun_s, *(time for time in machine.times[stream] if time > begun_s)]
    assert max(after - before for before, after in pairwise(times)) <= 2 * (fixed_s + 4 * token_s) + LEAST_CHUNK_S


def test_who_had_to_leave_a_slot_for_something_else_goes_on_in_another():
    """Vectors of many texts take one slot again and again, and one step is made between two of them."""
    runner = FakeRunner(slots=2, context=1024, batch=64)
    scheduler = make(runner)
    other, one = sequence([3] * 300), sequence([2] * 300)
    scheduler.submit(other)
    while scheduler.running or scheduler.waiting:
        step(scheduler, runner)  # its slot rests with a cache then
    scheduler.submit(one)
    step(scheduler, runner)
    assert (one.slot, len(scheduler.slots[0].cached)) == (1, len(other.ids) - 1)
    for _ in range(50):
        if one.slot < 0 and not scheduler.waiting:
            break
        step(scheduler, runner)
        scheduler.empty_for(1, 10)
    check_output(one)
    assert one.produced == 8


@pytest.mark.parametrize("streams", [0, 1])
@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("kind", MACHINES)
def test_a_short_prompt_does_not_wait_until_a_long_one_is_read(kind: str, apart: bool, streams: int) -> None:
    fixed_s, token_s = MACHINES[kind]

    def read(newcomers: int) -> tuple[float, list[float]]:
        """How long a long prompt took, and each of the short ones that came while it was read."""
        machine = Machine(fixed_s, token_s, apart=apart)
        for number in range(streams):
            machine.scheduler.submit(sequence([number] * 40, 8000))
        machine.until(lambda: all(one.produced > 4 for one in machine.scheduler.running) or not streams)
        long, taken = sequence([9, 8] * 2500, 1), []
        begun_s = machine.now_s
        machine.scheduler.submit(long)
        machine.until(lambda: long.computed > 0)
        for number in range(newcomers):
            came_s, short = machine.now_s, sequence([20 + number] * 20, 1)
            machine.scheduler.submit(short)
            machine.until(lambda short=short: short.produced >= 1)
            assert not long.produced
            taken.append(machine.now_s - came_s)
        machine.until(lambda: long.produced >= 1)
        return machine.now_s - begun_s, taken

    alone_s, _ = read(0)
    with_s, taken = read(3)
    chunk_s = max(LONGEST_ALONE_S if not streams else LONGEST_CHUNK_S, 128 * token_s)
    for one in taken:
        assert one <= 2 * (chunk_s + 2 * (fixed_s + 2 * token_s)) + 20 * token_s + fixed_s
    assert max(taken) <= alone_s / 4
    assert with_s <= alone_s + 3 * (4 * fixed_s + 2 * chunk_s / 3 + 24 * token_s)


def test_however_many_short_prompts_come_a_long_one_goes_on() -> None:
    machine = Machine(0.03, 0.008)
    long = sequence([9, 8] * 2048, 1)
    machine.scheduler.submit(long)
    machine.until(lambda: long.computed > 0)
    steps = shorts = 0
    while not long.produced:
        while len(machine.scheduler.running) + len(machine.scheduler.waiting) < 4:
            shorts += 1
            machine.scheduler.submit(sequence([shorts % 200] * 300, 1))
        machine.step()
        steps += 1
    assert steps <= 2 * (4096 // 128 + 2)
    assert shorts > 4


def test_a_prompt_that_is_not_much_shorter_waits_its_turn() -> None:
    machine = Machine(0.03, 0.008)
    first, second = sequence([9, 8] * 1000, 1), sequence([7] * 1500, 1)
    machine.scheduler.submit(first)
    machine.until(lambda: first.computed > 0)
    machine.scheduler.submit(second)
    machine.until(lambda: first.produced >= 1)
    assert second.computed <= 512
