"""Decoding steps of fixed shapes, recorded once and then played back: on a graphics card one call starts a whole step instead of a thousand small pieces.

A step is fixed by how many slots it spans, from the first on, and by how far every row looks; both grow in powers of two, so that few are recorded.
Rows that have nothing to say are padding: they write to the scratch position and see one key. Knows the cache and the network; nothing of adapters,
whose change makes every recording void (`forget`).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import numpy as np

from modules.core.errors import AppError, OutOfMemory, first_line
from modules.core.model import Row
from modules.loaders.transformers.memory import FIRST_TOKENS
from modules.loaders.transformers.network import Network, step_error
from modules.loaders.transformers.slot_cache import SlotCache

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

WARM_UPS = 3  # passes before a recording: libraries choose their kernels in the first ones
CHANGED_STEPS = 8  # of a shape, before it is recorded again after the model was changed: adapters may take turns, and a recording costs several steps
LACKING_STEPS = 256  # likewise after there was no memory for one

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
    """The recordings of one runner. Of shapes there are few, and recordings share the memory for what lies between layers."""

    def __init__(self, network: Network, slots: int, record: Record) -> None:
        self._network = network
        self._slots = slots
        self._record = record
        self._steps: dict[tuple[int, int], Recorded] = {}
        self._asked: Counter[tuple[int, int]] = Counter()  # steps of shapes without a recording, since the last change
        self._wait = 0  # so many of them pass before one is made
        self.refused = ""

    @property
    def count(self) -> int:
        """Recordings at present."""
        return len(self._steps)

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
        """The model computes something else from now on, or the memory is needed."""
        self._begin_anew(CHANGED_STEPS)

    def _begin_anew(self, wait: int) -> None:
        self._steps.clear()
        self._asked.clear()
        self._wait = wait

    def _step(self, count: int, length: int, cache: SlotCache, values: torch.Tensor) -> Recorded | None:
        """The recording for these shapes, made where there is none that is still valid."""
        shape = count, length
        if any(one.generation != cache.generation for one in self._steps.values()):
            self._begin_anew(0)  # the cache has moved. No recording may end while a newer one lives: with it goes memory that all of them use
        if shape in self._steps:
            return self._steps[shape]
        self._asked[shape] += 1
        if self._asked[shape] <= self._wait:
            return None
        inputs = values.to(self._network.device, copy=True)
        step = self._fixed(count, length, cache, inputs)
        has_grown = False
        try:
            step()  # layers of the cache that have to grow do so now, not in a recording
            has_grown = True
            play = self._record(step)
        except (RuntimeError, AppError) as error:
            told = error if isinstance(error, AppError) else step_error(error)
            if isinstance(told, OutOfMemory) and not has_grown:
                raise told from error  # without a recording there would be no more room, and the cache takes its growth back
            self._begin_anew(LACKING_STEPS)
            if not isinstance(told, OutOfMemory):
                self.refused = first_line(_cause(error))
            log.info("a step of this model was not recorded: %s", first_line(_cause(error)))
            return None
        made = self._steps[shape] = Recorded(inputs, step, play, cache.generation)
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
    aside = torch.cuda.Stream()  # one for all: each stream keeps work space of its own
    pool = None
    living: WeakSet[Any] = WeakSet()

    def record(step: Step) -> Step:
        nonlocal pool
        if not living:
            pool = torch.cuda.graph_pool_handle()  # that of recordings that are gone is given back
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
        living.add(graph)

        def play() -> torch.Tensor:
            graph.replay()
            return logits

        return play

    return record


def _cause(error: BaseException) -> BaseException:
    """The first error of a chain: ending a recording that broke off raises one that says nothing of why."""
    while (earlier := error.__cause__ or error.__context__) is not None:
        error = earlier
    return error


def power_of_two(number: int) -> int:
    """The smallest power of two that is not smaller."""
    return 1 << max(0, number - 1).bit_length()
