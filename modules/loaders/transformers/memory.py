"""How much main memory a model folder will take. Turns options into what `fit.py` reckons with; imports no library."""

from __future__ import annotations

from modules.loaders.fit import Needs, Usage, needs
from modules.loaders.shape import Shape
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
        sequences=options.slots,
        scan_copies=SCAN_COPIES,
        scores=SCORE_COPIES * shape.writes_scores,
        scores_of_one=True,
        first_tokens=FIRST_TOKENS,
        most_tokens=min(options.context_length or DEFAULT_CONTEXT_TOKENS, shape.trained_tokens or MOST_BYTES),
        trims_windows=False,  # slots keep whole sequences
    )
    return needs(shape, usage)
