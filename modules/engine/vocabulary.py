"""All tokens of a vocabulary as candidates, without copying or sorting what a sampler will not need.

Every cut is exact: it takes a superset of what is wanted from the row, found by a bound, and only that is sorted. Knows arrays and the row's
own cuts; knows no parameters and no sampler.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from modules.engine.candidates import Kept, NothingLeft, find
from modules.engine.few import MOST, Few, ranked
from modules.engine.logits import LOWEST, NumpyRow

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from modules.core.model import LogitsRow
    from modules.engine.candidates import Change, Ids, Values
    from modules.engine.few import Ranked

FIRST_TAKES = (64, 1024)  # how many of the largest logits to try before looking at the distribution of all
BINS = 1024  # of a histogram over a whole row
SPARE = 16  # taken beyond k where some logits were changed, so that one take is mostly enough
PIECE = 16_384  # logits that are turned into float64 at a time: they stay in the cache


class Whole:
    """All tokens of a row, times a factor, except for some `changed` ids (ascending) that have logits of their own."""

    __slots__ = ("_array", "_changed", "_factor", "_log_total", "_row", "_spread", "_values")

    def __init__(
        self, row: LogitsRow, factor: float = 1.0, changed: Ids | None = None, values: Values | None = None
    ) -> None:
        self._row = row
        self._factor = factor
        self._changed = changed  # None: none
        self._values = values
        self._array: NDArray[np.float32] | None = None
        self._spread: tuple[float, NDArray[np.float32]] | None = None
        self._log_total: float | None = None

    def max(self) -> float:
        """Largest logit."""
        return self._row.max() * self._factor if self._changed is None else self.top(1).max()

    def log_total(self) -> float:
        """From the row where nothing was changed, else from all logits."""
        if self._log_total is None:
            if self._changed is None and self._factor == 1:
                self._log_total = self._row.logsumexp()
            else:
                largest, weights = self._weights()
                self._log_total = largest + float(np.log(weights.sum(dtype=np.float64)))
        return self._log_total

    def entropy(self) -> float:
        """In nats; one pass over all logits."""
        largest, weights = self._weights()
        array = self.array()
        below = np.maximum(array - np.float32(largest), np.float32(-1000))  # finite, and the weight there is 0
        total = float(weights.sum(dtype=np.float64))
        return float(np.log(total)) - float((weights * below).sum(dtype=np.float64)) / total

    def deviation(self) -> float:
        """In float64, piece by piece, so that no large copy is made."""
        array = self.array()
        if array.min() < LOWEST:
            array = array[array >= LOWEST]
        if not len(array):
            raise NothingLeft
        largest, total, squares = array.max(), 0.0, 0.0
        for start in range(0, len(array), PIECE):
            piece = np.subtract(array[start : start + PIECE], largest, dtype=np.float64)
            total += float(piece.sum())
            squares += float(piece.dot(piece))
        mean = total / len(array)
        return float(np.sqrt(max(0.0, squares / len(array) - mean * mean)))

    def count(self) -> int:
        """One pass over all logits."""
        return int(np.count_nonzero(self.array() >= LOWEST))

    def array(self) -> NDArray[np.float32]:
        """All logits as float32 [vocab], for statistics; not to be written to."""
        if self._array is None:
            array = self._row.full()
            if self._factor != 1:
                with np.errstate(over="ignore"):  # the huge negative numbers that some models write to mean -inf
                    array = array * np.float32(self._factor)
            elif self._changed is not None:
                array = array.copy()
            if self._changed is not None:
                array[self._changed] = self._values
            self._array = array
        return self._array

    def reached(self, threshold: float) -> int:
        """How many logits are as large; one pass over all logits."""
        return int(np.count_nonzero(self.array() >= max(threshold, float(LOWEST))))

    def reshaped(self, change: Callable[[Values], Values], lowest: float, span: float) -> Whole:
        """Every logit changed, in single precision; those below `lowest`, or then more than `span` behind the largest, become impossible."""
        array = self.array()
        is_left = array >= max(lowest, float(LOWEST))
        changed = np.full(len(array), -np.inf, np.float32)
        changed[is_left] = change(array[is_left].astype(np.float64))
        changed[changed < changed.max() - span] = -np.inf
        return Whole(NumpyRow(changed))

    def adjust(self, ids: Ids, change: Change) -> Whole:
        """Give these ids logits of their own."""
        if not len(ids):
            return self
        values = change(self.at(ids), np.arange(len(ids)))
        if self._changed is not None and self._values is not None:
            other = ~find(ids, self._changed)[0]
            ids, values = np.concatenate((ids, self._changed[other])), np.concatenate((values, self._values[other]))
            order = ids.argsort(kind="stable")
            ids, values = ids[order], values[order]
        return Whole(self._row, self._factor, ids, values)

    def at(self, ids: Ids) -> Values:
        """Logits of the given tokens, as they are now."""
        logits = self._row.at(ids).astype(np.float64) * self._factor
        if self._changed is not None and self._values is not None:
            hit, place = find(self._changed, ids)
            logits[hit] = self._values[place[hit]]
        return logits

    def scaled(self, factor: float) -> Whole:
        """Only notes the factor."""
        values = None if self._values is None else self._values * factor
        return Whole(self._row, self._factor * factor, self._changed, values)

    def top(self, k: int) -> Ranked:
        """The row's own largest and the changed ones that reach them."""
        if self._changed is None or self._values is None:
            return ranked(*self._row.cut(k, -np.inf), self._factor).prefix(k)
        if len(self._changed) + k <= MOST:
            few = self._few_top(k, self._changed.tolist(), self._values.tolist())
            if few is not None:
                return few
        size = self._row.size
        want = min(k + SPARE, size)
        while True:
            ids, raw = self._row.cut(want, -np.inf)
            logits = raw.astype(np.float64) * self._factor
            # What the cut left out comes after everything in it; so once k unchanged ones and changed ones above its last are there, the
            # first k are among them and the changed ones that are equal to its last
            complete = want == size or len(ids) < want
            floor = -np.inf if complete else logits.min()
            unchanged = ~find(self._changed, ids)[0]
            if complete or np.count_nonzero(unchanged) + np.count_nonzero(self._values > floor) >= k:
                return Kept.sort(*self._merged(ids, logits, unchanged, self._values >= floor)).prefix(k)
            want = min(4 * want, size)

    def _few_top(self, k: int, changed: list[int], values: list[float]) -> Few | None:
        """The same where few were changed: so many more are taken from the row that k unchanged ones are surely among them. None if too many are equal."""
        want = k + len(changed)
        found, raw = self._row.cut(want, -np.inf)
        if len(found) > 2 * MOST:
            return None
        own, factor = dict(zip(changed, values, strict=True)), self._factor
        logits = {token_id: logit * factor for token_id, logit in zip(found.tolist(), raw.tolist(), strict=True) if token_id not in own}
        is_all = want >= self._row.size or len(found) < want  # nothing possible was left out
        floor = -math.inf if is_all else min(logits.values(), default=-math.inf)
        risen = {token_id: value for token_id, value in own.items() if value > -math.inf and value >= floor}
        if risen:
            logits = dict(sorted((logits | risen).items()))
        return Few.sort(list(logits), list(logits.values())).prefix(k)

    def above(self, threshold: float) -> Ranked:
        """Found by one comparison of the row."""
        below = threshold / self._factor
        below -= 1e-6 * abs(below) + 1e-30 if below > -np.inf else 0.0  # a superset: rounding must lose nothing
        ids, raw = self._row.cut(0, below)
        if self._changed is None or self._values is None:
            return ranked(ids, raw, self._factor).above(threshold) if len(ids) else self.top(1)
        logits = raw.astype(np.float64) * self._factor
        ids, logits = self._merged(ids, logits, ~find(self._changed, ids)[0], self._values >= threshold)
        return Kept.sort(ids, logits).above(threshold) if len(ids) else self.top(1)

    def nucleus(self, mass: float) -> Ranked:
        """From a few of the largest where that suffices, else up to a bound from a histogram."""
        for kept, scale in self._takes():
            needed = kept.reaching(mass * scale)
            if needed <= len(kept.ids):
                return kept.prefix(needed)
        largest, weights = self._weights()
        bins = _bins(np.float32(largest) - self.array())
        cumulative = np.bincount(bins, weights, BINS).cumsum()
        last = int(cumulative.searchsorted(mass * cumulative[-1])) + 1  # one more, for rounding
        ids = ((bins <= last) & (weights > 0)).nonzero()[0]
        kept = Kept.sort(ids, self.at(ids))
        return kept.prefix(kept.reaching(mass * float(cumulative[-1])))

    def typical(self, mass: float) -> Kept:
        """Among the logits within a bound of the distance to the entropy, from a histogram."""
        _, weights = self._weights()
        log_total, entropy = self.log_total(), self.entropy()
        bins = _bins(np.abs(self.array() - np.float32(log_total - entropy)))
        cumulative = np.bincount(bins, weights, BINS).cumsum()
        last = int(cumulative.searchsorted(mass * cumulative[-1])) + 1  # one more, for logits on the border
        ids = ((bins <= last) & (weights > 0)).nonzero()[0]
        kept = Kept.sort(ids, self.at(ids))
        return kept.typical_of(mass * float(np.exp(log_total - kept.max())), log_total, entropy)

    def without_first(self, n: int) -> Whole:
        """Makes the n largest impossible."""
        return self.adjust(np.sort(self.top(n).ids), lambda logits, _: np.full_like(logits, -np.inf))

    def draw(self, uniform: float) -> int:
        """From a few of the largest where that suffices, else within one bin of a histogram."""
        for kept, scale in self._takes():
            place = kept.passing(uniform * scale)
            if place < len(kept.ids):
                return int(kept.ids[place])
        largest, weights = self._weights()
        bins = _bins(np.float32(largest) - self.array())
        cumulative = np.bincount(bins, weights, BINS).cumsum()
        weight = uniform * cumulative[-1]
        place = min(int(cumulative.searchsorted(weight, side="right")), BINS - 1)
        ids = ((bins == place) & (weights > 0)).nonzero()[0]
        kept = Kept.sort(ids, self.at(ids))  # only the logits of one bin need sorting
        inside = (weight - (cumulative[place - 1] if place else 0.0)) / np.exp(kept.max() - largest)
        return int(kept.ids[min(kept.passing(inside), len(ids) - 1)])

    def _takes(self) -> Iterator[tuple[Ranked, float]]:
        """A few of the largest logits, then more, each with the sum of `weights` of the whole vocabulary on their scale."""
        for k in FIRST_TAKES:
            if k < self._row.size:
                kept = self.top(k)
                yield kept, float(np.exp(self.log_total() - kept.max()))

    def _weights(self) -> tuple[float, NDArray[np.float32]]:
        """The largest logit and the exponentials of all [vocab] relative to it."""
        if self._spread is None:
            array = self.array()
            largest = float(array.max())
            if largest < LOWEST:
                raise NothingLeft
            self._spread = largest, np.exp(array - np.float32(largest))
        return self._spread

    def _merged(self, ids: Ids, logits: Values, unchanged: NDArray[np.bool_], risen: NDArray[np.bool_]) -> tuple[Ids, Values]:
        """The unchanged ones of these candidates and some of the changed ones."""
        assert self._changed is not None and self._values is not None
        return (
            np.concatenate((ids[unchanged], self._changed[risen])),
            np.concatenate((logits[unchanged], self._values[risen])),
        )


def _bins(distance: NDArray[np.float32]) -> NDArray[np.int64]:
    """Bin of each distance >= 0: 1/32 wide, everything beyond 32 in the last one."""
    bins: NDArray[np.int64] = np.minimum(distance * np.float32(32), np.float32(BINS - 1)).astype(np.int64)
    return bins
