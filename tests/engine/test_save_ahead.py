"""What is done for the next conversations while nothing else is to be done: states saved ahead, memory made ready for others."""

from __future__ import annotations

from modules.engine.spill import MEASURED_SAVES
from tests.engine.test_scheduler import make
from tests.engine.test_spill import BUDGET, talk
from tests.fakes import FakeRunner

SLOW = 1.0  # seconds for a byte, so that nothing is saved in a moment


def test_memory_is_ready_for_the_next_save_while_nothing_else_is_to_be_done():
    runner = FakeRunner(slots=1, context=2048)
    scheduler = make(runner, BUDGET)
    rest = iter([True] * 3 + [False] + [True] * 1000)
    scheduler.spill.ready_memory(lambda: next(rest))
    assert not runner.ready_bytes  # nothing was saved yet, so perhaps nothing ever will be
    first = talk(scheduler, runner, [5] * 300)
    talk(scheduler, runner, [6] * 300)
    scheduler.spill.ready_memory(lambda: next(rest))
    assert runner.ready_bytes == 12  # a piece each time, until somebody came
    scheduler.spill.ready_memory(lambda: next(rest))
    assert runner.ready_bytes == 4 * (len(first.ids) - 1)


def test_memory_is_ready_for_what_the_next_conversation_will_push_out():
    runner = FakeRunner(slots=2, context=2048)
    scheduler = make(runner, BUDGET)
    talk(scheduler, runner, [5] * 300)
    short = talk(scheduler, runner, [6] * 100)
    scheduler.table.save_ahead(lambda: True)
    assert not runner.ready_bytes  # nothing was pushed out yet, so perhaps nothing ever will be
    new = talk(scheduler, runner, [7] * 200)  # in the place of the long one
    scheduler.spill._s_per_byte = SLOW
    scheduler.table.save_ahead(lambda: True)
    sizes = [4 * (len(one.ids) - 1) for one in (short, new)]
    assert runner.ready_bytes == sum(sizes) + scheduler.spill._last_bytes  # and as much as the last save took, for one more
    scheduler.forget_all()
    runner.ready_bytes = 0
    longer = talk(scheduler, runner, [8] * 400)
    scheduler.spill._expected = []
    scheduler.table.save_ahead(lambda: True)
    assert not runner.ready_bytes  # a slot is empty
    talk(scheduler, runner, [9] * 20)  # too little to be saved
    scheduler.table.save_ahead(lambda: True)
    assert runner.ready_bytes == 4 * (len(longer.ids) - 1) + scheduler.spill._last_bytes


def test_memory_is_ready_for_all_that_several_conversations_will_push_out(monkeypatch):
    runner = FakeRunner(slots=3, context=2048)
    scheduler = make(runner, BUDGET)
    talk(scheduler, runner, [4] * 300)
    last = [talk(scheduler, runner, [token] * length) for token, length in ((5, 100), (6, 200), (7, 300))]
    scheduler.spill._s_per_byte = SLOW
    scheduler.table.save_ahead(lambda: True)
    sizes = [4 * (len(one.ids) - 1) for one in last]
    assert runner.ready_bytes == sum(sizes) + scheduler.spill._last_bytes
    monkeypatch.setattr("modules.engine.spill.MOST_READY_BYTES", sum(sizes) - 1)
    runner.ready_bytes = 0
    scheduler.table.save_ahead(lambda: True)
    assert runner.ready_bytes == sum(sizes[:2])  # those that go first
    scheduler.spill.budget_bytes = scheduler.spill.size_bytes + sizes[0]
    runner.ready_bytes = 0
    scheduler.table.save_ahead(lambda: True)
    assert runner.ready_bytes == sizes[0]  # what the budget has room for


def pushed_out_once(slots):
    """A model with something in each slot, of which something was pushed out."""
    runner = FakeRunner(slots=slots, context=2048)
    scheduler = make(runner, BUDGET)
    talks = [talk(scheduler, runner, [3 + number] * 200) for number in range(slots + 1)]
    scheduler.spill._s_per_byte = 1e-9
    return scheduler, runner, talks


def test_what_will_be_pushed_out_is_saved_while_nothing_else_is_to_be_done():
    scheduler, runner, talks = pushed_out_once(2)
    scheduler.table.save_ahead(lambda: True)
    saves = scheduler.spill.saves
    assert saves == 3
    assert scheduler.spill.tokens == sum(len(one.ids) - 1 for one in talks)
    scheduler.table.save_ahead(lambda: True)
    runner.save_state = None  # whoever comes now waits for no copy
    other = talk(scheduler, runner, [90] * 200)
    assert scheduler.spill.saves == saves
    del runner.save_state
    for one in (*talks, other):
        assert talk(scheduler, runner, [*one.ids, 1]).reused == len(one.ids) - 1


def test_a_conversation_that_goes_on_takes_the_place_of_what_was_saved_of_it():
    scheduler, runner, talks = pushed_out_once(1)
    scheduler.table.save_ahead(lambda: True)
    longer = talk(scheduler, runner, [*talks[-1].ids, 1, 2])
    assert longer.reused == len(talks[-1].ids) - 1
    scheduler.table.save_ahead(lambda: True)
    assert scheduler.spill.tokens == len(talks[0].ids) + len(longer.ids) - 2


def test_what_takes_longer_than_a_moment_is_not_saved_ahead():
    scheduler, runner, _ = pushed_out_once(2)
    scheduler.spill._s_per_byte = SLOW
    scheduler.table.save_ahead(lambda: True)
    assert scheduler.spill.saves == 1
    assert runner.ready_bytes


def test_where_a_longer_state_takes_the_place_of_none_nothing_is_saved_ahead():
    scheduler, runner, _ = pushed_out_once(2)
    runner.keeps_parts = False
    scheduler.table.save_ahead(lambda: True)
    assert scheduler.spill.saves == 1
    assert runner.ready_bytes


def test_memory_stays_ready_for_what_takes_longer_than_a_moment():
    scheduler, runner, talks = pushed_out_once(2)
    longer = talk(scheduler, runner, [*talks[-1].ids, *[9] * 300])
    scheduler.spill._s_per_byte = 0.004 / (4 * len(talks[0].ids))
    told, ready = [], runner.ready_memory
    runner.ready_memory = lambda sizes: (told.append(list(sizes)), ready(sizes))[1]
    scheduler.table.save_ahead(lambda: True)
    assert scheduler.spill.saves == 2
    assert all(4 * (len(longer.ids) - 1) in sizes for sizes in told)


def test_what_is_saved_ahead_pushes_nothing_out():
    scheduler, _, talks = pushed_out_once(2)
    scheduler.spill.budget_bytes = 3 * 4 * (len(talks[0].ids) - 1) - 1
    scheduler.table.save_ahead(lambda: True)
    assert scheduler.spill.saves == 2
    assert scheduler.spill.has(talks[0].ids[:-1], ())


def test_what_a_slot_still_holds_gives_way_before_what_is_nowhere_else():
    scheduler, runner, talks = pushed_out_once(2)
    scheduler.table.save_ahead(lambda: True)
    scheduler.spill.budget_bytes = scheduler.spill.size_bytes
    newcomer = talk(scheduler, runner, [90] * 200)  # in the place of the second, which is saved
    talk(scheduler, runner, [*talks[2].ids, 1, 2])
    talk(scheduler, runner, [91] * 200)  # in the place of the newcomer, for which there is no room
    assert not scheduler.spill.has(talks[2].ids[:-1], ())
    for one in (*talks[:2], newcomer):
        assert scheduler.spill.has(one.ids[:-1], ())
    talk(scheduler, runner, [*newcomer.ids, 1, 2])  # in the place of the third: nothing was saved ahead now
    talk(scheduler, runner, [92] * 200)
    assert not scheduler.spill.has(talks[0].ids[:-1], ())  # the oldest


def test_what_no_slot_holds_any_more_is_not_what_gives_way_first():
    for lose in ("forget_all", "refuse"):
        scheduler, runner, talks = pushed_out_once(1)
        spill = scheduler.spill
        spill.save(0, [99] * 200, (), lost=200, prefill_s_per_token=0)  # somebody else's, used less recently than what follows
        scheduler.table.save_ahead(lambda: True)
        spill.budget_bytes = spill.size_bytes
        if lose == "forget_all":  # as a failed step does
            scheduler.table.forget_all()
        else:
            talk(scheduler, runner, [*talks[1].ids, *[1] * 900])  # grows, and is then too large to be saved
        talk(scheduler, runner, [90] * 200)
        talk(scheduler, runner, [91] * 200)
        assert spill.has(talks[1].ids[:-1], ()), lose
        assert not spill.has(talks[0].ids[:-1], ()), lose  # the oldest


def test_who_comes_while_something_is_saved_ahead_waits_for_one_state():
    scheduler, _, _ = pushed_out_once(3)
    asked = 0

    def at_rest() -> bool:
        nonlocal asked
        asked += scheduler.spill.saves > 1  # the first is saved ahead
        return not asked

    scheduler.table.save_ahead(at_rest)
    assert (scheduler.spill.saves, asked) == (2, 1)


def test_a_state_that_cannot_be_looked_at_is_no_end_of_the_engine():
    runner = FakeRunner(slots=1, context=2048)
    scheduler = make(runner, BUDGET)
    talk(scheduler, runner, [5] * 300)
    scheduler.spill._copies = 1
    asked = []

    def refuse(slot: int) -> int:
        asked.append(slot)
        raise RuntimeError

    runner.state_bytes = refuse
    scheduler.table.save_ahead(lambda: False)  # somebody waits
    scheduler.spill.budget_bytes = 0
    scheduler.table.save_ahead(lambda: True)
    assert not asked
    scheduler.spill.budget_bytes = BUDGET
    scheduler.table.save_ahead(lambda: True)
    assert asked == [0]
    assert not runner.ready_bytes


def test_memory_is_not_made_ready_for_what_is_quicker_computed_again():
    runner = FakeRunner(slots=1, context=2048)
    scheduler = make(runner, BUDGET)
    talk(scheduler, runner, [5] * 300)
    scheduler.spill._copies, scheduler.spill._s_per_byte = MEASURED_SAVES, 1.0
    scheduler.pace.prefill_s_per_token = 1e-3
    scheduler.table.save_ahead(lambda: True)
    assert not runner.ready_bytes
    scheduler.spill._s_per_byte = 1e-6
    scheduler.table.save_ahead(lambda: True)
    assert runner.ready_bytes


def test_memory_is_made_ready_only_within_the_budget():
    runner = FakeRunner(slots=1, context=2048)
    scheduler = make(runner, 2000)
    talk(scheduler, runner, [5] * 300)
    talk(scheduler, runner, [6] * 300)
    assert scheduler.spill.tokens > 300
    scheduler.spill.ready_memory(lambda: True)
    assert not runner.ready_bytes  # one more of this size would be too much: the oldest state gives its memory then


def test_no_memory_left_is_no_end_of_the_engine():
    runner = FakeRunner(slots=1, context=2048)
    scheduler = make(runner, BUDGET)
    talk(scheduler, runner, [5] * 300)
    talk(scheduler, runner, [6] * 300)

    def refuse(sizes: list[int]) -> bool:
        raise MemoryError

    runner.ready_memory = refuse
    scheduler.spill.ready_memory(lambda: True)
    scheduler.spill.ready_memory(lambda: True)
