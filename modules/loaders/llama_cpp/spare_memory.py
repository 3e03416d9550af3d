"""Memory for the next saved states: given back by those that nobody wants any more, or made ready while nothing is computed.

Memory that was never written to is made page by page when that happens first, which takes several times as long as copying a state
(docs/lab-notes.md), and somebody's first token would wait for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SURPLUS = 2  # times as large as needed, and memory is not used again
PIECE_BYTES = 256 << 10  # made ready at once: a request that comes meanwhile waits for one piece
MOST_BYTES = 64 << 20  # kept of what is given back, unless the last one alone has more


@dataclass(slots=True, eq=False)
class Piece:
    """Memory that is nobody's, and how much of it was written to."""

    memory: NDArray[np.uint8]
    ready_bytes: int = 0


class SpareMemory:
    """Pieces of memory that are nobody's."""

    def __init__(self) -> None:
        self._pieces: list[Piece] = []  # what was given back last stands last

    def take(self, size: int) -> NDArray[np.uint8]:
        """Memory of this size, with what stood there before; somewhat more is behind it (`base`), so that it may serve for a longer state."""
        piece = self._best(self._pieces, size)
        if piece is None:
            return _made(size)[:size]
        self._pieces.remove(piece)
        return piece.memory[:size]

    def give_back(self, memory: NDArray[np.uint8]) -> None:
        """Keep memory that was taken and that nobody wants any more; if that is too much, what has been kept for longest is let go."""
        whole = memory.base
        self._pieces.append(Piece(whole if isinstance(whole, np.ndarray) else memory, memory.nbytes))
        while len(self._pieces) > 1 and sum(piece.memory.nbytes for piece in self._pieces) > MOST_BYTES:
            del self._pieces[0]

    def make_ready(self, sizes: Sequence[int]) -> bool:
        """Have memory of about each of these sizes ready, a piece of it with each call, and no other; whether there is more to do."""
        others, wanted = self._pieces, []
        for size in sizes:
            piece = self._best(others, size) or Piece(_made(size))
            others = [one for one in others if one is not piece]
            wanted.append((piece, size))
        self._pieces = [piece for piece, _ in wanted]
        unready = [(piece, size) for piece, size in wanted if piece.ready_bytes < size]
        if not unready:
            return False
        piece, size = unready[0]
        end = piece.ready_bytes + PIECE_BYTES
        piece.memory[piece.ready_bytes : end] = 0
        piece.ready_bytes = end
        return end < size or len(unready) > 1

    def _best(self, pieces: list[Piece], size: int) -> Piece | None:
        """Which serves: the one that is ready for most of it, of equal ones the smallest."""
        serving = [piece for piece in pieces if size <= piece.memory.nbytes <= SURPLUS * size]
        return max(serving, key=lambda piece: (min(piece.ready_bytes, size), -piece.memory.nbytes), default=None)


def _made(size: int) -> NDArray[np.uint8]:
    return np.empty(size + size // 4, np.uint8)
