"""The loss of each of many sequences under a model as it stands: in batches of like length, summed over the tokens that are learned.

Knows tensors and labels; nothing of adapters or verdicts. The caller puts the model into evaluation mode.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from modules.training.samples import IGNORED

if TYPE_CHECKING:
    from modules.training.samples import Encoded

BATCH_TOKENS = 2048  # of one forward pass, padding included: what fits training fits this, which keeps no activations
BATCH_SEQUENCES = 32
HEAD_TOKENS = 256  # positions whose probabilities are computed in float32 at once: a large vocabulary takes 0.6 MB for each


@dataclass(frozen=True, slots=True)
class SequenceLoss:
    """One sequence's loss."""

    tokens: int  # that are learned
    total: float  # over them, nats

    @property
    def mean(self) -> float:
        """For each token."""
        return self.total / self.tokens if self.tokens else math.nan


def learned_tokens(sequence: Encoded) -> int:
    """How many tokens have a label that counts: the first token has none before it to be predicted from."""
    return sum(label != IGNORED for label in sequence.labels[1:])


def batches_of(sequences: Sequence[Encoded]) -> list[list[int]]:
    """Places of sequences that go through the model together, longest first: what needs most memory fails at once, if at all."""
    order = sorted(range(len(sequences)), key=lambda place: (-len(sequences[place].token_ids), place))
    batches: list[list[int]] = []
    for place in order:
        width = len(sequences[batches[-1][0]].token_ids) if batches else 0
        if batches and len(batches[-1]) < BATCH_SEQUENCES and width * (len(batches[-1]) + 1) <= BATCH_TOKENS:
            batches[-1].append(place)
        else:
            batches.append([place])
    return batches


def batch_losses(model: Any, sequences: Sequence[Encoded], pad_id: int) -> list[SequenceLoss]:
    """The losses of sequences that go through the model together. Padding stands at the end, where nothing sees it."""
    import torch

    device = model.get_input_embeddings().weight.device
    width = max(len(sequence.token_ids) for sequence in sequences)
    ids = torch.full((len(sequences), width), pad_id, dtype=torch.long)
    labels = torch.full((len(sequences), width), IGNORED, dtype=torch.long)
    mask = torch.zeros((len(sequences), width), dtype=torch.long)
    for row, sequence in enumerate(sequences):
        length = len(sequence.token_ids)
        ids[row, :length] = torch.tensor(sequence.token_ids)
        labels[row, :length] = torch.tensor(sequence.labels)
        mask[row, :length] = 1
    inputs = {"input_ids": ids.to(device)}
    if not bool(mask.all()):
        inputs["attention_mask"] = mask.to(device)
    with torch.no_grad():
        logits = model(**inputs, use_cache=False).logits
        return [_loss(logits[row, :-1], labels[row, 1:]) for row in range(len(sequences))]


def _loss(logits: Any, targets: Any) -> SequenceLoss:
    """The sum over one row, a few positions at a time, in double precision: a mean over many tokens keeps its digits."""
    import torch

    places = (targets != IGNORED).nonzero().flatten().to(logits.device)
    total = 0.0
    for begin in range(0, len(places), HEAD_TOKENS):
        chosen = places[begin : begin + HEAD_TOKENS]
        wanted = targets.to(logits.device)[chosen]
        total += float(torch.nn.functional.cross_entropy(logits[chosen].float(), wanted, reduction="none").double().sum())
    return SequenceLoss(len(places), total)
