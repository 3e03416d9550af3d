"""Prompts with the same beginning that come together: it is computed once, and nobody waits in vain."""

from __future__ import annotations

from hypothesis import settings

from tests.engine.test_scheduler import SchedulerMachine, check_output, make, run_all, sequence, step
from tests.fakes import FakeRunner


def computed(runner: FakeRunner) -> int:
    """Tokens that the model worked on."""
    return sum(len(row.token_ids) for rows in runner.batches for row in rows)


def test_samples_of_one_prompt_read_it_once():
    runner = FakeRunner(slots=4, context=1024, batch=512)
    scheduler = make(runner)
    prompt = [3] * 400
    samples = [sequence(prompt, 5) for _ in range(6)]  # two of them have to wait for a slot
    for one in samples:
        scheduler.submit(one)
    run_all(scheduler, runner)
    for one in samples:
        check_output(one)
    assert [one.reused for one in samples] == [0, 399, 399, 399, 399, 399]
    assert computed(runner) == 400 + 5 * 1 + 6 * 4


def test_a_shared_system_prompt_is_read_once_and_each_goes_on_by_itself():
    runner = FakeRunner(slots=4, context=1024, batch=64)
    scheduler = make(runner)
    users = [sequence([*[3] * 300, *[10 + user] * 20], 5) for user in range(4)]
    for one in users:
        scheduler.submit(one)
    scheduler.admit()
    assert [one.slot >= 0 for one in users] == [True] * 4
    assert [share.sequence for share in scheduler.plan()] == users[:1]
    run_all(scheduler, runner)
    for one in users:
        check_output(one)
    assert [one.reused for one in users] == [0, 300, 300, 300]
    assert computed(runner) == 300 + 4 * 20 + 4 * 4


def test_one_that_shares_more_with_another_that_waits_gets_that_too():
    runner = FakeRunner(slots=3, context=1024, batch=64)
    scheduler = make(runner)
    first = sequence([3] * 100, 5)
    second = sequence([*[3] * 90, *[4] * 200], 5)
    third = sequence([*[3] * 90, *[4] * 150, 5], 5)
    for one in (first, second, third):
        scheduler.submit(one)
    run_all(scheduler, runner)
    for one in (first, second, third):
        check_output(one)
    assert computed(runner) == 100 + 200 + 1 + 3 * 4
    assert third.reused == 240


def test_one_that_has_no_room_for_more_keeps_what_it_took_over():
    """As of four prompts with two beginnings; the room is for the shorter one in all slots, and not for the longer one in all of them."""
    runner = FakeRunner(slots=4, capacity=260, batch=32)
    scheduler = make(runner)
    longer = [*[3] * 33, *[4] * 32]
    prompts = [sequence([3] * 33 + [5], 30), *(sequence([*longer, 6 + number], 30) for number in range(3))]
    for one in prompts:
        scheduler.submit(one)
    run_all(scheduler, runner)
    for one in prompts:
        check_output(one)


def test_if_the_leader_is_cancelled_the_others_go_on_from_what_it_had():
    runner = FakeRunner(slots=4, context=1024, batch=64)
    scheduler = make(runner)
    samples = [sequence([3] * 400, 5) for _ in range(4)]
    for one in samples:
        scheduler.submit(one)
    for _ in range(3):
        step(scheduler, runner)
    done = samples[0].computed
    assert 0 < done < 399
    scheduler.finish(samples[0])
    run_all(scheduler, runner)
    for one in samples[1:]:
        check_output(one)
    assert computed(runner) == 400 + 2 * 1 + 3 * 4
    assert [one.reused for one in samples[1:]] == [done, 399, 399]


def test_a_leader_that_lost_its_slot_leaves_nobody_waiting():
    runner = FakeRunner(slots=4, context=512, batch=32)
    scheduler = make(runner)
    samples = [sequence([3] * 300, 5) for _ in range(3)]
    for one in samples:
        scheduler.submit(one)
    step(scheduler, runner)
    scheduler.empty_for(samples[0].slot, 10)
    run_all(scheduler, runner)
    for one in samples:
        check_output(one)


def test_nobody_waits_for_a_short_beginning():
    runner = FakeRunner(slots=4, context=512, batch=128)
    scheduler = make(runner)
    for user in range(3):
        scheduler.submit(sequence([*[3] * 10, *[10 + user] * 10], 5))
    scheduler.admit()
    assert len(scheduler.plan()) == 3


def test_a_memory_that_cannot_copy_runs_each_by_itself():
    class Recurrent(FakeRunner):
        keeps_parts = False

        def truncate(self, slot: int, length: int) -> int:
            return super().truncate(slot, length if length >= len(self.slots[slot]) else 0)

        def copy_prefix(self, source: int, target: int, length: int) -> bool:
            return False

    runner = Recurrent(slots=3, context=512, batch=512)
    scheduler = make(runner)
    samples = [sequence([3] * 100, 5) for _ in range(3)]
    for one in samples:
        scheduler.submit(one)
    scheduler.admit()
    assert [share.sequence for share in scheduler.plan()] == samples[:1]  # 64 tokens, until the speed is known
    run_all(scheduler, runner)
    for one in samples:
        check_output(one)
    assert computed(runner) == 3 * 104


def test_editing_an_early_message_reuses_up_to_the_edit():
    runner = FakeRunner(slots=2, context=1024)
    scheduler = make(runner)
    first = sequence([*[3] * 200, *[4] * 200], 5)
    scheduler.submit(first)
    run_all(scheduler, runner)
    edited = sequence([*[3] * 150, 9, *[3] * 49, *[4] * 200], 5)
    scheduler.submit(edited)
    run_all(scheduler, runner)
    check_output(edited)
    assert edited.reused == 150


class SharingMachine(SchedulerMachine):
    """The same where two shared tokens are enough to wait for, and states are saved."""

    def scheduler_of(self, runner):
        scheduler = make(runner, 4 * 90)
        scheduler.spill.min_tokens = 1
        scheduler.table.min_wait_tokens = 2
        return scheduler


TestSharingMachine = SharingMachine.TestCase
TestSharingMachine.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
