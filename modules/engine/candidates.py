"""The tokens still in the running for one position, and everything a sampler may ask of them or do to them.

Three forms with the same methods: `Whole` (in vocabulary.py), a row of logits of which nothing was copied or sorted yet, and the short sorted list that
the first cut leaves: `Kept` in arrays, or `Few` (in few.py) in plain lists. Order is always canonical: larger logit first, lower id first among equal ones.
Logits are float64. Knows no parameters and no sampler.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from modules.engine.few import Ranked

    Ids = NDArray[np.int64]
    Values = NDArray[np.float64]
    # From logits and their places in the ids given to `adjust` to new logits
    Change = Callable[[Values, NDArray[np.int64]], Values]

SLACK = 1e-6  # probabilities closer than this share count as equal: where a cut falls must not hang on how a sum was rounded


class NothingLeft(Exception):  # noqa: N818 - a state of the tokens, caught by the sampler
    """No token with a finite logit is left."""


class Candidates(Protocol):
    """What `Whole`, `Kept` and `Few` have in common. Nothing is changed in place: methods return what is left."""

    def max(self) -> float:
        """Largest logit."""
        ...

    def log_total(self) -> float:
        """Logarithm of the sum of exponentials: log p = logit - log_total."""
        ...

    def entropy(self) -> float:
        """Entropy of the distribution, in nats."""
        ...

    def deviation(self) -> float:
        """Standard deviation of the logits (of the population)."""
        ...

    def count(self) -> int:
        """How many tokens are possible."""
        ...

    def adjust(self, ids: Ids, change: Change) -> Candidates:
        """Replace the logits of those `ids` (ascending) that are candidates."""
        ...

    def scaled(self, factor: float) -> Candidates:
        """All logits times a positive factor."""
        ...

    def top(self, k: int) -> Ranked:
        """The k largest logits."""
        ...

    def above(self, threshold: float) -> Ranked:
        """The logits >= threshold, at least the largest one."""
        ...

    def nucleus(self, mass: float) -> Ranked:
        """The fewest likeliest tokens that together have this probability."""
        ...

    def typical(self, mass: float) -> Ranked:
        """The fewest tokens with this probability whose surprise is closest to the entropy."""
        ...

    def without_first(self, n: int) -> Candidates:
        """Without the n largest logits; n is less than their number."""
        ...

    def draw(self, uniform: float) -> int:
        """The token at which the cumulative probability, in canonical order, passes `uniform` (0 <= uniform < 1)."""
        ...


class Ranking:
    """Sorted candidates, likeliest first, at least one and all finite: what lists and arrays of them do in the same words."""

    __slots__ = ("_cumulative", "_weights", "ids", "logits")

    def __init__(self, ids: Any, logits: Any, weights: Any = None, cumulative: Any = None) -> None:
        if not len(ids):
            raise NothingLeft
        self.ids = ids
        self.logits = logits
        self._weights = weights
        self._cumulative = cumulative

    def prefix(self, n: int) -> Self:
        """The first n, at least one."""
        if n >= len(self.ids):
            return self
        n = max(n, 1)
        weights, cumulative = self._weights, self._cumulative
        return type(self)(
            self.ids[:n],
            self.logits[:n],
            None if weights is None else weights[:n],
            None if cumulative is None else cumulative[:n],
        )

    def max(self) -> float:
        """The first logit."""
        return float(self.logits[0])

    def count(self) -> int:
        """How many are kept."""
        return len(self.ids)

    def top(self, k: int) -> Self:
        """The first k."""
        return self.prefix(k)

    def nucleus(self, mass: float) -> Self:
        """The shortest prefix of this probability."""
        return self.prefix(self.reaching(mass * self.cumulative()[-1]))

    def without_first(self, n: int) -> Self:
        """What follows the first n."""
        return type(self)(self.ids[n:], self.logits[n:])

    def draw(self, uniform: float) -> int:
        """By inverse cumulative probability."""
        return int(self.ids[self.place(uniform)])

    def place(self, uniform: float) -> int:
        """Where in `ids` the drawn token stands."""
        return min(self.passing(uniform * self.cumulative()[-1]), len(self.ids) - 1)

    def cumulative(self) -> Any:
        """Running sum of weights: 1 for the likeliest token."""
        raise NotImplementedError

    def reaching(self, weight: float) -> int:
        """How many of the first are needed to reach this sum of weights; one more than there are if all do not."""
        raise NotImplementedError

    def passing(self, weight: float) -> int:
        """How many of the first stay at or below this sum of weights."""
        raise NotImplementedError


class Kept(Ranking):
    """A sorted list of candidates: ids int64 [n] and logits float64 [n], n >= 1, all finite."""

    __slots__ = ()

    ids: Ids
    logits: Values
    _weights: Values | None
    _cumulative: Values | None

    @classmethod
    def sort(cls, ids: Ids, logits: Values) -> Kept:
        """Put candidates into canonical order; impossible ones are left out."""
        order = np.lexsort((ids, -logits))
        ids, logits = ids[order], logits[order]
        if len(ids) and logits[-1] == -np.inf:
            n = int(np.count_nonzero(logits > -np.inf))
            ids, logits = ids[:n], logits[:n]
        return cls(ids, logits)

    def kept(self) -> Kept:
        """Itself; of a `Few` the same in arrays."""
        return self

    def weights(self) -> Values:
        """Probabilities up to a common factor: 1 for the likeliest token."""
        if self._weights is None:
            self._weights = np.exp(self.logits - self.logits[0])
        return self._weights

    def cumulative(self) -> Values:
        """Running sum of `weights`."""
        if self._cumulative is None:
            self._cumulative = self.weights().cumsum()
        return self._cumulative

    def probabilities(self) -> Values:
        """Probabilities, adding up to 1."""
        shares: Values = self.weights() / self.cumulative()[-1]
        return shares

    def log_total(self) -> float:
        """Of those kept."""
        return float(self.logits[0] + np.log(self.cumulative()[-1]))

    def entropy(self) -> float:
        """Of those kept, in nats."""
        return self.log_total() - float(self.weights().dot(self.logits) / self.cumulative()[-1])

    def deviation(self) -> float:
        """Of the logits kept."""
        return float(self.logits.std())

    def adjust(self, ids: Ids, change: Change) -> Kept:
        """Replace logits of those of `ids` that are kept, and sort anew."""
        if not len(ids):
            return self
        hit, place = find(ids, self.ids)
        if not hit.any():
            return self
        logits = self.logits.copy()
        logits[hit] = change(logits[hit], place[hit])
        return Kept.sort(self.ids, logits)

    def scaled(self, factor: float) -> Kept:
        """Times a positive factor; the order stays."""
        return Kept(self.ids, self.logits * factor)

    def above(self, threshold: float) -> Kept:
        """A prefix: the logits are sorted."""
        return self.prefix(int(np.count_nonzero(self.logits >= threshold)))

    def reaching(self, weight: float) -> int:
        """How many of the first are needed to reach this sum of `weights`; one more than there are if all do not."""
        return int(self.cumulative().searchsorted(weight * (1 - SLACK))) + 1

    def passing(self, weight: float) -> int:
        """How many of the first stay at or below this sum of `weights`."""
        return int(self.cumulative().searchsorted(weight, side="right"))

    def typical(self, mass: float) -> Kept:
        """Nearest to the entropy first, until the mass is reached."""
        return self.typical_of(mass * float(self.cumulative()[-1]), self.log_total(), self.entropy())

    def typical_of(self, weight: float, log_total: float, entropy: float) -> Kept:
        """Like `typical`, the wanted mass as a sum of `weights`, log_total and entropy being those of the distribution this is a part of."""
        nearest = np.abs(log_total - self.logits - entropy).argsort(kind="stable")
        needed = int(self.weights()[nearest].cumsum().searchsorted(weight * (1 - SLACK))) + 1
        chosen = np.sort(nearest[:needed])
        return Kept(self.ids[chosen], self.logits[chosen])



def find(ids: Ids, wanted: Ids) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Which of `wanted` stand in the ascending `ids` (not empty), and at what place."""
    place = ids.searchsorted(wanted)
    return ids.take(place, mode="clip") == wanted, place
