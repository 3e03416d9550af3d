"""The queue before the slots: clients take turns, and whoever lost a slot comes first.

Pure bookkeeping of sequences by their `client`; knows no slots and no model.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator

from modules.engine.sequence import Sequence


class WaitingQueue:
    """First come, first served within a client; between clients, one each in turn."""

    def __init__(self) -> None:
        self._returned: deque[Sequence] = deque()  # lost their slot to older ones: before everyone else, oldest first
        self._turns: OrderedDict[str, deque[Sequence]] = OrderedDict()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def put(self, sequence: Sequence) -> None:
        """At the end of its client's line; a client that was not waiting takes its turn after the others."""
        self._turns.setdefault(sequence.client, deque()).append(sequence)
        self._length += 1

    def put_back(self, sequence: Sequence) -> None:
        """Before everyone who never had a slot, among its like by arrival."""
        position = sum(1 for other in self._returned if other.number < sequence.number)
        self._returned.insert(position, sequence)
        self._length += 1

    def peek(self) -> Sequence | None:
        """Who is next."""
        if self._returned:
            return self._returned[0]
        return next(iter(self._turns.values()))[0] if self._turns else None

    def pop(self) -> Sequence:
        """Take out who is next; its client goes to the end of the turns."""
        self._length -= 1
        if self._returned:
            return self._returned.popleft()
        client, line = next(iter(self._turns.items()))
        sequence = line.popleft()
        if line:
            self._turns.move_to_end(client)
        else:
            del self._turns[client]
        return sequence

    def take(self, sequence: Sequence) -> None:
        """Take out one from the middle of the queue; that was its client's turn."""
        self.remove(sequence)
        if sequence.client in self._turns:
            self._turns.move_to_end(sequence.client)

    def remove(self, sequence: Sequence) -> bool:
        """Take out one that gave up; False if it does not wait."""
        line = self._turns.get(sequence.client)
        for queue in (self._returned, line):
            if queue is not None and sequence in queue:
                queue.remove(sequence)
                self._length -= 1
                if line is not None and not line:
                    del self._turns[sequence.client]
                return True
        return False

    def __iter__(self) -> Iterator[Sequence]:
        """Everyone, in the order in which they would be admitted if nobody else came."""
        yield from self._returned
        lines = [deque(line) for line in self._turns.values()]
        while lines:
            for line in lines:
                yield line.popleft()
            lines = [line for line in lines if line]
