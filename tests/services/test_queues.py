"""What a wait is expected to be comes from what was measured, and nobody fills the whole queue where others share it."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from modules.core.errors import Busy, InvalidRequest, NotFound
from modules.core.generation import Delta, GenerationRequest, Started, TextPrompt, Usage
from modules.core.person import Person, asked_by
from modules.core.settings import Settings
from modules.engine.client_generation import ClientGeneration, Inbox
from modules.services.queues import ENOUGH, Queues

STARTED = Started(1, 0, 0, 1)


async def no_cancel(forget: bool) -> None:
    """Nothing runs."""


class Bench:
    """A model with two slots, and all that was asked of it."""

    def __init__(self, **settings: Any) -> None:
        self.queues = Queues(Settings(**settings))
        self.engine: Any = SimpleNamespace(name="m", card=SimpleNamespace(slots=2, host=""))
        self.kept: list[ClientGeneration] = []
        self.cancelled: list[ClientGeneration] = []

    async def stopped(self, generation: ClientGeneration) -> None:
        self.cancelled.append(generation)

    def ask(self, person: str, *, place: int | None = None) -> Inbox:
        inbox = Inbox()
        generation = ClientGeneration(inbox, "m", no_cancel)
        with self.queues.asking_for(self.engine, GenerationRequest(prompt=TextPrompt(text="a"), person=person)) as asked:
            self.queues.begun(asked, generation)
        self.kept.append(generation)
        if place is None:
            inbox.start(STARTED)
        else:
            inbox.queue(place)
        return inbox

    def end(self, inbox: Inbox, seconds: float) -> None:
        inbox.push(Delta(finish_reason="stop", usage=Usage(1, 0, 1, prefill_s=seconds / 4, decode_s=seconds * 3 / 4)))


async def test_each_stops_their_own_and_who_knows_an_id_that_answer() -> None:
    bench = Bench()
    ann, ben = Person("ann", "chat"), Person("ben", "chat")
    for number, person in enumerate((ann, ben, ben)):
        with asked_by(person):
            bench.ask(person.id)
        bench.queues.name(bench.kept[-1:], f"answer-{number}")
        bench.kept[-1].cancel = partial(bench.stopped, bench.kept[-1])  # type: ignore[method-assign]
    with asked_by(ann):
        assert [row.answer_id for row in bench.queues.rows()] == ["answer-0"]
        await bench.queues.stop()
        assert bench.cancelled == [bench.kept[0]]
        with pytest.raises(NotFound, match="may have ended"):
            await bench.queues.stop("none of ours")
        await bench.queues.stop("answer-1")
    assert bench.cancelled == bench.kept[:2]
    with asked_by(Person("chief", "manage")):
        assert len(bench.queues.rows()) == 3
        await bench.queues.stop()
    assert bench.cancelled == bench.kept[:2]
    await bench.queues.stop()  # where nobody is told apart
    assert bench.cancelled[2:] == bench.kept


async def test_nothing_is_expected_before_enough_was_measured_and_then_the_mean_counts() -> None:
    bench = Bench()
    for number in range(ENOUGH):
        assert bench.queues.expected_s("m", 1) is None
        bench.end(bench.ask("ann"), 4.0 + number)
    running = [bench.ask("ann"), bench.ask("ann")]
    bench.ask("ben", place=1)
    bench.ask("ben", place=3)
    assert [one.expected_s for one in bench.kept[-2:]] == [2.5, 7.5]  # five seconds each, two at once
    assert bench.kept[-3].expected_s is None  # it does not wait
    assert [(row.person, row.runs, row.place) for row in bench.queues.rows()] == [("ann", True, None), ("ann", True, None), ("ben", False, 1), ("ben", False, 3)]
    bench.end(running.pop(), 5.0)
    assert bench.kept[-2].expected_s == 5.0  # now one runs at a time
    assert bench.queues.retry_after_s("m") == 5
    assert bench.queues.expected_s("other", 1) is None
    assert bench.queues.retry_after_s("other") == 1


async def test_one_person_may_have_half_the_queue_where_people_are_told_apart() -> None:
    bench = Bench(queue_limit=4)
    for place in range(1, 6):
        bench.ask("ann", place=place)  # alone on a server of this machine: only the engine's own limit counts
    shared = Bench(queue_limit=4)
    with asked_by(Person("ann")):
        for _ in range(2):
            shared.ask("ann")
        for place in (1, 2):
            shared.ask("ann", place=place)
        with pytest.raises(Busy, match=r"2 of your requests wait for m, and one person may have 2 waiting") as caught:
            shared.ask("ann", place=3)
        assert caught.value.details == {"place": 3, "limit": 2, "retry_after_s": 1}
        shared.ask("ben", place=2)


async def test_a_burst_that_the_slots_take_is_not_taken_for_a_queue_and_what_ended_counts_no_more() -> None:
    bench = Bench(queue_limit=8, queue_limit_per_person=1)
    first, *_ = [bench.ask("ann", place=1) for _ in range(3)]  # two of them will have the slots at once
    with pytest.raises(Busy):
        bench.ask("ann", place=1)
    first.abandon()
    bench.ask("ann", place=1)
    with pytest.raises(Busy, match=r"is full\.$"), bench.queues.asking_for(bench.engine, GenerationRequest(prompt=TextPrompt(text="a"), person="ben")):
        raise Busy("The engine's queue is full.")
    assert len(bench.queues.rows()) == 3


async def test_stopping_all_stops_ones_own_alone_for_who_manages_too() -> None:
    bench = Bench()
    stopped: list[str] = []
    for name in ("ann", "ben"):
        with asked_by(Person(name, "admin")):
            bench.ask(name)

        async def cancel(forget: bool, name: str = name) -> None:
            stopped.append(name)

        bench.kept[-1]._send_cancel = cancel
    with asked_by(Person("ann", "admin")):
        assert len(bench.queues.rows()) == 2  # seen are all
        await bench.queues.stop()
    assert stopped == ["ann"]
    await bench.queues.stop()  # where nobody is told apart
    assert stopped == ["ann", "ann", "ben"]


async def test_more_texts_in_one_request_than_may_wait_are_no_matter_of_trying_again() -> None:
    bench = Bench(queue_limit=4)
    bench.queues.check_many(bench.engine, 6)
    for _ in range(6):  # as many are taken by the queue itself
        bench.ask("ann", place=1)
    with pytest.raises(InvalidRequest, match="at most 6 in one request") as caught:
        bench.queues.check_many(bench.engine, 7)
    assert caught.value.details["field"] == "prompt"
    bench.engine.card.host = "elsewhere"  # has a queue of its own
    bench.queues.check_many(bench.engine, 7)


async def test_requests_that_only_read_wait_within_the_same_limits() -> None:
    bench = Bench(queue_limit=3, queue_limit_per_person=2)
    with ExitStack() as stack:
        for _ in range(3):  # one is worked on, two wait
            stack.enter_context(bench.queues.reading(bench.engine, "ann"))
        with pytest.raises(Busy, match=r"3 of your requests for vectors and scores wait for m; the limit is 2") as caught, bench.queues.reading(bench.engine, "ann"):
            pass
        assert caught.value.details["retry_after_s"] == 1
        stack.enter_context(bench.queues.reading(bench.engine, "ben"))
        with pytest.raises(Busy, match=r"4 requests for vectors and scores wait for m; the limit is 3"), bench.queues.reading(bench.engine, "cem"):
            pass
        elsewhere: Any = SimpleNamespace(name="m", card=SimpleNamespace(slots=0, host="example.com"))
        stack.enter_context(bench.queues.reading(elsewhere, "ann"))  # that server decides
    with bench.queues.reading(bench.engine, "ann"):  # all places are free again
        pass
    with pytest.raises(ValueError, match="broken"), bench.queues.reading(bench.engine, "ann"):
        raise ValueError("broken")
    assert bench.queues._reading == []


async def test_of_a_shared_server_one_request_may_fill_the_persons_part() -> None:
    bench = Bench(queue_limit=8, queue_limit_per_person=3)
    bench.queues.check_many(bench.engine, 5)
    with pytest.raises(InvalidRequest, match="at most 5 in one request"):
        bench.queues.check_many(bench.engine, 6)
