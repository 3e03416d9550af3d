"""Where the memory of a model with states is marked, and what is gained by that: over a memory that keeps nothing else than marks."""

from __future__ import annotations

import pytest
from hypothesis import settings

from modules.core.slot_states import STATE_CUTS
from modules.engine import marking
from modules.engine.scheduler import Scheduler
from tests.engine.test_scheduler import SchedulerMachine, check_output, make, run_all, sequence
from tests.fakes import FakeRunner

MOST = 5  # marks of a slot


class StatesRunner(FakeRunner):
    """Slots can be cut to their marks alone, of which the shortest is forgotten when there are many."""

    keeps_parts, can_mark = False, True

    def __init__(self, **options: int) -> None:
        super().__init__(**options)
        self.marked: list[set[int]] = [set() for _ in self.slots]
        self.marks = 0

    def mark(self, slot: int) -> None:
        assert self.slots[slot]
        assert len(self.slots[slot]) not in self.marked[slot]
        self.marks += 1
        self.marked[slot].add(len(self.slots[slot]))
        if len(self.marked[slot]) > MOST:
            self.marked[slot].remove(min(self.marked[slot]))

    def cuts(self, slot: int) -> tuple[int, ...]:
        return tuple(sorted(self.marked[slot]))

    def truncate(self, slot: int, length: int) -> int:
        if length < len(self.slots[slot]):
            length = max((cut for cut in self.cuts(slot) if cut <= length), default=0)
        self.marked[slot] = {cut for cut in self.cuts(slot) if cut <= length}
        return super().truncate(slot, length)

    def copy_prefix(self, source: int, target: int, length: int) -> bool:
        self.truncate(target, 0)
        if length < len(self.slots[source]) and length not in self.marked[source]:
            return False
        self.marked[target] = {cut for cut in self.cuts(source) if cut <= length}
        return super().copy_prefix(source, target, length)

    def save_state(self, slot: int) -> tuple[list[int], tuple[int, ...]]:
        return super().save_state(slot), self.cuts(slot)[-STATE_CUTS:]

    def drop_state(self, state: tuple[list[int], tuple[int, ...]]) -> None:
        super().drop_state(state[0])

    def restore_state(self, slot: int, state: tuple[list[int], tuple[int, ...]], length: int) -> int:
        ids, cuts = state
        assert not self.slots[slot]
        assert sum(map(len, self.slots)) + len(ids) <= self.capacity_tokens
        self.slots[slot], self.marked[slot] = list(ids), set(cuts)
        return self.truncate(slot, length)


def read(runner: FakeRunner) -> int:
    return sum(len(row.token_ids) for rows in runner.batches for row in rows)


def ask(scheduler: Scheduler, runner: StatesRunner, *prompts: list[int]) -> list[int]:
    """Replies to prompts that come at once; how much of each prompt was reused."""
    asked = [sequence(prompt, 4) for prompt in prompts]
    for one in asked:
        scheduler.submit(one)
    run_all(scheduler, runner)
    for one in asked:
        check_output(one)
    return [one.reused for one in asked]


def test_samples_of_one_prompt_read_it_once() -> None:
    runner = StatesRunner(slots=4, context=512, batch=64)
    reused = ask(make(runner), runner, *[[3] * 300] * 4)
    assert reused == [0, 284, 284, 284]
    assert read(runner) == 300 + 3 * 16 + 4 * 3


def test_who_shares_the_beginning_of_one_that_is_read_waits_for_that_and_it_is_marked_there() -> None:
    runner = StatesRunner(slots=3, context=512, batch=64)
    shared = [3] * 200
    assert ask(make(runner), runner, *[[*shared, *[10 + user] * 60] for user in range(3)]) == [0, 200, 200]


def test_a_place_where_conversations_part_is_marked_by_the_second_of_them() -> None:
    runner = StatesRunner(slots=3, context=512, batch=64)
    scheduler = make(runner)
    shared = [3] * 200
    assert [ask(scheduler, runner, [*shared, *[10 + user] * 60])[0] for user in range(4)] == [0, 0, 200, 200]


def test_an_edit_goes_back_to_where_the_reply_before_it_ended() -> None:
    runner = StatesRunner(slots=1, context=1024, batch=64)
    scheduler, line, ends = make(runner), [3] * 100, []
    for turn in range(3):
        one = sequence(line, 4)
        scheduler.submit(one)
        run_all(scheduler, runner)
        ends.append(len(one.ids) - 1)
        line = [*one.ids, *[10 + turn] * 60]
    assert ask(scheduler, runner, [*line[: ends[1] + 30], *[20] * 60]) == [ends[1]]


def test_what_a_mark_does_not_serve_is_read_anew() -> None:
    runner = StatesRunner(slots=1, context=512, batch=64)
    scheduler = make(runner)
    ask(scheduler, runner, [3] * 300)
    assert ask(scheduler, runner, [*[3] * 200, *[4] * 100]) == [0]


def test_long_prompts_are_marked_on_the_way_but_not_twice_in_a_few_tokens() -> None:
    runner = StatesRunner(slots=1, context=8192, batch=512)
    length = 4 * marking.EVERY_TOKENS + 100
    ask(make(runner), runner, [3] * length)
    assert runner.cuts(0) == (1024, 2048, 3072, length - marking.TAIL_TOKENS)


def test_short_prompts_are_not_marked() -> None:
    runner = StatesRunner(slots=1, context=512, batch=64)
    ask(make(runner), runner, [3] * (marking.LEAST_TOKENS + marking.TAIL_TOKENS - 1))
    assert runner.marks == 0


def test_a_deterministic_sequence_is_read_without_marks() -> None:
    runner = StatesRunner(slots=1, context=512, batch=64)
    scheduler, one = make(runner), sequence([3] * 300, 4)
    one.deterministic = True
    scheduler.submit(one)
    run_all(scheduler, runner)
    assert runner.marks == 0


def test_a_saved_state_serves_at_its_marks_too() -> None:
    runner = StatesRunner(slots=1, context=512, batch=64)
    scheduler = make(runner, spill_bytes=100_000)
    for user in range(2):
        ask(scheduler, runner, [10 + user] * 300)
    assert ask(scheduler, runner, [10] * 300) == [284]
    assert ask(scheduler, runner, [*[10] * 290, *[7] * 10]) == [284]
    assert scheduler.spill.restores >= 1


class MarkingMachine(SchedulerMachine):
    """The same rules over such a memory, with marks everywhere and saved states."""

    def runner_of(self, **options: int) -> FakeRunner:
        return StatesRunner(**options)

    def scheduler_of(self, runner: FakeRunner) -> Scheduler:
        scheduler = make(runner, spill_bytes=600)
        scheduler.spill.min_tokens = 4
        scheduler.table.min_wait_tokens = 3
        return scheduler


@pytest.fixture(autouse=True)
def small(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "Machine" in request.node.nodeid:
        for name, value in {"TAIL_TOKENS": 3, "EVERY_TOKENS": 12, "LEAST_TOKENS": 2, "APART_TOKENS": 2}.items():
            monkeypatch.setattr(marking, name, value)


TestMarkingMachine = MarkingMachine.TestCase
TestMarkingMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
