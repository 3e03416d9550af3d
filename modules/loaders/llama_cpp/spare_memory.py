"""Memory for the next saved state: given back by one that nobody wants any more, or made ready while nothing is computed.

Memory that was never written to is made page by page when that happens first, which takes several times as long as copying a state
(docs/lab-notes.md), and somebody's first token would wait for it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SURPLUS = 2  # times as large as needed, and memory is not used again
PIECE_BYTES = 256 << 10  # made ready at once: a request that comes meanwhile waits for one piece


class SpareMemory:
    """At most one piece of memory that is nobody's."""

    def __init__(self) -> None:
        self._spare: NDArray[np.uint8] | None = None
        self._ready_bytes = 0  # of it were written to

    def take(self, size: int) -> NDArray[np.uint8]:
        """Memory of this size, with what stood there before; somewhat more is behind it (`base`), so that it may serve for a longer state."""
        spare, self._spare = self._spare, None
        return (spare if spare is not None and _serves(spare, size) else _made(size))[:size]

    def give_back(self, memory: NDArray[np.uint8]) -> None:
        """Keep memory that was taken and that nobody wants any more; what else is kept is let go."""
        whole = memory.base
        self._spare = whole if isinstance(whole, np.ndarray) else memory
        self._ready_bytes = memory.nbytes

    def make_ready(self, size: int) -> bool:
        """Have memory of about this size ready, a piece of it with each call; whether there is more to do."""
        if self._spare is None or not _serves(self._spare, size):
            self._spare, self._ready_bytes = _made(size), 0
        begin = self._ready_bytes
        if begin >= size:
            return False
        self._spare[begin : begin + PIECE_BYTES] = 0
        self._ready_bytes = begin + PIECE_BYTES
        return self._ready_bytes < size


def _made(size: int) -> NDArray[np.uint8]:
    return np.empty(size + size // 4, np.uint8)


def _serves(memory: NDArray[np.uint8], size: int) -> bool:
    return size <= memory.nbytes <= SURPLUS * size
