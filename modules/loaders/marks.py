"""Earlier ends of slots, for models with states (recurrent and hybrid ones): a state has no parts, so what a slot is to return to is copied when it is there.

Knows lengths and sizes; what is copied is the runner's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from modules.core.slot_states import STATE_CUTS

MARKS_SHARE = 4  # of what conversations without a slot may take: a part is for marks, where there are any
MOST_MARKS = 12  # of one slot


@dataclass(frozen=True, slots=True, eq=False)
class Mark:
    """What the states were after so many tokens."""

    length: int
    data: Any
    size_bytes: int


class Marks:
    """Those of all slots of a model, within a budget. Slots may share one."""

    def __init__(self, slots: int, budget_bytes: int = 0) -> None:
        self.budget_bytes = budget_bytes
        self._of: list[list[Mark]] = [[] for _ in range(slots)]  # by length, ascending
        self._used = list(range(slots))  # the slots, the one that was marked last stands last

    @property
    def size_bytes(self) -> int:
        """Of all marks, each counted once."""
        return sum({id(mark): mark.size_bytes for marks in self._of for mark in marks}.values())

    def of(self, slot: int, length: int) -> tuple[Mark, ...]:
        """The marks of a slot up to so many tokens."""
        return tuple(mark for mark in self._of[slot] if mark.length <= length)

    def of_state(self, slot: int, length: int) -> tuple[Mark, ...]:
        """Those that a state of the slot has."""
        return self.of(slot, length)[-STATE_CUTS:]

    def last(self, slot: int, length: int) -> Mark | None:
        """The longest of these."""
        return next((mark for mark in reversed(self._of[slot]) if mark.length <= length), None)

    def put(self, slot: int, mark: Mark) -> None:
        """Keep one; what is too much goes first from the slots that were not marked for longest, and last of all the new one."""
        marks = self._of[slot]
        marks[:] = sorted([*(one for one in marks if one.length != mark.length), mark], key=lambda one: one.length)
        self._used.remove(slot)
        self._used.append(slot)
        if len(marks) > MOST_MARKS:
            _thin(marks, mark)
        while self.size_bytes > self.budget_bytes:
            _thin(next(self._of[one] for one in self._used if self._of[one]), mark)

    def hold(self, slot: int, marks: Iterable[Mark]) -> None:
        """These, and no others, for a moment, whatever they take."""
        self._of[slot] = list(marks)

    def set(self, slot: int, marks: Iterable[Mark]) -> None:
        """These, and no others."""
        self._of[slot] = []
        for mark in marks:
            self.put(slot, mark)


def _thin(marks: list[Mark], new: Mark) -> None:
    """Take out the one behind which least has to be read again from the one before; not the last, where most turns go on, and not the new one, if there are others."""
    places = [place for place, mark in enumerate(marks) if mark is not new]
    places = places[:-1] if len(places) > 1 and marks[-1] is not new else places
    least = min(places, key=lambda place: marks[place].length - (marks[place - 1].length if place else 0), default=0)
    del marks[least]
