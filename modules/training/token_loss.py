"""The loss of a micro-batch: summed over the tokens that are learned, so that a step's mean is the same however it is divided among micro-batches and ranks.

Logits are computed only where a token is learned, for models that can: the largest tensors of a step are theirs.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from modules.training.samples import IGNORED


class TokenLoss:
    """Knows what a model's forward pass takes."""

    def __init__(self, model: Any) -> None:
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        names = inspect.signature(inner.forward).parameters
        self._chooses_logits = "logits_to_keep" in names
        self._takes_positions = "position_ids" in names

    def __call__(self, model: Any, batch: Mapping[str, Any]) -> Any:
        """The sum over the learned tokens of a batch."""
        import torch

        inputs = {name: value for name, value in batch.items() if name in ("input_ids", "attention_mask")}
        if self._takes_positions and "position_ids" in batch:
            inputs["position_ids"] = batch["position_ids"]
        targets = batch["labels"][:, 1:]
        if self._chooses_logits:
            places = (targets != IGNORED).any(0).nonzero().flatten()
            places = places if len(places) else places.new_zeros(1)
            logits, targets = model(**inputs, use_cache=False, logits_to_keep=places).logits, targets[:, places]
        else:
            logits = model(**inputs, use_cache=False).logits[:, :-1]
        return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten().to(logits.device), ignore_index=IGNORED, reduction="sum")


def learned_count(batch: Mapping[str, Any]) -> int:
    """How many tokens of a batch are learned."""
    return int((batch["labels"][:, 1:] != IGNORED).sum())


def token_count(batch: Mapping[str, Any]) -> int:
    """How many tokens of a batch are no padding."""
    mask = batch.get("attention_mask")
    return int(mask.sum()) if mask is not None else int(batch["input_ids"].numel())
