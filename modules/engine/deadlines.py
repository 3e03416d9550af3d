"""Which sequences must end by when. Looked at once a step, so a look costs nothing while no deadline has passed."""

from __future__ import annotations

import math

from modules.engine.sequence import Sequence


class Deadlines:
    """The deadlines of those who wait or run."""

    def __init__(self) -> None:
        self._timed: dict[Sequence, None] = {}
        self._next_s = math.inf

    def add(self, sequence: Sequence) -> None:
        """Watch a sequence, if it has a deadline."""
        if sequence.deadline_s:
            self._timed[sequence] = None
            self._next_s = min(self._next_s, sequence.deadline_s)

    def forget(self, sequence: Sequence) -> None:
        """A sequence ended."""
        self._timed.pop(sequence, None)

    def passed(self, now_s: float) -> list[Sequence]:
        """Those whose deadline has passed; they are watched no longer."""
        if now_s < self._next_s:
            return []
        late = [sequence for sequence in self._timed if sequence.deadline_s <= now_s]
        for sequence in late:
            del self._timed[sequence]
        self._next_s = min((sequence.deadline_s for sequence in self._timed), default=math.inf)
        return late
