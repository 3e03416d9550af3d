"""How much memory a GGUF model will take, and the largest context that fits.

Turns options into what `fit.py` reckons with. Knows headers and options only.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from modules.core.errors import OutOfMemory
from modules.core.model import USUAL_SLOTS
from modules.loaders.fit import Needs, Room, Usage, layers_on_gpu, needs
from modules.loaders.gguf_header import GgufHeader
from modules.loaders.llama_cpp.huge_pages import has_huge_pages
from modules.loaders.llama_cpp.options import LlamaCppOptions
from modules.loaders.machine import RESERVE_BYTES, available_bytes, has_tiles, size_text
from modules.loaders.shape import Shape
from modules.loaders.slot_choice import choose_slots, has_room, slots_note

DEFAULT_CONTEXT_TOKENS = 8192
DEFAULT_SLOTS_HELD = 4  # slots whose full context is reserved unless cache_tokens says otherwise
HELD_BYTES = 1 << 30  # of the contexts of more slots, that are reserved unasked; and no more than a quarter of what is free
LEAST_CONTEXT_TOKENS = 256  # llama.cpp raises smaller ones to this
PROCESS_BYTES = 64 << 20  # of the engine's process beside the model, until it is measured on this machine
TO_COME_BYTES = 16 << 20  # the part of it that a process takes after it began to load
WORD_BYTES, MERGED_WORD_BYTES = 330, 460  # of each entry of a vocabulary, in the tables of llama.cpp and of the engine: measured
PROJECTOR_WORK_BYTES = 128 << 20  # an image while it is looked at; reckoned for a ViT-L, not measured
HELD_WIDE = "are held in 8 bits"  # words of the note on a model that is held so
MOST_WIDE_SHARE = 0.5  # of the free memory, that weights in 8 bits may take unasked while they are read in
MOST_OWN_SHARE = 0.5  # of the free memory, that weights may take unasked that are no mapped file
MOST_TAKEN_SHARE = 0.75  # that they may take then with all that is loaded with them
STILL_MAPPED = "is mapped, not read in"  # words of the note on a model whose file could have been read in with more memory
KV_BYTES = {"f16": 2.0, "q8_0": 34 / 32, "q4_0": 18 / 32}.items()


@dataclass(frozen=True)
class Plan:
    """The sizes a context is made with."""

    context_length: int
    capacity_tokens: int
    notes: tuple[str, ...] = ()


def projector_needs(header: GgufHeader | None, *, on_gpu: bool) -> int:
    """Bytes of main memory for a vision projector: on a GPU what it works with stays there too."""
    return 0 if header is None else PROJECTOR_WORK_BYTES if on_gpu else header.size_bytes + PROJECTOR_WORK_BYTES


def estimate(shape: Shape, options: LlamaCppOptions, *, gpu_share: float = 0.0, process_bytes: int = TO_COME_BYTES, copied_bytes: int = 0) -> Needs:
    """What a model takes of this machine's main memory. On a GPU lies that share of the weights, and of the cache unless it is kept here.

    `process_bytes` is what there is beside the model; `copied_bytes` the weights of a mapped file that this processor wants in another order. Scoring a text takes up to
    64 MB more, which is not in it.
    """
    usage = Usage(
        weights_bytes=int((shape.held_bytes or shape.stored_bytes) * (1 - gpu_share)),
        library_bytes=process_bytes,
        number_bytes=dict(KV_BYTES)[options.kv_type] * (1 - gpu_share if options.offload_kqv else 1),
        batch_tokens=options.computed_tokens,
        outputs=options.step_outputs,
        sequences=options.counted_slots,
        scores=int(gpu_share < 1 and options.flash_attention == "off"),
        trims_windows=False,  # every layer keeps whole sequences, so that a prefix can be taken up again anywhere
        word_bytes=MERGED_WORD_BYTES if shape.merges else WORD_BYTES,
        copied_bytes=copied_bytes if not gpu_share else 0,
    )
    return needs(shape, usage)


def held_shape(shape: Shape, options: LlamaCppOptions, *, on_gpu: bool = False) -> Shape:
    """The model as it is held: with weights in 8 bits, which are the same, where that was asked for, or where the processor gains and memory is plenty; else itself."""
    if on_gpu or not shape.widens or options.widen_weights == "off" or not _has_files_in_memory():
        return shape
    wide, free_bytes = shape.widened(), max(0, available_bytes() - RESERVE_BYTES)
    room = free_bytes if options.widen_weights == "on" else MOST_WIDE_SHARE * free_bytes if has_tiles() else 0
    return wide if wide.stored_bytes + wide.held_bytes <= room else shape  # it is written into memory first


def is_mapped(shape: Shape, options: LlamaCppOptions, *, on_gpu: bool = False, all_bytes: int = 0) -> bool:
    """Whether a model's file is mapped, where `all_bytes` are loaded with it in all. Unasked it is where reading it in brings nothing, or memory is scarce."""
    if not _may_be_read_in(options, on_gpu=on_gpu):
        return options.mmap != "off"
    free_bytes = max(0, available_bytes() - RESERVE_BYTES)
    return (shape.held_bytes or shape.stored_bytes) > MOST_OWN_SHARE * free_bytes or all_bytes > MOST_TAKEN_SHARE * free_bytes


def was_mapped(options: LlamaCppOptions, notes: Sequence[str], *, on_gpu: bool = False) -> bool:
    """Whether the file of a model is mapped that was loaded so, with these notes."""
    return any(STILL_MAPPED in note for note in notes) if _may_be_read_in(options, on_gpu=on_gpu) else options.mmap != "off"


def mapped_note(options: LlamaCppOptions, *, on_gpu: bool = False) -> str:
    """The note on a model whose file is mapped, where that is not because of its options or of the machine."""
    if not _may_be_read_in(options, on_gpu=on_gpu):
        return ""
    return f"Its file {STILL_MAPPED}, as memory is scarce: replies can come up to a fifth slower. Close programs or choose fewer slots and load it again, or set mmap to off."


def _may_be_read_in(options: LlamaCppOptions, *, on_gpu: bool) -> bool:
    """Whether it is a matter of memory alone: elsewhere memory of its own has no large pages, lies on a card, on one of several nodes, or is locked before it has them."""
    return options.mmap == "auto" and not on_gpu and options.numa == "off" and not options.mlock and has_huge_pages()


def _has_files_in_memory() -> bool:
    """Whether this system and this Python can write a file into memory."""
    try:
        os.close(os.memfd_create("weights"))  # type: ignore[attr-defined,unused-ignore]
    except (AttributeError, OSError):
        return False
    return True


def layers_that_fit(shape: Shape, options: LlamaCppOptions, graphics_bytes: int, memory_bytes: int) -> int:
    """How many layers to put on a GPU with so much free memory, by `gpu_layers`: -1 is all with the output, if they fit there."""
    if options.gpu_layers >= 0 or not graphics_bytes:
        return options.gpu_layers
    context = options.context_length or min(shape.trained_tokens or DEFAULT_CONTEXT_TOKENS, DEFAULT_CONTEXT_TOKENS)
    held = max(context, options.cache_tokens or context * min(options.counted_slots, DEFAULT_SLOTS_HELD))
    layers = layers_on_gpu(shape, estimate(shape, options), Room(memory_bytes, graphics_bytes), held)
    return -1 if layers > shape.layers else layers


def share_on_gpu(layers: int, shape: Shape) -> float:
    """The share of a model that so many layers are, 0 … 1; the output counts as one more, and -1 is all."""
    return 1.0 if layers < 0 else min(1.0, layers / (shape.layers + 1))


def with_slots(
    shape: Shape, options: LlamaCppOptions, needs_of: Callable[[LlamaCppOptions], Needs], *, may_be_apart: bool
) -> tuple[LlamaCppOptions, str]:
    """The options with a number of slots, chosen where there is none, and a note where it is not the usual one. Before a model is loaded, and for forecasts.

    A cache whose size was set is shared by the usual number. There are more only where each can have a cache of its own (`may_be_apart`, as in `plan_context`): in one
    that is shared, every step would look past what all of them hold.
    """
    if options.slots or options.cache_tokens:
        return options.model_copy(update={"slots": options.counted_slots}), ""
    most, free_bytes = _most_context(shape.trained_tokens, options), max(0, available_bytes() - RESERVE_BYTES)
    context = min(options.context_length or DEFAULT_CONTEXT_TOKENS, most)

    def needs(count: int) -> Needs:
        return needs_of(options.model_copy(update={"slots": count}))

    slots = choose_slots(needs, context, free_bytes, may_be_more=may_be_apart and has_whole_layers(shape))
    note = slots_note(slots, context, free_bytes, fits=slots > 1 or has_room(needs(1), context, free_bytes))
    held = {"cache_tokens": slots * context} if slots > USUAL_SLOTS else {}  # of more than four a part would be shared
    return options.model_copy(update={"slots": slots, **held}), note


def has_whole_layers(shape: Shape) -> bool:
    """Whether every layer keeps all tokens, so that slots can have caches of their own: no windows and no states."""
    return not shape.state_numbers and not any(group.window for group in shape.cache)


def _most_context(trained_tokens: int, options: LlamaCppOptions) -> int:
    """The longest context that a model can have: as it was trained, or as far as RoPE is stretched."""
    trained = trained_tokens or DEFAULT_CONTEXT_TOKENS
    return int(trained / options.rope_freq_scale) if options.rope_freq_scale else 1 << 30 if options.rope_freq_base else trained


def plan_context(header: GgufHeader, wanted: Needs, options: LlamaCppOptions, *, may_be_apart: bool = False) -> Plan:
    """Context and cache sizes that the person asked for, the model was trained for, and memory allows; `may_be_apart`: slots can have caches of their own.

    Raises:
        OutOfMemory: weights alone, or a context that was asked for, do not fit; with one that would.
    """
    name = header.path.name
    notes: list[str] = []
    most = _most_context(header.number("context_length"), options)
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
    may_be_apart = may_be_apart and not header.number("attention.sliding_window")
    held = _slots_held(context, options.counted_slots, wanted, room) if may_be_apart else min(options.counted_slots, DEFAULT_SLOTS_HELD)
    capacity = max(context, options.cache_tokens or context * held)
    if capacity > room:
        notes.append(f"All replies together hold {room} tokens instead of {capacity}: what fits into {size_text(available)} of free memory.")
        capacity = room
    return Plan(context, max(capacity, LEAST_CONTEXT_TOKENS), tuple(notes))


def _slots_held(context: int, slots: int, wanted: Needs, room: int) -> int:
    """How many slots can have their full context at the same time: of more than four all, where that takes little, and otherwise four."""
    takes_little = wanted.cache(context * slots) <= HELD_BYTES and 4 * context * slots <= room
    return slots if takes_little else min(slots, DEFAULT_SLOTS_HELD)
