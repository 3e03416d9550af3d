"""Advice from what fits: the best settings for a model on this machine, and the best choice of a repository. Each with its reason in a sentence.

Pure functions of verdicts and sizes. Knows no page and no hub.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from modules.core.model import USUAL_SLOTS
from modules.loaders.fit import STEP_TOKENS, Fit, Needs, Room, judge
from modules.loaders.machine import size_text
from modules.loaders.shape import Shape
from modules.loaders.slot_choice import FEWER_SLOTS, NeedsOf, choose_slots

MOST_CONTEXT_TOKENS = 32_768  # longer ones are seldom used and slow to read in
GOOD_CONTEXT_TOKENS = 8192
KEPT_FREE = 0.1  # of the free memory, for everything else
WHOLE = ("F32", "F16", "BF16")  # half the speed of Q8_0 and no better to be seen


@dataclass(frozen=True)
class Advice:
    """Options to load with; those that are not named stay as they are by default."""

    options: dict[str, Any]
    reason: str


@dataclass(frozen=True)
class Judged:
    """One choice of a repository and its verdict for one user."""

    label: str
    kind: str
    quantization: str
    size_bytes: int
    fit: Fit


def best_settings(
    shape: Shape, loader: str, needs_of: Callable[[dict[str, Any]], Needs], room: Room, *, may_be_more: bool = False
) -> Advice | None:
    """Context, precision of the cache, slots and layers on the graphics card; None where nothing fits. Slots are named only where the loader would choose more.

    Args:
        shape: of the model.
        loader: its name.
        needs_of: the memory it takes with some options.
        room: what is free.
        may_be_more: whether the loader chooses more slots than usual where memory is plenty.
    """
    usable = Room(int(room.memory_bytes * (1 - KEPT_FREE)), int(room.graphics_bytes * (1 - KEPT_FREE)))
    wanted = min(shape.trained_tokens or GOOD_CONTEXT_TOKENS, MOST_CONTEXT_TOKENS)
    precisions: tuple[dict[str, Any], ...] = ({}, {"kv_type": "q8_0"}) if loader == "llama.cpp" else ({}, {"dtype": "bfloat16"})
    found = [(options, judge(shape, needs_of({**options, "slots": 1}), usable, context_length=wanted, users=1)) for options in precisions]
    options, fit = found[0]
    if fit.context_length < min(wanted, GOOD_CONTEXT_TOKENS) and found[1][1].context_length > fit.context_length:
        options, fit = found[1]  # half the precision of the cache, or of the weights, only where the context would be short
    if fit.kind == "no":
        return None
    context = fit.context_length
    chosen = {"context_length": context, **options}

    def needs_with(count: int) -> Needs:
        return needs_of({**options, "context_length": context, "slots": count})

    most = USUAL_SLOTS if room.graphics_bytes else choose_slots(needs_with, context, room.memory_bytes, may_be_more=may_be_more)
    slots = most if most > USUAL_SLOTS else _slots_with_rest(shape, needs_with, usable, context)
    if slots != most:
        chosen["slots"] = slots
    if fit.gpu_layers and loader == "llama.cpp":
        chosen["gpu_layers"] = -1 if fit.gpu_layers > shape.layers else fit.gpu_layers
    return Advice(chosen, _reason(shape, loader, chosen | {"slots": slots}, needs_of(chosen | {"slots": slots}).total(context * slots), fit))


def _slots_with_rest(shape: Shape, needs_with: NeedsOf, usable: Room, context: int) -> int:
    """The usual slots or fewer, with something left for everything else."""
    if not usable.graphics_bytes:
        return choose_slots(needs_with, context, usable.memory_bytes)
    return next((count for count in (USUAL_SLOTS, *FEWER_SLOTS) if _holds(shape, needs_with(count), usable, context, count)), FEWER_SLOTS[-1])


def _holds(shape: Shape, needs: Needs, room: Room, context: int, users: int) -> bool:
    fit = judge(shape, needs, room, context_length=context, users=users)
    return fit.kind in ("fits", "part_on_gpu") and fit.context_length >= min(context, STEP_TOKENS)


def _reason(shape: Shape, loader: str, chosen: dict[str, Any], needed: int, fit: Fit) -> str:
    context, slots = chosen["context_length"], chosen["slots"]
    trained = f" (it was trained for {shape.trained_tokens})" if shape.trained_tokens > context else ""
    parts = [f"A context of {context} tokens{trained} for {slots} {'reply' if slots == 1 else 'replies'} at the same time"]
    if chosen.get("kv_type"):
        parts.append("a cache of half the precision (q8_0), because the context would be short otherwise")
    if chosen.get("dtype"):
        parts.append("weights of half the precision (bfloat16), because they do not fit otherwise")
    if "gpu_layers" in chosen:
        parts.append("all layers on the graphics card" if chosen["gpu_layers"] < 0 else f"{chosen['gpu_layers']} of {shape.layers} layers on the graphics card")
    threads = " Threads are measured while loading." if loader == "llama.cpp" else ""
    return f"{', with '.join(parts[:2])}{''.join(f', {part}' for part in parts[2:])}: needs about {size_text(needed)}, {size_text(fit.available_bytes)} is free.{threads}"


def recommended(choices: Sequence[Judged]) -> tuple[str, str] | None:
    """Label of the best choice and why: the largest that fits with a good context; whole numbers only where nothing smaller is offered."""
    able = [choice for choice in choices if choice.fit.kind != "no"]
    whole = [choice for choice in able if choice.fit.kind in ("fits", "part_on_gpu")]
    for group in (whole, able):
        quantized = [choice for choice in group if choice.quantization not in WHOLE and choice.kind == "gguf"]
        some = quantized or [choice for choice in group if choice.kind == "gguf"] or group
        if not some:
            continue
        if group is whole:
            best = max(some, key=lambda choice: choice.size_bytes)
            return best.label, f"The largest that fits with a context of {best.fit.context_length} tokens."
        best = max(some, key=lambda choice: choice.fit.context_length)
        return best.label, f"The one with the longest context that fits: {best.fit.context_length} tokens."
    return None
