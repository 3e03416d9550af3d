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


class TorchRow:
    """One float32 row [vocab] on any device. Valid until the next forward pass.

    Not-a-number counts as -inf and +inf as a very large number, as in rows in main memory.
    """

    def __init__(self, row: torch.Tensor) -> None:
        self._row = row.nan_to_num(nan=-math.inf, posinf=HIGHEST, neginf=-math.inf)
        self.size = int(row.shape[0])

    def max(self) -> float:
        """Largest logit."""
        return float(self._row.max())

    def logsumexp(self) -> float:
        """Logarithm of the sum of exponentials."""
        return float(self._row.logsumexp(0))

    def at(self, token_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits of the given tokens."""
        import torch

        index = torch.from_numpy(np.ascontiguousarray(token_ids, np.int64)).to(self._row.device)
        return _array(self._row[index])

    def cut(self, k: int, threshold: float) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The `k` largest logits (0: no limit) that are >= `threshold` and possible; of equal ones the lowest ids."""
        reached = self._row >= _round_up(max(threshold, LOWEST))
        if 0 < k < self.size:
            reached &= self._row >= self._row.topk(k, sorted=False).values.min()  # where the last ones are equal, more than k
        found = reached.nonzero()[:, 0]
        ids, logits = np.asarray(found.cpu().numpy(), np.int64), _array(self._row[found])
        if 0 < k < len(ids):
            order = (-logits).argsort(kind="stable")[:k]  # ids ascend, so equal logits stay in their order
            ids, logits = ids[order], logits[order]
        return ids, logits

    def full(self) -> NDArray[np.float32]:
        """The whole row."""
        return _array(self._row)


def _round_up(threshold: float) -> float:
    """The smallest float32 that is not below the threshold, so that comparing in float32 is exact."""
    rounded = np.float32(min(threshold, HIGHEST))
    return float(rounded if float(rounded) >= threshold else np.nextafter(rounded, np.float32(np.inf)))


def _array(tensor: torch.Tensor) -> NDArray[np.float32]:
    return np.array(tensor.detach().cpu().numpy(), np.float32)
