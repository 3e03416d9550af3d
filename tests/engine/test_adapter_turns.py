"""Requests with different adapters on one model: each as alone, in turn, and nothing computed with one set is used under another."""

from __future__ import annotations

import random
import threading
import time
import zlib
from collections.abc import Sequence

import pytest

from modules.core.errors import AppError, InvalidRequest, NotFound
from modules.core.model import Adapter, Row, in_use
from modules.core.params import GenerationParams
from modules.engine.engine import Engine
from modules.engine.events import PLACES_S
from modules.engine.sequence import Sequence as Waiting
from modules.engine.waiting import WaitingQueue
from tests.fakes import BOS, ByteTokenizer, FakeRunner, Inbox, next_byte

GREEDY = GenerationParams(temperature=0, max_tokens=20)
ONE = (Adapter(path="one"),)
HALF = (Adapter(path="one", scale=0.5),)
BOTH = (Adapter(path="one"), Adapter(path="two", scale=-1))
BAD = (Adapter(path="bad"),)


def mark(adapters: Sequence[Adapter]) -> int:
    """What a set of adapters adds to everything that the model sees."""
    return zlib.crc32(repr([(adapter.path, adapter.scale) for adapter in adapters]).encode()) % 250


class AdaptedRunner(FakeRunner):
    """Its next token depends on the adapters, and it refuses to go on from what was computed with others."""

    def __init__(self, **options) -> None:
        super().__init__(**options)
        self.adapters: tuple[Adapter, ...] = ()
        self.computed_with: list[list[tuple[Adapter, ...]]] = [[] for _ in self.slots]
        self.applied: list[tuple[Adapter, ...]] = []
        self.failures = 0  # so many more calls fail
        self.gone: set[str] = set()  # these cannot be had any more, as if the model had lost them and their files were deleted

    def set_adapters(self, adapters: Sequence[Adapter]) -> None:
        missing = [adapter.path for adapter in adapters if adapter.path in {"bad", *self.gone}]
        if missing:
            self.adapters = ()  # as a library that fails half-way
            raise NotFound(f"There is no adapter {missing[0]}; refresh the list.")
        if self.failures:
            self.failures -= 1
            self.adapters = ()
            raise RuntimeError("out of luck")
        self.adapters = tuple(adapters)
        self.applied.append(self.adapters)

    def forward(self, rows: Sequence[Row]) -> list[object]:
        result = super().forward(rows)
        for row in rows:
            self.computed_with[row.slot] += [self.adapters] * len(row.token_ids)
            assert set(self.computed_with[row.slot]) == {self.adapters}
        return result

    def _entry(self, slot: list[int]) -> object:
        return super()._entry([mark(self.adapters), *slot])

    def truncate(self, slot: int, length: int) -> int:
        del self.computed_with[slot][length:]
        return super().truncate(slot, length)

    def copy_prefix(self, source: int, target: int, length: int) -> bool:
        self.computed_with[target] = self.computed_with[source][:length]
        return super().copy_prefix(source, target, length)


def solo(prompt: Sequence[int], count: int, adapters: Sequence[Adapter]) -> list[int]:
    ids = list(prompt)
    for _ in range(count):
        ids.append(next_byte([mark(in_use(adapters)), *ids]))
    return ids[len(prompt) :]


def prompt(text: str) -> list[int]:
    return [BOS, *text.encode()]


class Held:
    """An engine whose steps are let through by the test."""

    def __init__(self, **options) -> None:
        self.runner, self.inbox = AdaptedRunner(**options), Inbox()
        self.engine = Engine(self.runner, ByteTokenizer(), self.inbox, name="Tiny", set_adapters=self.runner.set_adapters)
        self.gate = self.runner.gate = threading.Semaphore(0)

    def begin(self, text: str, adapters: Sequence[Adapter], count: int = 20, client: str = ""):
        params = GREEDY.model_copy(update={"max_tokens": count})
        return self.engine.submit(prompt(text), params, adapters=adapters, client=client)

    def at_step(self) -> None:
        """Wait until the engine stands before a step."""
        assert self.runner.entered.acquire(timeout=10)

    def go_on(self) -> None:
        self.gate.release(100_000)

    def started(self, *generations) -> list[int]:
        """In which message of the engine each of them began."""
        return [
            next(place for place, events in enumerate(self.inbox.calls) if any(e.generation is g and e.started for e in events)) for g in generations
        ]


@pytest.fixture
def held():
    made: list[Held] = []

    def make(**options) -> Held:
        made.append(Held(**options))
        return made[-1]

    yield make
    for one in made:
        one.runner.gate = None
        one.go_on()
        assert one.engine.close()


def between_steps(one: Held, function) -> list[object]:
    """Have another thread ask for something, let the engine go on, and say what came back."""
    answers: list[object] = []

    def ask() -> None:
        try:
            answers.append(function())
        except AppError as error:
            answers.append(error)

    waiting = one.engine._commands.qsize()
    caller = threading.Thread(target=ask)
    caller.start()
    while one.engine._commands.qsize() == waiting:  # the engine stands in a step
        time.sleep(0.001)
    one.go_on()
    caller.join(10)
    return answers


def test_each_writes_what_it_writes_alone(held):
    """Different sets, shared beginnings, and so little room that replies lose their slots."""
    draw = random.Random(5)
    one = held(slots=4, capacity=260, batch=32)
    asked = []
    one.go_on()
    for number in range(60):
        adapters = draw.choice(((), ONE, HALF, BOTH))
        text = "the same beginning for everyone " * draw.choice((1, 2)) + str(draw.randrange(5))
        count = draw.randint(1, 30)
        asked.append((one.begin(text, adapters, count, client=str(number % 3)), text, adapters, count))
    one.inbox.wait(*(generation for generation, *_ in asked))
    for generation, text, adapters, count in asked:
        assert one.inbox.ids(generation) == solo(prompt(text), count, adapters)
    counters = one.engine.counters()
    assert counters.reused_tokens > 100
    assert counters.steps < sum(count for *_, count in asked)  # those of one set shared steps


def test_nobody_overtakes_who_waits_for_other_adapters(held):
    one = held(slots=4)
    first = one.begin("first", ONE, 200)
    one.at_step()
    other, late = one.begin("other", HALF), one.begin("late", ONE)
    while (one.inbox.places[other], one.inbox.places[late]) != ([1], [2]):
        assert len(one.inbox.ids(first)) < 150
        time.sleep(PLACES_S / 4)
        one.gate.release()
        one.at_step()
    assert one.engine.counters().running == 1
    one.go_on()
    one.inbox.wait(first, other, late)
    begun = one.started(first, other, late)
    assert begun == sorted(set(begun))
    for generation, text, adapters, count in ((first, "first", ONE, 200), (other, "other", HALF, 20), (late, "late", ONE, 20)):
        assert one.inbox.ids(generation) == solo(prompt(text), count, adapters)


def test_a_turn_takes_the_same_adapters_along_as_far_as_the_slots_go(held):
    one = held(slots=2)
    running = one.begin("running", ())
    one.at_step()
    waiting = [one.begin(f"{number}", ONE if number % 2 == 0 else HALF) for number in range(5)]  # 0 2 4 and 1 3
    one.go_on()
    one.inbox.wait(running, *waiting)
    begun = one.started(*waiting)
    assert begun[0] == begun[2] < begun[1] == begun[3] < begun[4]
    assert one.runner.applied == [ONE, HALF, ONE]


def test_a_prefix_is_reused_under_its_own_adapters_only(held):
    one = held(slots=4)
    one.go_on()
    text = "a long beginning that all of them share"
    reused = []
    for adapters in (ONE, HALF, (), ONE, HALF, ()):
        generation = one.begin(text, adapters)
        one.inbox.wait(generation)
        reused.append(one.inbox.started[generation].reused_tokens)
        assert one.inbox.ids(generation) == solo(prompt(text), 20, adapters)
    assert reused == [0, 0, 0, len(text), len(text), len(text)]


def test_another_version_of_the_files_is_another_set(held):
    one = held()
    one.go_on()
    for version in ("1", "2"):
        generation = one.begin("a long beginning", (Adapter(path="one", version=version),))
        one.inbox.wait(generation)
        assert one.inbox.started[generation].reused_tokens == 0


def test_order_and_adapters_without_effect_make_no_other_set(held):
    one = held(slots=4)
    one.go_on()
    one.inbox.wait(one.begin("a long beginning", BOTH))
    again = one.begin("a long beginning", (*reversed(BOTH), Adapter(path="three", scale=0)))
    one.inbox.wait(again)
    assert one.inbox.started[again].reused_tokens == len("a long beginning")
    assert one.runner.applied == [BOTH]


def test_one_who_gives_up_waiting_makes_way(held):
    one = held(slots=4)
    first = one.begin("first", ONE)
    one.at_step()
    other, late = one.begin("other", HALF), one.begin("late", ONE)
    other.cancel()
    one.gate.release()
    one.inbox.wait(other)
    assert one.inbox.last(other).finish_reason == "cancelled"
    one.at_step()
    one.inbox.wait_for(lambda: late in one.inbox.started)
    assert one.engine.counters().running == 2
    one.go_on()
    one.inbox.wait(first, late)
    assert one.runner.applied == [ONE]


def test_adapters_that_cannot_be_used_end_only_those_who_asked(held):
    one = held(slots=1)
    first = one.begin("first", ONE)
    one.at_step()
    bad, worse, after = one.begin("bad", BAD), one.begin("worse", BAD), one.begin("after", ONE)
    one.go_on()
    one.inbox.wait(first, bad, worse, after)
    assert isinstance(one.inbox.errors[bad], NotFound)
    assert isinstance(one.inbox.errors[worse], NotFound)
    assert one.inbox.ids(after) == solo(prompt("after"), 20, ONE)
    assert not one.engine.broken


def test_trying_and_scoring_leave_running_replies_their_adapters(held):
    one = held(slots=2)
    running = one.begin("running", ONE)
    one.at_step()
    scores: list[object] = []

    def ask() -> None:
        one.engine.try_adapters(HALF)
        scores.append(one.engine.score([5, 6, 7], BOTH))
        one.engine.try_adapters(BAD)

    (error,) = between_steps(one, ask)
    one.inbox.wait(running)
    assert scores == [[-6.0, -7.0]]
    assert isinstance(error, NotFound)
    assert one.inbox.ids(running) == solo(prompt("running"), 20, ONE)
    assert {HALF, BOTH} <= set(one.runner.applied)


@pytest.mark.parametrize("wanted", [BAD, HALF])
def test_a_change_that_cannot_be_taken_back_at_once_is_made_good_before_the_next_step(held, wanted):
    one = held(slots=2)
    running = one.begin("running", ONE)
    one.at_step()
    one.runner.failures = 1  # for BAD the way back fails, for HALF the way there
    caught: list[Exception] = []

    def ask() -> None:
        try:
            one.engine.try_adapters(wanted)
        except (AppError, RuntimeError) as error:
            caught.append(error)

    caller = threading.Thread(target=ask)
    caller.start()
    one.go_on()
    caller.join(10)
    one.inbox.wait(running)
    assert isinstance(caught[0], NotFound if wanted is BAD else RuntimeError)
    assert one.inbox.ids(running) == solo(prompt("running"), 20, ONE)


def test_a_way_back_that_fails_once_is_made_good_and_who_borrowed_does_not_notice(held):
    one = held(slots=2)
    running = one.begin("running", ONE)
    one.at_step()
    fails_next = one.runner.set_adapters

    def apply(adapters) -> None:
        fails_next(adapters)
        one.runner.failures = int(adapters == HALF)

    one.engine._turns._apply = apply
    answers = between_steps(one, lambda: one.engine.score([5, 6, 7], HALF))
    one.inbox.wait(running)
    assert answers == [[-6.0, -7.0]]
    assert one.inbox.ids(running) == solo(prompt("running"), 20, ONE)


@pytest.mark.parametrize("wanted", [BAD, HALF, (Adapter(path="two"),)])
def test_who_runs_with_adapters_that_are_gone_for_good_is_told_and_never_goes_on_with_others(held, wanted):
    one = held(slots=2)
    first, second = one.begin("first", ONE), one.begin("second", ONE)
    one.at_step()
    one.gate.release()
    one.at_step()
    before_s = time.monotonic()
    after, plain = one.begin("after", (Adapter(path="two"),)), one.begin("plain", ())
    one.runner.gone.add("one")
    between_steps(one, lambda: one.engine.try_adapters(wanted))
    one.inbox.wait(first, second, after, plain)
    for generation, text in ((first, "first"), (second, "second")):
        assert "There is no adapter one; refresh the list. The text so far is kept." in str(one.inbox.errors[generation])
        written = one.inbox.ids(generation)
        assert written == solo(prompt(text), 20, ONE)[: len(written)]
    assert one.inbox.ids(after) == solo(prompt("after"), 20, (Adapter(path="two"),))
    assert one.inbox.ids(plain) == solo(prompt("plain"), 20, ())
    assert not one.engine.broken
    assert time.monotonic() - before_s < 10


def test_a_model_that_takes_no_adapters_back_any_more_ends_its_replies_and_is_replaced(held):
    one = held(slots=2)
    running = one.begin("running", ONE)
    one.at_step()
    one.runner.failures = 1_000_000_000
    other = one.begin("other", HALF)
    one.go_on()
    one.inbox.wait(running)
    assert one.inbox.ids(running) == solo(prompt("running"), 20, ONE)
    deadline = time.monotonic() + 10
    while not one.engine.broken:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert "out of luck" in one.engine.broken
    left = one.runner.failures
    time.sleep(0.05)
    assert one.runner.failures == left, "it stands still"
    assert other not in one.inbox.started


def test_taking_one_from_the_middle_of_the_queue_is_its_clients_turn():
    queue = WaitingQueue()
    for name in ("a1", "a2", "b1", "c1", "c2"):
        queue.put(Waiting([ord(name[1])], 10, client=name[0]))
    first, *_ = (one for one in queue if one.client == "c")
    queue.take(first)
    assert [one.client + chr(one.ids[0]) for one in queue] == ["a1", "b1", "c2", "a2"]
    assert len(queue) == 4


def test_a_model_without_adapters_refuses_them_at_once(bench):
    engine, _, inbox = bench()
    with pytest.raises(InvalidRequest, match="takes no LoRA adapters; load it with another loader"):
        engine.submit(prompt("a"), GREEDY, adapters=ONE)
    with pytest.raises(InvalidRequest, match="takes no LoRA adapters"):
        engine.try_adapters(ONE)
    inbox.wait(engine.submit(prompt("a"), GREEDY, adapters=()))


def test_running_out_of_memory_under_adapters_continues_exactly(held):
    one = held(slots=2)
    one.runner.memory_tokens = 60
    first, second = one.begin("a" * 20, ONE, 25), one.begin("b" * 20, ONE, 25)
    one.go_on()
    one.inbox.wait(first, second)
    for generation, text in ((first, "a" * 20), (second, "b" * 20)):
        assert one.inbox.ids(generation) == solo(prompt(text), 25, ONE)
    assert not one.inbox.errors
