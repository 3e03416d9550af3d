"""Decoding steps of fixed shapes, recorded once and then played back: on a graphics card one call starts a whole step instead of a thousand small pieces.

A step is fixed by how many slots it spans, from the first on, and by how far every row looks; both grow in powers of two, so that few are recorded.
Rows that have nothing to say are padding: they write to the scratch position and see one key. Knows the cache and the network; nothing of adapters,
whose change makes every recording void (`forget`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from modules.core.errors import AppError, OutOfMemory, first_line
from modules.core.model import Row
from modules.loaders.transformers.memory import FIRST_TOKENS
from modules.loaders.transformers.network import Network
from modules.loaders.transformers.slot_cache import SlotCache

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

WARM_UPS = 3  # passes before a recording: libraries choose their kernels in the first ones
MOST_RECORDED = 32  # each holds memory for what lies between its layers

Step = Callable[[], "torch.Tensor"]
Record = Callable[[Step], Step]  # makes of a step one that is played back; both return the same tensor, filled anew


@dataclass
class Recorded:
    """One step: its inputs [3, rows] (ids, positions, places to write to), which are filled before it is played."""

    inputs: torch.Tensor
    step: Step  # what was recorded: a card reads its tensors where they lay then, so they stay as long as this
    play: Step
    generation: int


class RecordedSteps:
    """The recordings of one runner."""

    def __init__(self, network: Network, slots: int, record: Record) -> None:
        self._network = network
        self._slots = slots
        self._record = record
        self._steps: dict[tuple[int, int], Recorded] = {}
        self.refused = ""

    def logits(self, rows: Sequence[Row], cache: SlotCache) -> Any:
        """Logits [rows, vocab] of rows with one token each, in their order; None where a step cannot be recorded, and then nothing has changed.

        Raises:
            OutOfMemory: the cache could not grow.
        """
        if self.refused:
            return None
        torch = self._network.torch
        longest = max(row.start for row in rows) + 1
        with cache.room(longest), torch.inference_mode():
            count = min(power_of_two(max(row.slot for row in rows) + 1), self._slots)
            length = min(power_of_two(max(longest, FIRST_TOKENS)), cache.capacity)
            values = np.zeros((3, count), np.int64)
            values[2] = cache.scratch
            for row in rows:
                values[:, row.slot] = row.token_ids[0], row.start, row.start
            step = self._step(count, length, cache, torch.from_numpy(values))
            if step is None:
                return None
            step.inputs.copy_(torch.from_numpy(values))
            logits = step.play()
            return logits[torch.tensor([row.slot for row in rows], device=logits.device)]

    def forget(self) -> None:
        """The model computes something else from now on."""
        self._steps.clear()

    def _step(self, count: int, length: int, cache: SlotCache, values: torch.Tensor) -> Recorded | None:
        """The recording for these shapes, made where there is none that is still valid."""
        found = self._steps.get((count, length))
        if found is not None and found.generation == cache.generation:
            return found
        if found is not None or len(self._steps) >= MOST_RECORDED:
            self._steps.clear()  # the cache has moved, so none of them is valid; or memory is at its limit
        inputs = values.to(self._network.device, copy=True)
        step = self._fixed(count, length, cache, inputs)
        has_grown = False
        try:
            step()  # layers of the cache that have to grow do so now, not in a recording
            has_grown = True
            play = self._record(step)
        except (RuntimeError, AppError) as error:
            if isinstance(error, OutOfMemory) and not has_grown:
                raise  # without a recording there would be no more room, and the cache takes its growth back
            self._steps.clear()
            self.refused = first_line(error)
            log.info("steps of this model cannot be recorded: %s", self.refused)
            return None
        made = self._steps[(count, length)] = Recorded(inputs, step, play, cache.generation)
        return made

    def _fixed(self, count: int, length: int, cache: SlotCache, inputs: torch.Tensor) -> Step:
        """One pass over the first slots, which reads its inputs from one place."""
        network = self._network
        ids, positions, places = (part[:, None] for part in inputs)

        def step() -> torch.Tensor:
            cache.plan(list(range(count)), places, length, slots=slots)
            mask = network.mask(positions, length)
            return network.run(ids, past_key_values=cache, use_cache=True, position_ids=positions, attention_mask=mask)[:, 0]

        slots = network.torch.arange(count, device=network.device)[:, None]
        return step


def cuda_recording(torch: Any) -> Record:
    """Recordings as CUDA graphs that share their memory, since one is played at a time.

    Another thread may use the card meanwhile, as the one that makes images ready for a prompt does: what it does is none of a recording's business.
    Source: `torch.cuda.CUDAGraph` and the notes on CUDA graphs in PyTorch's documentation.
    """
    pool = torch.cuda.graph_pool_handle()

    def record(step: Step) -> Step:
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UPS):
                step()
        torch.cuda.current_stream().wait_stream(aside)
        graph, present = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
                logits = step()
        finally:  # one that broke off leaves its own in use
            torch.cuda.set_stream(present)

        def play() -> torch.Tensor:
            graph.replay()
            return logits

        return play

    return record


def power_of_two(number: int) -> int:
    """The smallest power of two that is not smaller."""
    return 1 << max(0, number - 1).bit_length()
