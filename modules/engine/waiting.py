"""The queue before the slots: people take turns, then the clients of each, and whoever lost a slot comes first.

Pure bookkeeping of sequences by their `person` and `client`; knows no slots and no model.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator

from modules.engine.sequence import Sequence


class _Lines:
    """What one person waits for: first come, first served within a client; between clients, one each in turn."""

    def __init__(self) -> None:
        self._turns: OrderedDict[str, deque[Sequence]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._turns)

    def put(self, sequence: Sequence) -> None:
        """At the end of its client's line; a client that was not waiting takes its turn after the others."""
        self._turns.setdefault(sequence.client, deque()).append(sequence)

    def peek(self) -> Sequence:
        """Who is next."""
        return next(iter(self._turns.values()))[0]

    def remove(self, sequence: Sequence, *, is_turn: bool) -> bool:
        """Take out one; where that was its client's turn, the client goes to the end of the turns. False if it does not wait here."""
        line = self._turns.get(sequence.client)
        if line is None or sequence not in line:
            return False
        line.remove(sequence)
        if not line:
            del self._turns[sequence.client]
        elif is_turn:
            self._turns.move_to_end(sequence.client)
        return True

    def in_order(self) -> Iterator[Sequence]:
        """Everyone, as they would come."""
        return _in_turns([iter(line) for line in self._turns.values()])


class WaitingQueue:
    """Between people one each in turn, however many clients each has; the same between the clients of a person."""

    def __init__(self) -> None:
        self._returned: deque[Sequence] = deque()  # lost their slot to older ones: before everyone else, oldest first
        self._people: OrderedDict[str, _Lines] = OrderedDict()
        self._length = 0
        self.returns = 0  # times that somebody lost a slot

    def __len__(self) -> int:
        return self._length

    def put(self, sequence: Sequence) -> None:
        """Into its person's lines; a person who was not waiting takes their turn after the others."""
        self._people.setdefault(sequence.person, _Lines()).put(sequence)
        self._length += 1

    def put_back(self, sequence: Sequence) -> None:
        """Before everyone who never had a slot, among its like by arrival."""
        position = sum(1 for other in self._returned if other.number < sequence.number)
        self._returned.insert(position, sequence)
        self._length += 1
        self.returns += 1
        sequence.preemptions += 1

    def peek(self) -> Sequence | None:
        """Who is next."""
        if self._returned:
            return self._returned[0]
        return next(iter(self._people.values())).peek() if self._people else None

    def pop(self) -> Sequence:
        """Take out who is next; their person and client go to the end of the turns."""
        sequence = self.peek()
        if sequence is None:
            raise IndexError("nobody waits")
        if self._returned:
            self._length -= 1
            return self._returned.popleft()
        self._remove(sequence, is_turn=True)
        return sequence

    def take(self, sequence: Sequence) -> None:
        """Take out one from the middle of the queue; that was the turn of its person and client."""
        self._remove(sequence, is_turn=True)

    def remove(self, sequence: Sequence) -> bool:
        """Take out one that gave up; False if it does not wait."""
        return self._remove(sequence, is_turn=False)

    def _remove(self, sequence: Sequence, *, is_turn: bool) -> bool:
        if sequence in self._returned:
            self._returned.remove(sequence)
            self._length -= 1
            return True
        lines = self._people.get(sequence.person)
        if lines is None or not lines.remove(sequence, is_turn=is_turn):
            return False
        self._length -= 1
        if not lines:
            del self._people[sequence.person]
        elif is_turn:
            self._people.move_to_end(sequence.person)
        return True

    def __iter__(self) -> Iterator[Sequence]:
        """Everyone, in the order in which they would be admitted if nobody else came."""
        yield from self._returned
        yield from _in_turns([lines.in_order() for lines in self._people.values()])


def _in_turns(lines: list[Iterator[Sequence]]) -> Iterator[Sequence]:
    """One of each line, again and again until all are empty."""
    while lines:
        left = []
        for line in lines:
            sequence = next(line, None)
            if sequence is not None:
                yield sequence
                left.append(line)
        lines = left
