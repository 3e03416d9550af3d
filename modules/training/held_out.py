"""The loss on data that is never learned, while a run is under way: of texts as in the proof at its end, of preferences as they are learned.

Shared out among the ranks. Draws no random number, so that a look changes nothing of what follows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from modules.training.material import Material
from modules.training.packing import MicroBatch, collate
from modules.training.preference import preference_loss
from modules.training.ranks import Ranks
from modules.training.samples import Encoded
from modules.training.sequence_losses import batch_losses, batches_of, learned_tokens

MOST_TOKENS = 100_000  # of one look: more would take time and say the same


class HeldOut:
    """See above."""

    def __init__(self, material: Material, ranks: Ranks) -> None:
        self._material = material
        self._ranks = ranks
        self._sequences = _within([sequence for sequence in material.held_out if learned_tokens(sequence)])
        self._batches = batches_of(self._sequences) if not material.prefers else []
        self._preferences = _preferences(self._sequences, material.args.options.micro_batch_size) if material.prefers else []

    def loss(self, model: Any, check: Callable[[], None]) -> float:
        """The mean over all learned tokens, or all preferences; `check` is called before each batch and may raise."""
        model.eval()
        weight = total = 0.0
        try:
            for place, measure in enumerate(self._measures(model)):
                check()
                if self._ranks.divided or place % self._ranks.count == self._ranks.rank:
                    more, loss = measure()
                    weight, total = weight + more, total + loss
        finally:
            model.train()
        weight, total = self._ranks.total([weight, total])
        return total / weight if weight else math.nan

    def _measures(self, model: Any) -> Iterator[Callable[[], tuple[float, float]]]:
        """One for each batch: how much it counts, and the sum of its losses."""
        for batch in self._batches:
            yield partial(self._texts, model, batch)
        for rows in self._preferences:
            yield partial(self._preferred, model, rows)

    def _texts(self, model: Any, batch: Sequence[int]) -> tuple[float, float]:
        losses = batch_losses(model, [self._sequences[place] for place in batch], self._material.pad_id)
        return float(sum(one.tokens for one in losses)), sum(one.total for one in losses)

    def _preferred(self, model: Any, rows: MicroBatch) -> tuple[float, float]:
        import torch

        device = model.get_input_embeddings().weight.device
        batch = collate(self._sequences, rows, self._material.pad_id)
        with torch.no_grad():
            loss, _ = preference_loss(model, {name: value.to(device) if hasattr(value, "to") else value for name, value in batch.items()}, self._material.args.options)
        return float(len(rows)), float(loss) * len(rows)


def _preferences(sequences: Sequence[Encoded], size: int) -> list[MicroBatch]:
    """Pairs or single answers in their order, so many at once; both of a pair stay together."""
    units: list[list[tuple[int, ...]]] = []
    for place, sequence in enumerate(sequences):
        if sequence.pair >= 0 and units and sequences[units[-1][-1][0]].pair == sequence.pair:
            units[-1].append((place,))
        else:
            units.append([(place,)])
    return [tuple(row for unit in units[begin : begin + size] for row in unit) for begin in range(0, len(units), size)]


def _within(sequences: list[Encoded]) -> list[Encoded]:
    """As many as the limit allows, spread over all of them; both of a pair go or stay."""
    count = sum(len(sequence.token_ids) for sequence in sequences)
    stride = max(1, math.ceil(count / MOST_TOKENS))
    return [sequence for place, sequence in enumerate(sequences) if (sequence.pair if sequence.pair >= 0 else place) % stride == 0]
