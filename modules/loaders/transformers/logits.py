"""Logits that stay on the device: what a sampler needs is computed there, and only the survivors cross to main memory.

Implements the LogitsRow contract over a one-dimensional tensor; knows nothing of models.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

LOWEST = float(np.float32(-1e30))  # what is below is impossible
HIGHEST = float(np.float32(1e30))  # instead of +inf


MOST_LIKELY = 256  # of each row, brought over for all rows at once; what wants more asks for its row alone


class TorchRows:
    """All rows [rows, vocab] of a step: what most samplers ask first is computed and brought over for all of them together.

    Not-a-number counts as -inf and +inf as a very large number, as in rows in main memory.
    """

    def __init__(self, logits: torch.Tensor) -> None:
        self.logits = logits.nan_to_num(nan=-math.inf, posinf=HIGHEST, neginf=-math.inf)
        self._likely: tuple[NDArray[np.int64], NDArray[np.float32]] | None = None
        self._sums: NDArray[np.float32] | None = None

    def likely(self, place: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Ids and logits of the likeliest tokens of a row, falling; which of equal ones at the end are there is chance."""
        if self._likely is None:
            logits, ids = self.logits.topk(min(MOST_LIKELY, self.logits.shape[1]))
            self._likely = np.asarray(ids.cpu().numpy(), np.int64), _array(logits)
        return self._likely[0][place], self._likely[1][place]

    def logsumexp(self, place: int) -> float:
        """Logarithm of the sum of exponentials of a row."""
        if self._sums is None:
            self._sums = _array(self.logits.logsumexp(1))
        return float(self._sums[place])

    def rows(self) -> list[TorchRow]:
        """Each of them."""
        return [TorchRow(row, self, place) for place, row in enumerate(self.logits)]


class TorchRow:
    """One float32 row [vocab] on any device. Valid until the next forward pass."""

    def __init__(self, row: torch.Tensor, rows: TorchRows | None = None, place: int = 0) -> None:
        self._rows = rows or TorchRows(row[None])
        self._place = place
        self._row = self._rows.logits[place] if rows is None else row
        self.size = int(row.shape[0])

    def max(self) -> float:
        """Largest logit."""
        return float(self._rows.likely(self._place)[1][0])

    def logsumexp(self) -> float:
        """Logarithm of the sum of exponentials."""
        return self._rows.logsumexp(self._place)

    def at(self, token_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits of the given tokens."""
        import torch

        index = torch.from_numpy(np.ascontiguousarray(token_ids, np.int64)).to(self._row.device)
        return _array(self._row[index])

    def cut(self, k: int, threshold: float) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The `k` largest logits (0: no limit) that are >= `threshold` and possible; of equal ones the lowest ids."""
        bound = _round_up(max(threshold, LOWEST))
        ids, logits = self._rows.likely(self._place)
        reached = float(logits[k - 1]) if 0 < k <= len(logits) else -math.inf
        if len(logits) == self.size or float(logits[-1]) < max(bound, reached):  # all that counts is among the likeliest
            kept = logits >= np.float32(max(bound, reached))
            ids, logits = ids[kept], logits[kept]
            order = ids.argsort()
            ids, logits = ids[order], logits[order]
        else:
            ids, logits = self._cut_alone(k, bound)
        if 0 < k < len(ids):
            order = np.sort((-logits).argsort(kind="stable")[:k])  # ids ascend, so of equal logits the lowest ones are taken
            ids, logits = ids[order], logits[order]
        return ids, logits

    def _cut_alone(self, k: int, bound: float) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """At least the `k` largest that reach the bound, ids ascending."""
        reached = self._row >= bound
        if 0 < k < self.size:
            reached &= self._row >= self._row.topk(k, sorted=False).values.min()  # where the last ones are equal, more than k
        found = reached.nonzero()[:, 0]
        return np.asarray(found.cpu().numpy(), np.int64), _array(self._row[found])

    def full(self) -> NDArray[np.float32]:
        """The whole row."""
        return _array(self._row)


def _round_up(threshold: float) -> float:
    """The smallest float32 that is not below the threshold, so that comparing in float32 is exact."""
    rounded = np.float32(min(threshold, HIGHEST))
    return float(rounded if float(rounded) >= threshold else np.nextafter(rounded, np.float32(np.inf)))


def _array(tensor: torch.Tensor) -> NDArray[np.float32]:
    return np.array(tensor.detach().cpu().numpy(), np.float32)
