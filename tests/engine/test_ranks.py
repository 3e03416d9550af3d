"""Slots that run stand side by side where only neighbours are computed together; nobody loses a token by that."""

from __future__ import annotations

import pytest
from hypothesis import settings

from modules.core.errors import AppError
from modules.engine.pace import MOST_HELD_S
from modules.engine.scheduler import BEGUN_TOKENS, Scheduler
from modules.engine.sequence import Sequence
from modules.engine.slots import MOST_MOVED_BYTES
from tests.engine.test_scheduler import SchedulerMachine, check_output, make, run_all, sequence, step
from tests.engine.test_tiles import ROWS, measured
from tests.fakes import FakeRunner


class ApartRunner(FakeRunner):
    """One that would compute rows of slots with gaps between them in several parts."""

    mixes_slots = False

    def __init__(self, **options) -> None:
        super().__init__(**options)
        self.groups: list[int] = []
        self.running_slots = lambda: set()

    def forward(self, rows):
        running = sorted(self.running_slots())
        self.groups.append(sum(1 for index in running if index - 1 not in running))
        return super().forward(rows)


def apart(slots: int = 8, **options) -> tuple[ApartRunner, Scheduler]:
    runner = ApartRunner(slots=slots, **{"context": 100, **options})
    scheduler = make(runner)
    runner.running_slots = lambda: {slot.index for slot in scheduler.slots if slot.sequence is not None}
    return runner, scheduler


def places(scheduler: Scheduler) -> list[int]:
    return sorted(slot.index for slot in scheduler.slots if slot.sequence is not None)


def talks(scheduler: Scheduler, runner: FakeRunner, count: int = 8) -> list[Sequence]:
    """As many ended conversations, one in each slot."""
    first = [sequence([index + 1] * 12, 4) for index in range(count)]
    for one in first:
        scheduler.submit(one)
    run_all(scheduler, runner)
    return first


@pytest.mark.parametrize("returning", [(0, 7), (1, 3, 5, 7), (0, 1, 4, 5, 7), (2, 3, 4), (0, 2, 3, 4, 5, 6, 7)])
def test_who_comes_back_is_computed_together_and_nothing_is_read_again(returning):
    runner, scheduler = apart()
    first = talks(scheduler, runner)
    second = [sequence([*first[index].ids, 9, 9], 6) for index in returning]
    for one in second:
        scheduler.submit(one)
    runner.groups.clear()
    run_all(scheduler, runner)
    assert max(runner.groups) == 1
    for one in second:
        check_output(one)
        assert one.reused == len(first[0].ids) - 1
    held = [slot.cached for slot in scheduler.slots]
    for index, one in enumerate(first):  # who rested meanwhile is still there, in whatever place
        assert index in returning or one.ids[:-1] in held


def test_a_gap_that_an_end_leaves_is_closed_and_what_ended_is_kept():
    runner, scheduler = apart()
    running = [sequence([index + 1] * 5, 4 if index == 2 else 40) for index in range(6)]
    for one in running:
        scheduler.submit(one)
    while running[2].slot >= 0 or not running[2].produced:
        step(scheduler, runner)
    step(scheduler, runner)
    assert places(scheduler) == [0, 1, 2, 3, 4]
    assert running[2].ids[:-1] in [slot.cached for slot in scheduler.slots]
    run_all(scheduler, runner)
    assert max(runner.groups) == 1
    for one in running:
        check_output(one)


def test_those_who_take_turns_are_neighbours_in_whatever_order_they_came():
    runner, scheduler = apart(slots=4)
    first = talks(scheduler, runner, 4)
    scheduler.crew.size = lambda decoding: min(2, decoding)
    second = [sequence([*first[index].ids, 9], 8) for index in (3, 0, 2, 1)]
    for one in second:
        scheduler.submit(one)
    while not all(one.produced for one in second):
        step(scheduler, runner)
    turns = []
    for _ in range(6):
        step(scheduler, runner)
        turns.append(sorted(row.slot for row in runner.batches[-1]))
    assert turns == [[0, 1], [2, 3]] * 3
    run_all(scheduler, runner)
    for one in second:
        check_output(one)


def test_where_all_slots_are_mixed_nobody_moves():
    runner = FakeRunner(slots=8, context=100)
    scheduler = make(runner)
    first = talks(scheduler, runner)
    for index in (0, 7):
        scheduler.submit(sequence([*first[index].ids, 9], 6))
    step(scheduler, runner)
    assert places(scheduler) == [0, 7]


@pytest.mark.parametrize("is_large", [False, True])
def test_a_place_that_cannot_be_saved_is_kept(is_large):
    """Or whose state would take too much main memory, once more for a moment."""
    runner, scheduler = apart()
    first = talks(scheduler, runner)

    def refuse(slot: int):
        raise AppError(f"Slot {slot} cannot be saved.")

    if is_large:
        runner.state_bytes = lambda slot: MOST_MOVED_BYTES if slot == 4 else 4 * len(runner.slots[slot])
    else:
        runner.save_state = refuse
    second = [sequence([*first[index].ids, 9], 6) for index in (0, 4)]
    for one in second:
        scheduler.submit(one)
    step(scheduler, runner)
    assert places(scheduler) == [0, 4]
    run_all(scheduler, runner)
    for one in second:
        check_output(one)


@pytest.mark.parametrize("begun", [0, 3])
def test_what_is_not_taken_back_whole_is_read_again(begun):
    """Also of one that writes already when its place is changed."""
    runner, scheduler = apart()
    first = talks(scheduler, runner)
    writing = [sequence([*first[index].ids, 9], 12) for index in range(begun)]
    for one in writing:
        scheduler.submit(one)
    for _ in range(3 if begun else 0):
        step(scheduler, runner)
    if begun:
        scheduler.finish(writing.pop(1))
    restore = runner.restore_state

    def lose(slot: int, state: list[int], length: int) -> int:
        restore(slot, state, length)
        runner.slots[slot].clear()
        return 0

    runner.restore_state = lose
    second = [] if begun else [sequence([*first[index].ids, 9], 6) for index in (0, 4)]
    for one in second:
        scheduler.submit(one)
    while scheduler.running or scheduler.waiting:
        step(scheduler, runner)
        for one in scheduler.running:
            assert runner.slots[one.slot] == one.ids[: one.computed]
    for one in (*writing, *second):
        check_output(one)


def test_all_that_moves_before_a_step_has_one_limit():
    runner, scheduler = apart(slots=16)
    first = talks(scheduler, runner, 16)
    runner.state_bytes = lambda slot: MOST_MOVED_BYTES // 4
    second = [sequence([*first[index].ids, 9], 6) for index in (0, 2, 4, 6, 8, 10)]
    for one in second:
        scheduler.submit(one)
    step(scheduler, runner)
    assert scheduler.figures()["moves"] == 2
    run_all(scheduler, runner)
    for one in second:
        check_output(one)


def test_what_a_draft_model_has_read_stays_in_its_slot():
    runner, scheduler = apart()
    first = talks(scheduler, runner)
    scheduler.table.keeps_places = True
    for index in (0, 4):
        scheduler.submit(sequence([*first[index].ids, 9], 6))
    step(scheduler, runner)
    assert (places(scheduler), scheduler.figures()["moves"]) == ([0, 4], 0)


def test_beside_a_reply_with_a_cache_of_its_own_a_turn_is_a_tile_in_a_step_of_its_own():
    runner, scheduler = apart(slots=2, context=4096, batch=512)
    runner.tile_rows = ROWS
    scheduler = make(runner)
    first = sequence([7] * 1000)
    scheduler.submit(first)
    run_all(scheduler, runner)
    talking = sequence([1, 2, 3], 500)
    scheduler.submit(talking)
    for _ in range(BEGUN_TOKENS + 2):
        step(scheduler, runner)
    scheduler.pace.tiles = measured()
    scheduler.pace.prefill_s_per_token = 0.001
    turn = sequence([*first.ids, *[8] * 40])
    scheduler.submit(turn)
    scheduler.admit()
    assert [len(share.row.token_ids) for share in scheduler.plan()] == [ROWS]
    run_all(scheduler, runner)
    check_output(turn)


def test_those_who_just_began_wait_for_the_short_prompts_of_the_others():
    runner, scheduler = apart(slots=8, context=2000, batch=700)
    first = sequence([1] * 90, 200)
    scheduler.submit(first)
    while first.produced == 0:
        step(scheduler, runner)
    others = [sequence([number] * 90, 200) for number in range(2, 9)]
    for one in others:
        scheduler.submit(one)
    step(scheduler, runner)
    assert (first.produced, [one.produced for one in others]) == (1, [1] * 7)
    step(scheduler, runner)
    assert not scheduler._held_s  # all are read: those who come next are waited for again
    late = sequence([9] * 90, 20)
    while first.produced <= BEGUN_TOKENS:
        step(scheduler, runner)
    scheduler.finish(others[-1])
    scheduler.submit(late)
    before = sum(one.produced for one in (first, *others))
    for _ in range(2):
        step(scheduler, runner)
    assert sum(one.produced for one in (first, *others)) > before  # their streams flow
    run_all(scheduler, runner)
    for one in (first, *others[:-1], late):
        check_output(one)


@pytest.mark.parametrize("slow", [False, True])
def test_those_who_just_began_wait_for_no_prompts_that_take_long(slow: bool):
    runner, scheduler = apart(slots=8, context=2000, batch=700 if slow else 80)
    first = sequence([1] * 90, 200)
    scheduler.submit(first)
    while first.produced == 0:
        step(scheduler, runner)
    scheduler.pace.decode_step_s = 0.001
    scheduler.pace.prefill_s_per_token = MOST_HELD_S / 600 if slow else 0.0001
    for number in range(2, 9):
        scheduler.submit(sequence([number] * 90, 200))
    written = []
    for _ in range(6):
        step(scheduler, runner, lambda shares: sum(len(share.row.token_ids) for share in shares) * scheduler.pace.prefill_s_per_token)
        written.append(first.produced)
    assert written == [1, 2, 2, 3, 3, 4], "steps of both kinds take turns"


def test_no_few_tokens_of_a_prompt_stand_beside_the_end_of_another():
    runner, scheduler = apart(slots=3, context=2000, batch=300)
    for start in range(3):
        scheduler.submit(sequence([start] * 130))
    step(scheduler, runner)  # the speed of reading is not known yet
    scheduler.pace.prefill_s_per_token = 0.001
    assert [len(share.row.token_ids) for share in scheduler.plan()] == [66, 130, 104]
    runner, scheduler = apart(slots=3, context=2000, batch=300)
    scheduler.pace.prefill_s_per_token = 0.001
    for start in range(3):
        scheduler.submit(sequence([start] * 130))
    scheduler.admit()
    assert [len(share.row.token_ids) for share in scheduler.plan()] == [130, 130]
    run_all(scheduler, runner)


class ApartMachine(SchedulerMachine):
    """The same with caches apart."""

    def runner_of(self, **options):
        return ApartRunner(**options)

    def scheduler_of(self, runner):
        scheduler = make(runner)
        runner.running_slots = lambda: {slot.index for slot in scheduler.slots if slot.sequence is not None}
        return scheduler

    def teardown(self):
        super().teardown()
        if hasattr(self, "runner"):
            assert max(self.runner.groups, default=1) == 1


TestApartMachine = ApartMachine.TestCase
TestApartMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@pytest.mark.parametrize(("s_per_token", "reused"), [(1e-9, 0), (0.01, 12)])
def test_what_is_shared_with_a_long_conversation_is_copied_where_that_is_sooner_done_than_computing(s_per_token: float, reused: int):
    runner, scheduler = apart(slots=3, context=2000, batch=512)
    scheduler.submit(sequence([5] * 12 + [6] * 1000, 4))
    run_all(scheduler, runner)
    scheduler.pace.prefill_s_per_token = s_per_token
    one = sequence([5] * 12 + [7] * 20, 4)
    scheduler.submit(one)
    scheduler.admit()
    assert one.reused == reused
    run_all(scheduler, runner)
    check_output(one)


@pytest.mark.parametrize("s_per_token", [1e-9, 0.01])
def test_what_is_shared_with_a_long_saved_conversation_likewise(s_per_token: float):
    runner, scheduler = apart(slots=1, context=2000, batch=512)
    scheduler = make(runner, spill_bytes=1 << 20)
    scheduler.submit(sequence([5] * 80 + [6] * 1000, 4))
    run_all(scheduler, runner)
    scheduler.submit(sequence([8] * 700, 4))
    run_all(scheduler, runner)
    assert scheduler.figures()["spilled_tokens"] >= 1000
    scheduler.pace.prefill_s_per_token = s_per_token
    one = sequence([5] * 80 + [7] * 20, 4)
    scheduler.submit(one)
    scheduler.admit()
    assert one.reused == (80 if s_per_token > 0.001 else 0)
    run_all(scheduler, runner)
    check_output(one)


def test_of_two_that_share_as_much_the_shorter_one_is_copied():
    runner, scheduler = apart(slots=4, context=2000, batch=512)
    short, long = sequence([5] * 100 + [4] * 200, 4), sequence([5] * 100 + [6] * 1000, 4)
    for one in (short, long):
        scheduler.submit(one)
        run_all(scheduler, runner)
    copied: list[int] = []
    copy = runner.copy_prefix
    runner.copy_prefix = lambda source, target, length: copied.append(runner_length(scheduler, source)) or copy(source, target, length)
    scheduler.submit(sequence([5] * 100 + [7] * 20, 4))
    run_all(scheduler, runner)
    assert copied == [len(short.ids) - 1]


def runner_length(scheduler: Scheduler, slot: int) -> int:
    return scheduler.slots[slot].length
