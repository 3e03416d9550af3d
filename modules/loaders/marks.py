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
        """Keep one; what is too much goes where least is lost."""
        marks = self._of[slot]
        marks[:] = sorted([*(one for one in marks if one.length != mark.length), mark], key=lambda one: one.length)
        if len(marks) > MOST_MARKS:
            _thin(marks)
        while self.size_bytes > self.budget_bytes:
            _thin(max(self._of, key=len))

    def set(self, slot: int, marks: Iterable[Mark]) -> None:
        """These, and no others."""
        self._of[slot] = []
        for mark in marks:
            self.put(slot, mark)


def _thin(marks: list[Mark]) -> None:
    """Take out the one behind which least has to be read again from the one before; of more than two not the last, where most turns go on."""
    places = range(max(1, len(marks) - 1))
    least = min(places, key=lambda place: marks[place].length - (marks[place - 1].length if place else 0))
    del marks[least]
