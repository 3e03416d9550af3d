"""The generations that run, and whose they are, so that they can be listed and stopped from elsewhere.

One event loop calls it. Knows no engine: a generation that has ended, or that nobody holds any more, is gone from here by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from modules.core.errors import NotFound
from modules.core.person import Person, asking
from modules.engine.client_generation import ClientGeneration


@dataclass
class _Asked:
    """Who asked for a generation, and the id of the answer that it is a part of."""

    person: str
    id: str = ""


@dataclass(frozen=True)
class RunningRow:
    """A generation that runs or waits."""

    id: str  # of the answer; empty where it has none, as for a reply of the page
    model: str
    waiting: bool
    place: int | None  # in the queue, 1 is next


class RunningGenerations:
    """Takes note of generations; lists and stops those of who asks."""

    def __init__(self) -> None:
        self._asked: WeakKeyDictionary[ClientGeneration, _Asked] = WeakKeyDictionary()

    def begun(self, generation: ClientGeneration) -> None:
        """One has been taken by an engine, for who asks now."""
        self._asked[generation] = _Asked(_id_of(asking()))

    def name(self, generations: Sequence[ClientGeneration], answer_id: str) -> None:
        """These make up the answer of that id."""
        for generation in generations:
            if (asked := self._asked.get(generation)) is not None:
                asked.id = answer_id

    def rows(self) -> tuple[RunningRow, ...]:
        """Those of who asks: of everybody where nobody is told apart, or for who manages the server."""
        return tuple(RunningRow(asked.id, one.model, one.started is None, one.place) for one, asked in self._theirs())

    async def stop(self, answer_id: str = "") -> None:
        """Stop the answer of that id, whoever knows it, or without one all generations of who asks. They end as cancelled, with the text so far.

        Raises:
            NotFound: none of that id runs.
        """
        if answer_id:
            found = [one for one, asked in self._present() if asked.id == answer_id]
            if not found:
                raise NotFound(f"No answer with the id “{answer_id[:100]}” is being written; it may have ended.", field="id")
        else:
            found = [one for one, _ in self._theirs()]
        await asyncio.gather(*(generation.cancel() for generation in found))

    def _present(self) -> list[tuple[ClientGeneration, _Asked]]:
        return [(one, asked) for one, asked in self._asked.items() if not one.ended]

    def _theirs(self) -> list[tuple[ClientGeneration, _Asked]]:
        person = asking()
        return [(one, asked) for one, asked in self._present() if person is None or person.manages or asked.person == person.id]


def _id_of(person: Person | None) -> str:
    return person.id if person is not None else ""
