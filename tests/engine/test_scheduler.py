from __future__ import annotations

from collections.abc import Callable

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from modules.engine.pace import FIRST_CHUNK_TOKENS, MIN_CHUNK_TOKENS
from modules.engine.prefixes import common_prefix
from modules.engine.scheduler import BEGUN_TOKENS, Scheduler
from modules.engine.sequence import Sequence
from modules.engine.shares import Share
from modules.engine.waiting import WaitingQueue
from tests.fakes import FakeRunner, next_byte, solo


def make(runner: FakeRunner, spill_bytes: int = 0) -> Scheduler:
    return Scheduler(
        runner,
        n_slots=runner.n_slots,
        capacity_tokens=runner.capacity_tokens,
        max_batch_tokens=runner.max_batch_tokens,
        max_outputs=runner.max_outputs,
        spill_bytes=spill_bytes,
        tile_rows=runner.tile_rows,
    )


def sequence(ids: list[int], count: int = 8, client: str = "", limit: int = 10_000) -> Sequence:
    return Sequence(list(ids), min(limit, len(ids) + count), client=client)


def step(scheduler: Scheduler, runner: FakeRunner, seconds: float | Callable[[list[Share]], float] = 0.01) -> list[Sequence]:
    """One step as the engine does it; returns the sequences that ended. How long it takes may depend on what is in it."""
    shares = scheduler.again()
    if not shares:
        scheduler.admit()
        shares = scheduler.plan()
    ended = []
    if shares:
        runner.forward([share.row for share in shares])
        scheduler.advance(shares, seconds(shares) if callable(seconds) else seconds)
    for share in shares:
        running = share.sequence
        if share.completes and not running.is_negative:
            running.append(next_byte(running.ids))
            if len(running.ids) >= running.max_length:
                scheduler.finish(running)
                ended.append(running)
    return ended


def run_all(scheduler: Scheduler, runner: FakeRunner, limit: int = 5000) -> int:
    for count in range(limit):
        if not scheduler.running and not scheduler.waiting:
            return count
        step(scheduler, runner)
    raise AssertionError("did not come to an end")


def check_output(done: Sequence) -> None:
    prompt = done.ids[: done.prompt_length]
    assert done.ids[done.prompt_length :] == solo(prompt, done.produced)


# ---- the queue -----------------------------------------------------------------------------------------------------


def test_clients_take_turns_and_each_is_served_in_order():
    queue = WaitingQueue()
    for name in ("a1", "a2", "a3", "b1", "c1", "b2"):
        queue.put(Sequence([ord(name[1])], 10, client=name[0]))
    expected = ["a1", "b1", "c1", "a2", "b2", "a3"]
    assert [s.client + chr(s.ids[0]) for s in queue] == expected
    assert [(s := queue.pop()).client + chr(s.ids[0]) for _ in range(6)] == expected
    assert len(queue) == 0
    assert queue.peek() is None


def test_one_who_lost_a_slot_comes_first_and_can_still_leave():
    queue = WaitingQueue()
    waiting, second, first = (Sequence([1], 5) for _ in range(3))
    first.number, second.number = 1, 2
    queue.put(waiting)
    queue.put_back(second)
    queue.put_back(first)
    assert list(queue) == [first, second, waiting]
    assert queue.remove(second)
    assert not queue.remove(second)
    assert queue.pop() is first
    assert queue.pop() is waiting


# ---- prefixes ------------------------------------------------------------------------------------------------------


def test_common_prefix():
    assert common_prefix([1, 2, 3], [1, 2, 4], 3) == 2
    assert common_prefix([1, 2, 3], [1, 2, 3, 4], 3) == 3
    assert common_prefix([9], [1], 1) == 0
    assert common_prefix([], [], 0) == 0
    for place in range(40):
        other = list(range(40))
        other[place] = -1
        assert common_prefix(list(range(40)), other, 40) == place


def test_the_next_turn_continues_in_its_slot():
    runner = FakeRunner()
    scheduler = make(runner)
    first = sequence(list(range(50)))
    scheduler.submit(first)
    run_all(scheduler, runner)
    second = sequence([*first.ids, 1, 2, 3])
    scheduler.submit(second)
    run_all(scheduler, runner)
    assert second.reused == len(first.ids) - 1  # the last token was never computed
    check_output(second)


def test_the_last_token_of_a_known_prompt_is_computed_again():
    runner = FakeRunner()
    scheduler = make(runner)
    for _ in range(2):
        again = sequence(list(range(30)))
        scheduler.submit(again)
        run_all(scheduler, runner)
    assert again.reused == 29
    check_output(again)


def test_a_prefix_is_copied_from_a_slot_that_is_still_running():
    runner = FakeRunner()
    scheduler = make(runner)
    system = list(range(40))
    first = sequence([*system, 100], 30)
    scheduler.submit(first)
    step(scheduler, runner)
    second = sequence([*system, 101, 102], 30)
    scheduler.submit(second)
    step(scheduler, runner)
    assert second.reused == 40
    assert first.slot != second.slot
    run_all(scheduler, runner)
    check_output(first)
    check_output(second)


def test_a_short_shared_beginning_does_not_destroy_a_long_cache():
    runner = FakeRunner()
    scheduler = make(runner)
    long = sequence(list(range(100)))
    scheduler.submit(long)
    run_all(scheduler, runner)
    other = sequence([*range(20), 200, 201])
    scheduler.submit(other)
    run_all(scheduler, runner)
    assert other.reused == 20
    back = sequence([*long.ids, 7])
    scheduler.submit(back)
    run_all(scheduler, runner)
    assert back.reused == len(long.ids) - 1


# ---- steps ---------------------------------------------------------------------------------------------------------


def test_prompts_that_come_together_are_read_together():
    runner = FakeRunner(batch=512, context=2048)
    scheduler = make(runner)
    scheduler.pace.prefill_s_per_token = 0.003
    first, *others = (sequence([place] * 64, 50) for place in range(4))
    scheduler.submit(first)
    step(scheduler, runner)  # the others come while the first is read
    for other in others:
        scheduler.submit(other)
    step(scheduler, runner)
    assert all(other.produced == 1 for other in others) and first.produced == 2
    while first.produced <= BEGUN_TOKENS:
        step(scheduler, runner)
    scheduler.finish(others[0])
    scheduler.pace.prefill_s_per_token = 0.003
    scheduler.submit(sequence([9] * 300, 5))  # the replies flow by now, and are not held up for long
    scheduler.admit()
    assert len(scheduler.plan()[-1].row.token_ids) == 66
    run_all(scheduler, runner)


def test_decodes_come_first_and_prefill_is_bounded_in_time():
    runner = FakeRunner(batch=512, context=2048)
    scheduler = make(runner)
    talking = sequence([1, 2, 3], 500)
    scheduler.submit(talking)
    for _ in range(BEGUN_TOKENS + 2):
        step(scheduler, runner)
    reading = sequence(list(range(200)) * 8, 5)
    scheduler.submit(reading)
    scheduler.admit()
    shares = scheduler.plan()
    assert [share.sequence for share in shares] == [talking, reading]
    assert len(shares[1].row.token_ids) == FIRST_CHUNK_TOKENS
    step(scheduler, runner, seconds=66.0)  # a second per token: as slow as it gets
    assert len(scheduler.plan()[1].row.token_ids) == MIN_CHUNK_TOKENS
    scheduler.pace.prefill_s_per_token = 0.001
    assert len(scheduler.plan()[1].row.token_ids) == 200
    scheduler.finish(talking)
    assert len(scheduler.plan()[0].row.token_ids) == 512


def test_the_first_prefill_is_small_until_the_speed_is_known():
    runner = FakeRunner(batch=512, context=2048)
    scheduler = make(runner)
    scheduler.submit(sequence(list(range(200)) * 8, 5))
    scheduler.admit()
    assert len(scheduler.plan()[0].row.token_ids) == FIRST_CHUNK_TOKENS
    step(scheduler, runner, seconds=0.0065)
    assert len(scheduler.plan()[0].row.token_ids) == 512


def test_several_prefills_share_a_step():
    runner = FakeRunner(batch=64)
    scheduler = make(runner)
    for start in range(3):
        scheduler.submit(sequence([start] * 25))
    scheduler.admit()
    assert [len(share.row.token_ids) for share in scheduler.plan()] == [25, 25, 14]


def test_the_youngest_makes_room_and_continues_exactly():
    runner = FakeRunner(slots=3, context=64, capacity=96)
    scheduler = make(runner)
    all_of_them = [sequence([number] * 20, 40) for number in range(3)]
    for one in all_of_them:
        scheduler.submit(one)
    lost = False
    while scheduler.running or scheduler.waiting:
        step(scheduler, runner)
        lost = lost or any(s.admitted and s.slot < 0 and s.produced and len(s.ids) < s.max_length for s in all_of_them)
        assert all_of_them[0].slot >= 0 or len(all_of_them[0].ids) == 60
    assert lost
    for one in all_of_them:
        assert one.produced == 40
        check_output(one)


def test_idle_caches_are_evicted_oldest_first():
    runner = FakeRunner(slots=3, context=64, capacity=100)
    scheduler = make(runner)
    for number in range(2):
        scheduler.submit(sequence([number] * 30, 1))
        run_all(scheduler, runner)
    scheduler.submit(sequence([9] * 60, 1))
    run_all(scheduler, runner)
    assert [slot.cached[:1] for slot in scheduler.slots] == [[], [1], [9]]


def test_room_that_shrank_below_one_sequence_leaves_the_decision_to_the_model():
    runner = FakeRunner()
    scheduler = make(runner)
    scheduler.capacity_tokens = 10
    alone = sequence(list(range(50)), 4)
    scheduler.submit(alone)
    run_all(scheduler, runner)
    check_output(alone)


class SchedulerMachine(RuleBasedStateMachine):
    """Anything may come, go and run in any order: slots, room and outputs stay right, and everything ends."""

    alive = Bundle("alive")

    def runner_of(self, **options: int) -> FakeRunner:
        return FakeRunner(**options)

    def scheduler_of(self, runner: FakeRunner) -> Scheduler:
        return make(runner)

    @initialize(slots=st.integers(1, 6), capacity=st.integers(40, 160), batch=st.integers(4, 64))
    def start(self, slots, capacity, batch):
        self.runner = self.runner_of(slots=slots, context=min(capacity, 100), capacity=capacity, batch=batch)
        self.scheduler = self.scheduler_of(self.runner)
        self.all: list[Sequence] = []

    @rule(
        target=alive,
        shared=st.integers(0, 25),
        own=st.lists(st.integers(0, 3), min_size=1, max_size=10),
        count=st.integers(1, 60),
        client=st.sampled_from("abc"),
    )
    def submit(self, shared, own, count, client):
        new = sequence([*range(shared), *own], count, client, limit=min(self.runner.context_length, self.runner.capacity_tokens))
        self.all.append(new)
        self.scheduler.submit(new)
        return new

    @rule(gone=consumes(alive))
    def cancel(self, gone):
        self.scheduler.finish(gone)
        assert gone.slot < 0

    @rule(count=st.integers(1, 12))
    def steps(self, count):
        for _ in range(count):
            for ended in step(self.scheduler, self.runner):
                check_output(ended)

    @rule()
    def empty(self):
        self.scheduler.empty_all()
        assert self.scheduler.used_tokens == 0

    @rule(tokens=st.integers(1, 40))
    def empty_first_slot(self, tokens):
        self.scheduler.empty_for(0, tokens)
        assert not self.runner.slots[0]

    @rule()
    def evict(self):
        self.scheduler.evict_idle()

    @rule()
    def rest(self):
        self.scheduler.table.save_ahead(lambda: True)

    @invariant()
    def slots_agree_with_the_memory(self):
        if not hasattr(self, "scheduler"):
            return
        scheduler = self.scheduler
        used = [running.slot for running in scheduler.running]
        assert len(set(used)) == len(used)
        for slot in scheduler.slots:
            held = self.runner.slots[slot.index]
            if slot.sequence is None:
                assert held == slot.cached
                assert slot.index not in used
            else:
                assert slot.sequence.slot == slot.index
                assert held == slot.sequence.ids[: slot.sequence.computed]
        assert scheduler.used_tokens <= scheduler.capacity_tokens
        assert all(waiting.slot < 0 for waiting in scheduler.waiting)
        assert len(list(scheduler.waiting)) == len(scheduler.waiting)

    def teardown(self):
        if hasattr(self, "scheduler"):
            run_all(self.scheduler, self.runner)
            for done in self.all:
                check_output(done)


TestSchedulerMachine = SchedulerMachine.TestCase
TestSchedulerMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
