"""Logits that stay on the device: what a sampler needs is computed there, and only the survivors cross to main memory.

Implements the LogitsRow contract over a one-dimensional tensor; knows nothing of models.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch


class TorchRow:
    """One float32 row [vocab] on any device. Valid until the next forward pass."""

    def __init__(self, row: torch.Tensor) -> None:
        self._row = row
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
        """The `k` largest logits (0: no limit) that are also >= `threshold`: ids and logits."""
        if 0 < k < self.size:
            logits, ids = self._row.topk(k, sorted=False)
        else:
            ids = (self._row >= threshold).nonzero()[:, 0]
            logits = self._row[ids]
        found = _array(logits)
        numbers = np.asarray(ids.cpu().numpy(), np.int64)
        keep = found >= threshold
        return numbers[keep], found[keep]

    def full(self) -> NDArray[np.float32]:
        """The whole row."""
        return _array(self._row)


def _array(tensor: torch.Tensor) -> NDArray[np.float32]:
    return np.array(tensor.detach().cpu().numpy(), np.float32)
