"""The logits of one position as NumPy sees them: cut before anything is sorted or copied.

Knows arrays; knows no sampler and no back end. A back end whose logits live on a device brings its own `LogitsRow`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from modules.core.model import LogitsRow

LOWEST = np.float32(-1e30)  # what is below is impossible: -inf, or the smallest float that some models write to mean it
HIGHEST = np.float32(1e30)  # instead of +inf, with room for dividing by a temperature
SURPLUS = 2  # times as many as were asked for are handed over as they are
FEWEST_BLOCKS = 512  # maxima to choose a bound from: enough for a tight one, few enough to be quick


class NumpyRow:
    """A `LogitsRow` over a float32 array [vocab] that it never writes to, usually a view of the back end's memory.

    Not-a-number counts as -inf and +inf as a very large number, so that a broken model cannot break the choice.
    """

    __slots__ = ("_logsumexp", "_max", "_row", "size")

    def __init__(self, row: NDArray[np.float32]) -> None:
        self._row = row
        self._max: float | None = None
        self._logsumexp: float | None = None
        self.size = int(row.shape[0])

    def max(self) -> float:
        """Largest logit; -inf when every token is impossible."""
        if self._max is None:
            self._note_max(float(self._row.max()))
        return cast("float", self._max)

    def logsumexp(self) -> float:
        """Logarithm of the sum of exponentials, in nats."""
        if self._logsumexp is None:
            largest = self.max()
            if largest == -np.inf:
                self._logsumexp = largest
            else:
                self._logsumexp = largest + float(np.log(np.exp(self._row - np.float32(largest)).sum(dtype=np.float64)))
        return self._logsumexp

    def at(self, token_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits of the given tokens, a copy."""
        self.max()  # replaces what is no number
        return self._row[token_ids]

    def cut(self, k: int, threshold: float) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The `k` largest logits (0: no limit) that are >= `threshold` and possible, by ascending ids, and a few of the next ones where that spares sorting."""
        if k == 1:
            return self._best(threshold)
        bound = LOWEST if threshold == -math.inf else max(LOWEST, _round_up(threshold))
        if 0 < k < self.size:
            bound = max(bound, self._bound_of_largest(k))
        else:
            self.max()
        ids = (self._row >= bound).nonzero()[0]
        logits = self._row[ids]
        if k > 0 and len(ids) > SURPLUS * k:
            order = np.sort((-logits).argsort(kind="stable")[:k])  # ids ascend, so of equal logits the lowest ones are taken
            ids, logits = ids[order], logits[order]
        if self._max is None and len(logits):
            row = self._row
            self._note_max(float(np.maximum.reduce(logits)))
            logits = logits if row is self._row else self._row[ids]
        return ids, logits

    def full(self) -> NDArray[np.float32]:
        """The whole row [size]; not to be written to."""
        self.max()
        return self._row

    def _best(self, threshold: float) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        best = int(self._row.argmax())  # the first NaN, or the lowest id of the largest
        value = float(self._row[best])
        if not math.isfinite(value):
            self._note_max(value)
            best = int(self._row.argmax())
        self._max = float(self._row[best])
        ids = np.array([best] if self._max >= LOWEST and self._max >= threshold else [], np.int64)
        return ids, self._row[ids]

    def _bound_of_largest(self, k: int) -> np.float32:
        """A logit that at least `k` tokens reach, found without sorting: k of the block maxima reach it.

        Token i belongs to block i mod n_blocks; the few tokens after the last whole round of blocks are left out, which
        only makes the bound lower.
        """
        n_blocks = max(4 * k, FEWEST_BLOCKS)
        length = self.size // n_blocks
        if length < 2:
            self.max()
            return cast("np.float32", np.partition(self._row, self.size - k)[self.size - k])
        blocks: NDArray[np.float32] = np.maximum.reduce(self._row[: length * n_blocks].reshape(length, n_blocks), axis=0)
        blocks.partition(n_blocks - k)
        if self._max is None and not math.isfinite(np.maximum.reduce(blocks[n_blocks - k :])):  # NaN is passed on by maximum and sorted last
            self.max()
            return self._bound_of_largest(k)
        bound: np.float32 = blocks[n_blocks - k]
        return bound

    def _note_max(self, value: float) -> None:
        if value != value or value == np.inf:
            self._row = np.nan_to_num(self._row, nan=-np.inf, posinf=float(HIGHEST), neginf=-np.inf)
            value = float(self._row.max())
        self._max = value


class PartialRow:
    """Some tokens of another row, by ascending ids; the others are impossible. Only those few are taken from it, wherever it lives."""

    __slots__ = ("_ids", "_part", "size")

    def __init__(self, row: LogitsRow, ids: NDArray[np.int64]) -> None:
        self._ids = ids
        self._part = NumpyRow(row.at(ids))
        self.size = row.size

    def max(self) -> float:
        """Largest logit; -inf when every token is impossible."""
        return self._part.max()

    def logsumexp(self) -> float:
        """Over the tokens that are left."""
        return self._part.logsumexp()

    def at(self, token_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits of the given tokens, -inf for those that are not left."""
        places = self._ids.searchsorted(token_ids).clip(max=len(self._ids) - 1)
        return np.where(self._ids[places] == token_ids, self._part.full()[places], np.float32(-np.inf))

    def cut(self, k: int, threshold: float) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """As of any row; of equal logits the lowest ids, since ids ascend."""
        places, logits = self._part.cut(k, threshold)
        return self._ids[places], logits

    def full(self) -> NDArray[np.float32]:
        """The whole row, written out."""
        row = np.full(self.size, -np.inf, np.float32)
        row[self._ids] = self._part.full()
        return row


def as_row(entry: Any) -> LogitsRow:
    """One entry of a runner's `Logits` as a `LogitsRow`: an array [vocab] is wrapped, a row of a device is passed on."""
    if isinstance(entry, np.ndarray):
        return NumpyRow(entry if entry.dtype == np.float32 else entry.astype(np.float32))
    return cast("LogitsRow", entry)


def _round_up(threshold: float) -> np.float32:
    """The smallest float32 that is not below the threshold, so that comparing in float32 is exact."""
    rounded = np.float32(min(max(threshold, -np.inf), float(HIGHEST)))
    return rounded if float(rounded) >= threshold else np.nextafter(rounded, np.float32(np.inf))
