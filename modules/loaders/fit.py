"""What a model takes and whether it fits: the one formula of weights, key-value cache, recurrent state and buffers, and a verdict in a sentence.

Pure functions of a shape, of how a loader would hold it, and of the free memory. Both loaders refuse by it before a load, and the hub shows it
before a download. Knows no file and no loader.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from modules.loaders.machine import size_text
from modules.loaders.shape import Shape

GROWN = 1.4  # where a cache has grown: the smaller ones before it leave holes that are not given back; measured
STEP_TOKENS = 256  # contexts are told and cut in steps of this
MOST_TOKENS = 1 << 26
NUMBER_BYTES = 4  # states, buffers and logits are float32
Kind = Literal["fits", "part_on_gpu", "shorter", "no"]


@dataclass(frozen=True)
class Usage:
    """How a loader would hold a model."""

    weights_bytes: int
    library_bytes: int  # what any model costs
    number_bytes: float  # of a key or value in the cache
    batch_tokens: int
    outputs: int  # rows of logits kept of one step
    sequences: int
    scores: int = 0  # how often the attention scores of a whole step are written out
    scores_of_one: bool = False  # of one sequence at a time; else of everything that is cached
    trims_windows: bool = False  # layers that see a window keep no more than it
    scan_copies: int = 0  # how often the states of every token of a step are written out in a layer that scans
    word_bytes: int = 0  # of each entry of the vocabulary, in tables
    first_tokens: int = 0  # room for a sequence at first, which then doubles; 0: there is room for what is asked
    most_tokens: int = 0  # of a sequence, where that room ends to grow
    copied_bytes: int = 0  # weights that are rewritten for this processor: their file is then in memory too, until the system wants the room


@dataclass(frozen=True)
class Needs:
    """Memory in bytes as a function of the tokens in the cache."""

    weights: int
    fixed: int
    per_token: float
    windows: tuple[tuple[float, int], ...] = ()  # bytes per token, up to so many tokens
    spare: int = 0  # in memory as long as nobody else wants the room
    doubling: tuple[int, int, int] | None = None  # sequences, room of each at first and at most, where it doubles as they grow

    def cache(self, tokens: int) -> float:
        """What so many tokens take, beside everything else."""
        if self.doubling is not None and tokens:
            sequences, first, most = self.doubling
            room = first
            while room * sequences < tokens and (not most or room < most):
                room *= 2
            tokens = int(max(tokens, sequences * (min(room, most) if most else room)) * (GROWN if room > first else 1))
        return self.per_token * tokens + sum(size * min(tokens, limit) for size, limit in self.windows)

    def total(self, tokens: int) -> int:
        """Everything that must have room, for a cache of so many tokens."""
        return int(self.weights + self.fixed + self.cache(tokens))

    def peak(self, tokens: int) -> int:
        """The most that the process will be seen to hold."""
        return self.total(tokens) + self.spare

    def tokens_that_fit(self, available: int) -> int:
        """Largest cache, a multiple of 256 tokens; 0 if none."""
        low, high = 0, MOST_TOKENS // STEP_TOKENS
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.total(middle * STEP_TOKENS) <= available else (low, middle - 1)
        return low * STEP_TOKENS

    def scaled(self, ratio: float) -> Needs:
        """Corrected by what was measured: everything so many times as large."""
        windows = tuple((size * ratio, limit) for size, limit in self.windows)
        return Needs(int(self.weights * ratio), int(self.fixed * ratio), self.per_token * ratio, windows, int(self.spare * ratio), self.doubling)


def together(first: Needs, second: Needs) -> Needs:
    """What two models take whose caches hold the same tokens."""
    return replace(
        first,
        weights=first.weights + second.weights,
        fixed=first.fixed + second.fixed,
        per_token=first.per_token + second.per_token,
        windows=(*first.windows, *second.windows),
    )


def needs(shape: Shape, usage: Usage) -> Needs:
    """The formula; checked against measured peaks (docs/fit.md)."""
    per_token = usage.scores * usage.batch_tokens * shape.heads * float(NUMBER_BYTES) / (usage.sequences if usage.scores_of_one else 1)
    windows = []
    for group in shape.cache:
        size = group.layers * group.numbers * usage.number_bytes
        if group.window and usage.trims_windows:
            windows.append((size, group.window * usage.sequences + usage.batch_tokens))
        else:
            per_token += size
    work = usage.outputs * shape.vocabulary + usage.batch_tokens * (6 * shape.width + 3 * shape.inner + usage.scan_copies * shape.scan_numbers)
    fixed = usage.library_bytes + usage.word_bytes * shape.vocabulary + NUMBER_BYTES * (work + shape.state_numbers * usage.sequences)
    doubling = (usage.sequences, usage.first_tokens, usage.most_tokens) if usage.first_tokens else None
    return Needs(usage.weights_bytes, fixed, per_token, tuple(windows), usage.copied_bytes, doubling)


@dataclass(frozen=True, slots=True)
class Room:
    """Free memory: of the machine, and of its graphics cards (0: none that is used)."""

    memory_bytes: int
    graphics_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Fit:
    """Whether a model fits, for so many users with a context each."""

    kind: Kind
    needed_bytes: int
    available_bytes: int
    context_length: int  # of each user; less than wanted when the kind is “shorter”, 0 when nothing fits
    users: int
    gpu_layers: int
    sentence: str
    largest_context: int = 0  # that would fit, up to what the model was trained for


def judge(shape: Shape, wanted: Needs, room: Room, *, context_length: int, users: int) -> Fit:
    """The verdict for a context and a number of users at once."""
    context = min(context_length, shape.trained_tokens or context_length)
    needed = wanted.total(context * users)
    layers = layers_on_gpu(shape, wanted, room, context * users)
    whole = layers > shape.layers
    available = room.graphics_bytes if whole else room.memory_bytes + (room.graphics_bytes if layers else 0)
    largest = min(wanted.tokens_that_fit(available) // users // STEP_TOKENS * STEP_TOKENS, shape.trained_tokens or MOST_TOKENS)
    fit = Fit("fits", needed, available, context, users, layers, "", max(largest, 0))
    if needed <= available and (whole or _rest(shape, wanted, layers, context * users) <= room.memory_bytes):
        fit = replace(fit, kind="fits" if whole or not layers else "part_on_gpu", largest_context=max(largest, context))
    elif largest >= min(STEP_TOKENS, context):
        fit = replace(fit, kind="shorter", context_length=min(largest, context))
    else:
        fit = replace(fit, kind="no", context_length=0, needed_bytes=wanted.total(min(STEP_TOKENS, context) * users), gpu_layers=0)
    return replace(fit, sentence=_sentence(fit, shape, context))


def _layer_bytes(shape: Shape, wanted: Needs, tokens: int) -> float:
    return (wanted.weights + wanted.cache(tokens)) / (shape.layers + 1)  # embeddings and output count as one


def layers_on_gpu(shape: Shape, wanted: Needs, room: Room, tokens: int) -> int:
    """How many layers the graphics memory holds beside the buffers; one more than there are when all and the output do."""
    if room.graphics_bytes <= wanted.fixed:
        return 0
    return min(shape.layers + 1, int((room.graphics_bytes - wanted.fixed) / max(1.0, _layer_bytes(shape, wanted, tokens))))


def _rest(shape: Shape, wanted: Needs, layers: int, tokens: int) -> int:
    """What stays in main memory; the buffers are needed on both sides."""
    return int(wanted.total(tokens) - layers * _layer_bytes(shape, wanted, tokens))


def _sentence(fit: Fit, shape: Shape, wanted_tokens: int) -> str:
    needed, free = size_text(fit.needed_bytes), size_text(fit.available_bytes)
    who = "" if fit.users == 1 else f" for each of {fit.users} users at once"
    if fit.kind == "no":
        return f"Does not fit{who}: needs about {needed}, {free} is free; choose a smaller quantization or model, or close programs."
    if fit.kind == "shorter":
        return f"Fits with a context up to {fit.context_length} tokens{who}: {wanted_tokens} would need about {needed}, {free} is free."
    where = f" with {fit.gpu_layers} of {shape.layers} layers on the graphics card" if fit.kind == "part_on_gpu" else " on the graphics card" if fit.gpu_layers else ""
    more = f"; up to {fit.largest_context} would fit" if fit.largest_context > fit.context_length else ""
    return f"Fits{where} with a context of {fit.context_length} tokens{who}{more}: needs about {needed}, {free} is free."
