"""The micro-batches of a whole run in their order: by position, so that any step can be asked for again after a resume and on any rank.

Steps run on across the ends of epochs; only the plan of one epoch is held. Knows no tensor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from modules.training.options import TrainingOptions
from modules.training.packing import MicroBatch, accumulation, plan_epoch
from modules.training.samples import Encoded


class Feed:
    """See above. A place is the number of a micro-batch from the run's beginning, over all ranks."""

    def __init__(self, encoded: Sequence[Encoded], options: TrainingOptions) -> None:
        self.ranks = options.processes * options.nodes
        self._encoded = encoded
        self._options = options
        self._plan = plan_epoch(encoded, options, 0)
        self._epoch = 0
        self._starts = [0, len(self._plan)]  # of the epochs, as far as they are known
        self.accumulation = accumulation(options, self.ranks)
        self.per_step = self.accumulation * self.ranks
        steps = math.ceil(options.epochs * len(self._plan) / self.per_step - 1e-9)
        self.steps = max(1, min(steps, options.max_steps) if options.max_steps else steps)

    def micro_batch(self, place: int) -> MicroBatch:
        """What is seen at a place."""
        while place >= self._starts[-1]:
            self._starts.append(self._starts[-1] + len(self._plan_of(len(self._starts) - 1)))
        epoch = self._epoch_of(place)
        return self._plan_of(epoch)[place - self._starts[epoch]]

    def first_epoch(self) -> list[MicroBatch]:
        """All micro-batches of the first epoch."""
        return list(self._plan_of(0))

    def epoch_at(self, step: int) -> float:
        """How often everything was seen after so many steps."""
        place = step * self.per_step
        if place == 0:
            return 0.0
        self.micro_batch(place - 1)
        epoch = self._epoch_of(place - 1)
        return epoch + (place - self._starts[epoch]) / (self._starts[epoch + 1] - self._starts[epoch])

    def _epoch_of(self, place: int) -> int:
        return next(epoch for epoch in range(len(self._starts) - 2, -1, -1) if self._starts[epoch] <= place)

    def _plan_of(self, epoch: int) -> list[MicroBatch]:
        if epoch != self._epoch:
            self._plan, self._epoch = plan_epoch(self._encoded, self._options, epoch), epoch
        return self._plan


class Stretch:
    """The feed from a step on, as the data set of a trainer: an item is a place and its micro-batch."""

    def __init__(self, feed: Feed, first_step: int) -> None:
        self._feed = feed
        self._first = first_step * feed.per_step

    def __len__(self) -> int:
        return self._feed.steps * self._feed.per_step - self._first

    def __getitem__(self, index: int) -> tuple[int, MicroBatch]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._first + index, self._feed.micro_batch(self._first + index)
