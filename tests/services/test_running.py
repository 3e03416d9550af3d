"""Whose generations run, and who stops what: one person's own, or all of them for who manages the server."""

from __future__ import annotations

from typing import Any

import pytest
from modules.services.running import RunningGenerations

from modules.core.errors import NotFound
from modules.core.person import Person, asked_by


class Generation:
    """As much of one as is looked at."""

    def __init__(self) -> None:
        self.model, self.started, self.place, self.ended = "m", None, 1, False

    async def cancel(self) -> None:
        self.ended = True


def begun(running: RunningGenerations, person: Person | None, answer_id: str) -> Any:
    generation: Any = Generation()
    if person is None:
        running.begun(generation)
    else:
        with asked_by(person):
            running.begun(generation)
    running.name([generation], answer_id)
    return generation


async def test_each_stops_their_own_and_who_manages_stops_all() -> None:
    running = RunningGenerations()
    ann, ben, chief = Person("ann"), Person("ben"), Person("chief", manages=True)
    first, second, third = begun(running, ann, "a-1"), begun(running, ben, "b-1"), begun(running, ben, "b-2")
    with asked_by(ann):
        assert [row.id for row in running.rows()] == ["a-1"]
        await running.stop()
    assert (first.ended, second.ended) == (True, False)
    with asked_by(ann), pytest.raises(NotFound, match="may have ended"):
        await running.stop("a-1")
    await running.stop("b-1")
    assert (second.ended, third.ended) == (True, False)
    with asked_by(chief):
        await running.stop()
    assert third.ended


async def test_where_nobody_is_told_apart_all_are_stopped_and_what_is_gone_is_forgotten() -> None:
    running = RunningGenerations()
    one, other = begun(running, None, "1"), begun(running, Person("ann"), "2")
    assert [(row.id, row.model, row.waiting, row.place) for row in running.rows()] == [("1", "m", True, 1), ("2", "m", True, 1)]
    await running.stop()
    assert one.ended and other.ended and running.rows() == ()
