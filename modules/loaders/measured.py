"""What was measured on this machine: what a process of a loader takes before any model, and how long the parts of a step take. Speeds follow from it.

A step of one token costs something whatever the model, something for each layer, the attention over the tokens so far, and the reading of the weights,
whose speed depends on the type of the numbers and on whether they fit into the processor's caches. Pure values; `modules/services/machine_probe.py` measures them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, Field

from modules.loaders.shape import Shape

# A type that was not measured is taken for its likest
LIKE: Mapping[str, str] = MappingProxyType({
    "BF16": "F16", "F32": "F16", "Q8_1": "Q8_0", "Q8_K": "Q8_0", "Q4_1": "Q6_K", "Q5_0": "Q6_K", "Q5_1": "Q6_K", "MXFP4": "IQ4_NL",
    "NVFP4": "IQ4_NL", "IQ4_XS": "IQ4_NL", "Q5_K": "Q6_K", "Q2_K": "Q6_K", "Q3_K": "Q6_K",
})  # fmt: skip
OTHERS = "Q6_K"  # of those with many small steps, like the IQ types
LEAST_RATE = 1.0
REPLY_CONTEXT_TOKENS = 256  # at which a speed is told: the middle of a first answer


class Rate(BaseModel, frozen=True):
    """How fast weights of one type are used, for models of one size."""

    model_bytes: int = Field(gt=0)
    bytes_per_s: float = Field(gt=0)


class HeadTime(BaseModel, frozen=True):
    """What attention takes for each head, layer and token before, with heads of one width: narrow ones can take longer than wide ones."""

    width: int = Field(gt=0)
    seconds: float = Field(ge=0)


class Pace(BaseModel, frozen=True):
    """The parts of a step with so many threads."""

    threads: int = Field(ge=1)
    step_s: float = Field(ge=0)
    layer_s: float = Field(ge=0)
    heads: tuple[HeadTime, ...] = ()  # by width, the narrowest first
    rates: dict[str, tuple[Rate, ...]]  # type of number → by size, the smallest first

    def weights_s(self, kind: str, read_bytes: float, model_bytes: float) -> float:
        """Seconds that reading so many bytes takes, as a part of a model of that size."""
        points = self.rates.get(kind) or self.rates.get(LIKE.get(kind, OTHERS)) or next(iter(self.rates.values()), ())
        return read_bytes / max(LEAST_RATE, _between([(rate.model_bytes, rate.bytes_per_s) for rate in points], model_bytes)) if points else 0.0

    def overhead_s(self, shape: Shape, tokens: int) -> float:
        """Of a step of one token after so many others, without its weights."""
        seen = sum(group.layers * min(tokens, group.window or tokens) for group in shape.cache)
        each = _between([(head.width, head.seconds) for head in self.heads], shape.head_width) if self.heads else 0.0
        return self.step_s + self.layer_s * shape.layers + seen * shape.heads * each

    def seconds(self, shape: Shape, weights_bytes: int, tokens: int) -> float:
        """Of a step of one token after so many others."""
        used = weights_bytes * shape.read_share  # what lies in caches is what is read, not tables
        return self.overhead_s(shape, tokens) + sum(self.weights_s(kind, weights_bytes * share, used) for kind, share in shape.reads)


class Measured(BaseModel, frozen=True):
    """One loader on this machine."""

    process_bytes: int = Field(gt=0)  # the engine's process beside the model
    copied: tuple[str, ...] = ()  # types that are rewritten while loading
    token_s: float = Field(ge=0)  # of the engine, for each token, beside the step
    word_s: float = Field(ge=0)  # and for each entry of the vocabulary
    paces: tuple[Pace, ...] = Field(min_length=1)  # by threads, one first

    def pace(self, threads: int) -> Pace:
        """That of the next number of threads."""
        return min(self.paces, key=lambda pace: abs(pace.threads - threads))

    def engine_s(self, shape: Shape) -> float:
        """Seconds a token takes beside the step: sampling, text, delivery."""
        return self.token_s + self.word_s * shape.vocabulary

    def tokens_per_s(self, shape: Shape, weights_bytes: int, threads: int, tokens: int = REPLY_CONTEXT_TOKENS) -> float:
        """Speed of writing one reply, where so many tokens stand before."""
        total = self.pace(threads).seconds(shape, weights_bytes, tokens) + self.engine_s(shape)
        return 1 / total if total > 0 else 0.0

    def copied_bytes(self, shape: Shape) -> int:
        """The part of the weights that is rewritten, in bytes of the file: matrices of those types that are multiplied."""
        return int(shape.stored_bytes * sum(part for kind, part in shape.reads if kind in self.copied))


def _between(points: Sequence[tuple[float, float]], place: float) -> float:
    """The value at a place: on a straight line over the logarithm of the place, level beyond the ends."""
    for (lower, first), (upper, second) in itertools.pairwise(points):
        if lower <= place <= upper:
            return first + math.log(place / lower) / math.log(upper / lower) * (second - first)
    return points[0][1] if place < points[0][0] else points[-1][1]


def read_measured(value: Any) -> Measured | None:
    """From a stored value; None if it is none."""
    try:
        return Measured.model_validate(value)
    except ValueError:
        return None
