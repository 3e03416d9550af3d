"""The loss of one micro-batch as its share of a step: of texts by their learned tokens, of preferences by their pairs or answers.

A step's loss is the mean over all that it learns, on all ranks and in all its micro-batches, however uneven these are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modules.training.material import Material
from modules.training.preference import preference_loss
from modules.training.token_loss import TokenLoss, learned_count, token_count


class StepLoss:
    """See above."""

    def __init__(self, material: Material, model: Any, ranks: int) -> None:
        self._options = material.args.options
        self._prefers = material.prefers
        self._tokens = TokenLoss(model)
        self._ranks = ranks  # gradients are averaged over them, and what is wanted is their sum

    def counts(self, batch: Mapping[str, Any]) -> tuple[float, float]:
        """How much of it is learned, in tokens or preferences, and how many tokens it has."""
        learned = self._preferences(batch) if self._prefers else learned_count(batch)
        return float(learned), float(token_count(batch))

    def __call__(self, model: Any, batch: Mapping[str, Any], of_step: float) -> Any:
        """Its share of the mean over the step."""
        if self._prefers:
            loss, _ = preference_loss(model, batch, self._options)
            return loss * (self._preferences(batch) * self._ranks / float(of_step))
        return self._tokens(model, batch) * (self._ranks / float(of_step))

    def _preferences(self, batch: Mapping[str, Any]) -> int:
        """Pairs, or for KTO answers, in a batch: what its mean is taken over."""
        rows = len(batch["roles"])
        return rows if self._options.preference == "kto" else rows // 2
