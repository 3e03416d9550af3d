"""A handful of candidates as plain lists: `Kept` for so few tokens that Python's own arithmetic is cheaper than NumPy's calls.

A step of the model leaves little of this process in the processor's caches. What counts then is how much code a choice runs through, not how many
numbers it looks at. How much that brings, bans included: `docs/lab-notes.md`.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

from modules.engine.candidates import SLACK, Kept, Ranking

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from modules.engine.candidates import Change, Ids, Values

MOST = 96  # candidates in lists; more are kept in arrays


class Few(Ranking):
    """A sorted list of candidates, like `Kept`: ids and logits as lists of the same length, at least one, all finite."""

    __slots__ = ()

    ids: list[int]
    logits: list[float]
    _weights: list[float] | None
    _cumulative: list[float] | None

    @classmethod
    def sort(cls, ids: Sequence[int], logits: Sequence[float]) -> Few:
        """Put candidates, given by ascending ids, into canonical order; impossible ones are left out."""
        order = sorted(range(len(ids)), key=logits.__getitem__, reverse=True)  # stable, so of equal ones the lower ids come first
        while order and logits[order[-1]] == -math.inf:
            order.pop()
        return cls([ids[place] for place in order], [logits[place] for place in order])

    def kept(self) -> Kept:
        """The same in arrays."""
        return Kept(np.array(self.ids), np.array(self.logits))

    def weights(self) -> list[float]:
        """Probabilities up to a common factor: 1 for the likeliest token."""
        if self._weights is None:
            self._weights = weights_of(self.logits)
        return self._weights

    def cumulative(self) -> list[float]:
        """Running sum of `weights`."""
        if self._cumulative is None:
            self._cumulative = list(accumulate(self.weights()))
        return self._cumulative

    def log_total(self) -> float:
        """Of those kept."""
        return self.logits[0] + math.log(self.cumulative()[-1])

    def entropy(self) -> float:
        """Of those kept, in nats."""
        mean = sum(weight * logit for weight, logit in zip(self.weights(), self.logits, strict=True)) / self.cumulative()[-1]
        return self.log_total() - mean

    def deviation(self) -> float:
        """Of the logits kept."""
        return self.kept().deviation()

    def adjust(self, ids: Ids, change: Change) -> Kept:
        """Replace logits of those of `ids` that are kept, and sort anew."""
        return self.kept().adjust(ids, change)

    def scaled(self, factor: float) -> Few:
        """Times a positive factor; the order stays."""
        return Few(self.ids, [logit * factor for logit in self.logits])

    def above(self, threshold: float) -> Few:
        """A prefix: the logits are sorted."""
        return self.prefix(how_many_above(self.logits, threshold))

    def reaching(self, weight: float) -> int:
        """How many of the first are needed to reach this sum of `weights`; one more than there are if all do not."""
        return how_many_reach(self.cumulative(), weight)

    def passing(self, weight: float) -> int:
        """How many of the first stay at or below this sum of `weights`."""
        return bisect_right(self.cumulative(), weight)

    def typical(self, mass: float) -> Kept:
        """Nearest to the entropy first, until the mass is reached."""
        return self.kept().typical(mass)


Ranked = Few | Kept


# ---- of lists of logits, likeliest first ---------------------------------------------------------------------------


def weights_of(logits: Sequence[float]) -> list[float]:
    """Probabilities up to a common factor: 1 for the likeliest token."""
    largest, exp = logits[0], math.exp
    return [exp(logit - largest) for logit in logits]


def how_many_reach(cumulative: Sequence[float], weight: float) -> int:
    """How many of the first are needed to reach this sum of weights; one more than there are if all do not."""
    return bisect_left(cumulative, weight * (1 - SLACK)) + 1


def how_many_above(logits: Sequence[float], threshold: float) -> int:
    """How many logits are >= threshold; few are not, in the usual case."""
    count = len(logits)
    while count and logits[count - 1] < threshold:
        count -= 1
    return count


def ranked(ids: Ids, raw: NDArray[np.float32] | Values, factor: float = 1.0) -> Ranked:
    """Candidates by ascending ids, their logits times a factor, in canonical order."""
    if len(ids) > MOST:
        return Kept.sort(ids, raw.astype(np.float64) * factor)
    logits: list[float] = raw.tolist()
    return Few.sort(ids.tolist(), logits if factor == 1 else [logit * factor for logit in logits])
