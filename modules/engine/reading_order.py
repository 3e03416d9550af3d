"""Whose prompt is read first: in the order in which they came, but a much shorter one need not wait for all of a long one.

Knows sequences and how much of each is unread; no slots and no speeds.
"""

from __future__ import annotations

from modules.engine.sequence import Sequence

MUCH_SHORTER = 4  # times: who came first loses a quarter of their time to each at most, and a prompt of like length would gain next to nothing


class ReadingOrder:
    """The order for one engine. Every second step with prefill goes on with who came first, however many short prompts come."""

    def __init__(self) -> None:
        self._first: Sequence | None = None
        self._was_overtaken = False  # whether who came first got nothing of the last step

    def of(self, reading: list[Sequence]) -> list[Sequence]:
        """Those with unread prompts, given as they came, in the order for the next step."""
        self._first = reading[0] if reading else None
        if self._was_overtaken or len(reading) < 2:
            return reading
        most = reading[0].unread // MUCH_SHORTER
        shorter = sorted((one for one in reading[1:] if one.unread <= most), key=lambda one: one.unread)
        return [*shorter, *(one for one in reading if one not in shorter)] if shorter else reading

    def note(self, taken: list[Sequence]) -> None:
        """These are read from in the step that was asked for."""
        self._was_overtaken = bool(taken) and self._first not in taken
