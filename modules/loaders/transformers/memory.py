"""How much main memory a model folder will take. Turns options into what `fit.py` reckons with; imports no library."""

from __future__ import annotations

from collections.abc import Callable

from modules.loaders.fit import Needs, Usage, needs
from modules.loaders.machine import free_bytes
from modules.loaders.shape import Shape
from modules.loaders.slot_choice import choose_slots, has_room, slots_note
from modules.loaders.transformers.options import TransformersOptions

PROCESS_BYTES = 480 << 20  # of the engine's process beside the model, until it is measured on this machine
TO_COME_BYTES = 400 << 20  # the part of it that a process takes after it began to load
TOWER_WORK_BYTES = 256 << 20  # what looking at an image takes beside the weights
MOST_BYTES = 1 << 60
SMALL_PARAMETERS = 100_000_000  # below, threads cost more than they bring
DEFAULT_CONTEXT_TOKENS = 8192
FIRST_TOKENS = 256  # room of a slot at first; it doubles (slot_cache.py)
SCORE_COPIES = 6  # of the attention scores of a step, where no fused kernel keeps them apart; measured
SCAN_COPIES = 12  # of all states of a step, in a recurrent layer without a kernel of its own; measured
PARAMETER_BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "8bit": 1.15, "4bit": 0.65}.items()


def weights_bytes(shape: Shape, options: TransformersOptions, dtype: str) -> int:
    """What the weights take once they are loaded."""
    held = int(shape.parameters * dict(PARAMETER_BYTES)[options.quantize if options.quantize != "none" else dtype])
    return 2 * held if options.weight_blocks and options.quantize == "none" and options.device in ("auto", "cpu") else held


def estimate(shape: Shape, options: TransformersOptions, dtype: str, *, process_bytes: int = TO_COME_BYTES) -> Needs:
    """What a model takes of main memory when its numbers are of type `dtype`: float32, bfloat16 or float16.

    `process_bytes` is what there is beside the model.
    """
    usage = Usage(
        weights_bytes=min(weights_bytes(shape, options, dtype), int(options.cpu_memory_gb * 1e9) or MOST_BYTES),
        library_bytes=process_bytes + (TOWER_WORK_BYTES if shape.tower_parameters else 0),
        number_bytes=dict(PARAMETER_BYTES)[dtype],
        batch_tokens=options.batch_tokens,
        outputs=options.step_outputs,
        sequences=options.counted_slots,
        scan_copies=SCAN_COPIES,
        scores=SCORE_COPIES * shape.writes_scores,
        scores_of_one=True,
        first_tokens=FIRST_TOKENS,
        most_tokens=min(options.context_length or DEFAULT_CONTEXT_TOKENS, shape.trained_tokens or MOST_BYTES),
        trims_windows=False,  # slots keep whole sequences
    )
    return needs(shape, usage)


def with_slots(
    options: TransformersOptions, needs_of: Callable[[TransformersOptions], Needs], context: int
) -> tuple[TransformersOptions, str]:
    """The options with a number of slots, chosen by main memory where there is none, and a note where it is not the usual one. Before a model is loaded, and for forecasts.

    Never more than the usual number: all slots grow with the longest sequence, so that one long reply would take the memory of all of them.
    """
    if options.slots:
        return options, ""
    free = free_bytes()

    def needs_with(count: int) -> Needs:
        return needs_of(options.model_copy(update={"slots": count}))

    slots = choose_slots(needs_with, context, free)
    note = slots_note(slots, context, free, fits=slots > 1 or has_room(needs_with(1), context, free))
    return options.model_copy(update={"slots": slots}), note
