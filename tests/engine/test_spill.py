"""Conversations that lose their slot: what is saved, what is put back, and within which budget."""

from __future__ import annotations

from hypothesis import settings

from modules.core.model import Adapter
from modules.engine.spill import MIN_SPILL_TOKENS, Spill
from tests.engine.test_scheduler import SchedulerMachine, check_output, make, run_all, sequence
from tests.fakes import FakeRunner

BUDGET = 1 << 20


def talk(scheduler, runner, ids, **options):
    """A reply to a prompt, written to its end."""
    one = sequence(ids, **options)
    scheduler.submit(one)
    run_all(scheduler, runner)
    check_output(one)
    return one


def test_two_conversations_in_one_slot_are_each_read_once():
    runner = FakeRunner(slots=1, context=2048)
    scheduler = make(runner, BUDGET)
    lines = [[100 + user] * 400 for user in range(2)]
    for turn in range(5):
        for user in range(2):
            asked = [*lines[user], 7, turn]
            one = talk(scheduler, runner, asked)
            assert one.reused == (0 if turn == 0 else len(lines[user]) - 1)  # all but the last token of the reply, which was not computed
            lines[user] = one.ids


def test_a_shared_beginning_does_not_cost_the_other_conversation_its_own_part():
    runner = FakeRunner(slots=1, context=2048)
    scheduler = make(runner, BUDGET)
    first = talk(scheduler, runner, [*range(200), *[1] * 100])
    second = talk(scheduler, runner, [*range(200), *[2] * 100])
    assert second.reused == 200
    assert talk(scheduler, runner, [*first.ids, 3]).reused == len(first.ids) - 1
    assert talk(scheduler, runner, [*second.ids, 3]).reused == len(second.ids) - 1


def test_a_slot_is_preferred_unless_a_saved_state_has_more():
    runner = FakeRunner(slots=2, context=2048)
    scheduler = make(runner, BUDGET)
    first = talk(scheduler, runner, [5] * 300)
    talk(scheduler, runner, [*[5] * 300, *[6] * 300])  # continues in the slot of the first; then others push it out
    for number in (7, 8):
        talk(scheduler, runner, [number] * 100)
    assert talk(scheduler, runner, [*[5] * 300, *[6] * 300, 1]).reused == 600
    assert scheduler.spill.restored_tokens == 600
    assert talk(scheduler, runner, [*[8] * 100, 1]).reused == 100
    assert scheduler.spill.restored_tokens == 600
    assert first.ids[:300] == [5] * 300


def test_what_stands_elsewhere_too_is_not_saved():
    runner = FakeRunner(slots=2, context=2048)
    scheduler = make(runner, BUDGET)
    scheduler.submit(sequence([5] * 200, 1))
    run_all(scheduler, runner)
    long = sequence([*[5] * 200, *[6] * 500], 1)
    short = scheduler.slots[0]
    scheduler.submit(long)
    run_all(scheduler, runner)
    other = scheduler.slots[1 - short.index]
    other.cached, runner.slots[other.index] = list(short.cached[:150]), list(short.cached[:150])
    scheduler.table.evict(other)
    assert scheduler.spill.tokens == 0
    scheduler.table.evict(short)
    assert scheduler.spill.tokens == 700
    other.cached, runner.slots[other.index] = [5] * 150, [5] * 150
    scheduler.table.evict(other)
    assert scheduler.spill.tokens == 700


def test_a_longer_state_takes_the_place_of_its_beginning():
    runner = FakeRunner(slots=1)
    spill = Spill(runner, BUDGET)
    for length in (100, 150, 120):
        runner.slots[0] = list(range(length))
        spill.save(0, list(range(length)), (), lost=length, prefill_s_per_token=0)
    assert (spill.tokens, spill.size_bytes) == (150, 600)


def test_the_budget_holds_and_who_was_used_last_stays():
    runner = FakeRunner(slots=1, context=1000)
    spill = Spill(runner, 4 * 250)

    def save(number: int, length: int) -> None:
        runner.slots[0] = [number] * length
        spill.save(0, [number] * length, (), lost=length, prefill_s_per_token=0)

    def held() -> list[int]:
        return [number for number in range(9) if spill.longest([number] * 1000, ())[0] is not None]

    save(1, 100)
    save(2, 100)
    save(1, 90)  # already here: counts as a use
    save(3, 100)
    assert held() == [1, 3]
    save(4, 251)
    assert held() == [1, 3]
    save(5, MIN_SPILL_TOKENS - 1)
    assert held() == [1, 3]
    save(6, 250)
    assert held() == [6]
    assert spill.size_bytes == 1000


def test_a_budget_of_zero_keeps_nothing():
    runner = FakeRunner(slots=1, context=2048)
    scheduler = make(runner)
    first = talk(scheduler, runner, [1] * 300)
    talk(scheduler, runner, [2] * 300)
    assert talk(scheduler, runner, [*first.ids, 3]).reused == 0


def test_states_belong_to_their_adapters():
    runner = FakeRunner(slots=1, context=2048)
    scheduler = make(runner, BUDGET)
    first = talk(scheduler, runner, [1] * 300)
    talk(scheduler, runner, [2] * 300)
    scheduler.adapters = (Adapter(path="a"),)
    other = sequence([*first.ids, 3])
    other.adapters = scheduler.adapters
    scheduler.submit(other)
    run_all(scheduler, runner)
    assert other.reused == 0
    scheduler.adapters = ()
    assert talk(scheduler, runner, [*first.ids, 3]).reused == len(first.ids) - 1


def test_a_memory_that_keeps_no_parts_gets_whole_states_only():
    class Recurrent(FakeRunner):
        keeps_parts = False

        def truncate(self, slot: int, length: int) -> int:
            return super().truncate(slot, length if length >= len(self.slots[slot]) else 0)

        def copy_prefix(self, source: int, target: int, length: int) -> bool:
            return False

    runner = Recurrent(slots=1, context=2048)
    scheduler = make(runner, BUDGET)
    first = talk(scheduler, runner, [1] * 300)
    second = talk(scheduler, runner, [2] * 300)
    assert talk(scheduler, runner, [*first.ids, 9]).reused == len(first.ids) - 1
    assert talk(scheduler, runner, [*second.ids[:250], 9]).reused == 0  # a part is of no use
    assert talk(scheduler, runner, [*second.ids, 9]).reused == len(second.ids) - 1  # and the whole is still there


def test_what_was_computed_before_a_preemption_comes_back():
    runner = FakeRunner(slots=3, context=512, capacity=600, batch=512)
    scheduler = make(runner, BUDGET)
    all_of_them = [sequence([number] * 150, 150) for number in range(3)]
    for one in all_of_them:
        scheduler.submit(one)
    run_all(scheduler, runner)
    assert scheduler.spill.restored_tokens > 150
    assert sum(len(row.token_ids) for rows in runner.batches for row in rows) == 3 * 299  # every token was computed once
    for one in all_of_them:
        check_output(one)


def test_saving_that_costs_more_than_computing_is_left_out():
    runner = FakeRunner(slots=1)
    spill = Spill(runner, BUDGET)
    spill._copies, spill._s_per_byte = 3, 1e-3
    runner.slots[0] = [1] * 100
    spill.save(0, [1] * 100, (), lost=100, prefill_s_per_token=0.001)
    assert spill.tokens == 0
    spill.save(0, [1] * 100, (), lost=100, prefill_s_per_token=0.01)
    assert spill.tokens == 100


def test_a_state_that_cannot_be_saved_or_taken_back_is_computed_again():
    class Failing(FakeRunner):
        broken = ""

        def save_state(self, slot: int) -> list[int]:
            if self.broken == "save":
                raise MemoryError
            return super().save_state(slot)

        def restore_state(self, slot: int, state: list[int], length: int) -> int:
            return 0 if self.broken == "restore" else super().restore_state(slot, state, length)

    runner = Failing(slots=1, context=2048)
    scheduler = make(runner, BUDGET)
    first = talk(scheduler, runner, [1] * 300)
    runner.broken = "save"
    talk(scheduler, runner, [2] * 300)
    assert scheduler.spill.tokens == 0
    assert talk(scheduler, runner, [*first.ids, 3]).reused == 0
    runner.broken = ""
    talk(scheduler, runner, [2] * 300)
    runner.broken = "restore"
    assert talk(scheduler, runner, [*first.ids, 3]).reused == 0


def test_emptying_all_slots_forgets_what_was_saved():
    runner = FakeRunner(slots=1, context=2048)
    scheduler = make(runner, BUDGET)
    first = talk(scheduler, runner, [1] * 300)
    talk(scheduler, runner, [2] * 300)
    scheduler.empty_all()
    assert (scheduler.spill.tokens, scheduler.used_tokens) == (0, 0)
    assert talk(scheduler, runner, [*first.ids, 3]).reused == 0


class SpillingMachine(SchedulerMachine):
    """The same under a budget that is often too small, with states that are worth saving from the first token."""

    def scheduler_of(self, runner):
        scheduler = make(runner, 4 * 90)
        scheduler.spill.min_tokens = 1
        return scheduler


TestSpillingMachine = SpillingMachine.TestCase
TestSpillingMachine.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)


def test_what_cannot_be_taken_in_part_stays_whole():
    class Whole(FakeRunner):
        """As where positions behind a window are gone: a part that is cut out of a state sees too little."""

        def restore_state(self, slot: int, state: list[int], length: int) -> int:
            return super().restore_state(slot, state, length) if length == len(state) else 0

    runner = Whole(slots=1, context=2048)
    scheduler = make(runner, BUDGET)
    first = talk(scheduler, runner, [1] * 300)
    talk(scheduler, runner, [2] * 300)
    assert talk(scheduler, runner, [*[1] * 200, 9]).reused == 0
    assert talk(scheduler, runner, [*first.ids, 3]).reused == len(first.ids) - 1
