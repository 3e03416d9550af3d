"""How much memory a GGUF model will take, and the largest context that fits.

Turns options into what `fit.py` reckons with. Knows headers and options only.
"""

from __future__ import annotations

from dataclasses import dataclass

from modules.core.errors import OutOfMemory
from modules.loaders.fit import Needs, Usage, needs
from modules.loaders.gguf_header import GgufHeader
from modules.loaders.llama_cpp.options import LlamaCppOptions
from modules.loaders.machine import RESERVE_BYTES, available_bytes, size_text
from modules.loaders.shape import Shape

DEFAULT_CONTEXT_TOKENS = 8192
DEFAULT_SLOTS_HELD = 4  # slots whose full context is reserved unless cache_tokens says otherwise
LEAST_CONTEXT_TOKENS = 256  # llama.cpp raises smaller ones to this
PROCESS_BYTES = 64 << 20  # of the engine's process beside the model, until it is measured on this machine
TO_COME_BYTES = 16 << 20  # the part of it that a process takes after it began to load
WORD_BYTES, MERGED_WORD_BYTES = 330, 460  # of each entry of a vocabulary, in the tables of llama.cpp and of the engine: measured
KV_BYTES = {"f16": 2.0, "q8_0": 34 / 32, "q4_0": 18 / 32}.items()


@dataclass(frozen=True)
class Plan:
    """The sizes a context is made with."""

    context_length: int
    capacity_tokens: int
    notes: tuple[str, ...] = ()


def estimate(shape: Shape, options: LlamaCppOptions, *, on_gpu: bool, process_bytes: int = TO_COME_BYTES, copied_bytes: int = 0) -> Needs:
    """What a model takes of this machine's main memory. On a GPU only buffers (and the cache, if it is kept here) remain.

    `process_bytes` is what there is beside the model; `copied_bytes` the weights that this processor wants in another order. Scoring a text takes up to
    64 MB more, which is not in it.
    """
    usage = Usage(
        weights_bytes=0 if on_gpu else shape.stored_bytes,
        library_bytes=process_bytes,
        number_bytes=0.0 if on_gpu and options.offload_kqv else dict(KV_BYTES)[options.kv_type],
        batch_tokens=options.computed_tokens,
        outputs=options.step_outputs,
        sequences=options.slots,
        scores=not on_gpu and options.flash_attention == "off",
        trims_windows=False,  # every layer keeps whole sequences, so that a prefix can be taken up again anywhere
        word_bytes=MERGED_WORD_BYTES if shape.merges else WORD_BYTES,
        copied_bytes=copied_bytes if options.mmap and not on_gpu else 0,
    )
    return needs(shape, usage)


def plan_context(header: GgufHeader, wanted: Needs, options: LlamaCppOptions) -> Plan:
    """Context and cache sizes that the person asked for, the model was trained for, and memory allows.

    Raises:
        OutOfMemory: weights alone, or a context that was asked for, do not fit; with one that would.
    """
    name = header.path.name
    notes: list[str] = []
    trained = header.number("context_length") or DEFAULT_CONTEXT_TOKENS
    most = int(trained / options.rope_freq_scale) if options.rope_freq_scale else 1 << 30 if options.rope_freq_base else trained
    context = options.context_length or min(most, DEFAULT_CONTEXT_TOKENS)
    if context > most:
        notes.append(f"Context cut from {context} to {most} tokens: all this model was trained for.")
        context = most
    available = max(0, available_bytes() - RESERVE_BYTES)
    room = wanted.tokens_that_fit(available)
    if room < min(context, LEAST_CONTEXT_TOKENS):
        raise OutOfMemory(
            f"{name} needs about {size_text(wanted.total(LEAST_CONTEXT_TOKENS))} of memory and {size_text(available)} is free; "
            "choose a smaller quantization, unload another model or close programs.",
            needed_bytes=wanted.total(LEAST_CONTEXT_TOKENS),
            available_bytes=available,
        )
    if context > room:
        if options.context_length:
            raise OutOfMemory(
                f"{name} with a context of {context} tokens needs about {size_text(wanted.total(context))} of memory and "
                f"{size_text(available)} is free; a context of {room} fits, or set kv_type to q8_0.",
                needed_bytes=wanted.total(context),
                available_bytes=available,
                context_length=room,
            )
        notes.append(f"Context cut from {context} to {room} tokens: what fits into {size_text(available)} of free memory.")
        context = room
    capacity = max(context, options.cache_tokens or context * min(options.slots, DEFAULT_SLOTS_HELD))
    if capacity > room:
        notes.append(f"All replies together hold {room} tokens instead of {capacity}: what fits into {size_text(available)} of free memory.")
        capacity = room
    return Plan(context, max(capacity, LEAST_CONTEXT_TOKENS), tuple(notes))
