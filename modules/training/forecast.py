"""How much memory a run will take, reckoned from headers before anything is loaded; a look of two real steps (`probe.py`) says it better.

Pure functions of a model's shape and the options. The parts: weights, adapter with its gradients and optimizer, what is kept for the way back, logits.
"""

from __future__ import annotations

from modules.loaders.shape import Shape
from modules.training.options import TrainingOptions

PROCESS_BYTES = 700 << 20  # torch, transformers and PEFT beside any model
NUMBER_BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "8bit": 1.15, "4bit": 0.65}.items()
DEFAULT_CUTOFF = 2048
LOGIT_COPIES = 3  # the logits, their float32 form, their gradient
KEPT_WIDTHS, KEPT_INNERS = 16, 5  # numbers of each token and layer that are kept for the way back, in widths and inner widths
DORA_SHARE = 2.0  # of what is kept, where layers are put together anew (DoRA); measured on a graphics card
EIGHT_BIT_BYTES = 1.6  # of each number more while it learns in 8 bits; measured on a graphics card
STATE_BYTES = {True: 4 + 4 + 2, False: 4 + 4 + 8}.items()  # of each trained number: itself, gradient, optimizer; by whether the optimizer has 8 bits


def precision_of(options: TrainingOptions, *, graphics: bool) -> str:
    """How the weights will be held."""
    return options.precision if options.precision != "auto" else "bfloat16" if graphics else "float32"


def adapter_numbers(shape: Shape, options: TrainingOptions) -> int:
    """Numbers of an adapter of all linear layers, about: each has its rank on both sides."""
    each = 4 * 2 * shape.width + 3 * (shape.width + shape.inner)
    share = 1.0 if options.target_all else min(1.0, len(options.target_modules) / 7)
    trained = int(options.rank * shape.layers * each * share * (2 if options.pissa else 1))
    return trained + (2 * shape.vocabulary * shape.width if options.train_embeddings else 0)


def needed_bytes(shape: Shape, options: TrainingOptions, *, graphics: bool = False) -> int:
    """Memory of a run's process at its peak, about."""
    precision = precision_of(options, graphics=graphics)
    number = 4.0 if precision == "float32" else 2.0
    weights = shape.parameters * dict(NUMBER_BYTES)[precision]
    weights += shape.parameters * EIGHT_BIT_BYTES if precision == "8bit" and graphics else 0
    states = adapter_numbers(shape, options) * dict(STATE_BYTES)["8bit" in options.optimizer]
    limit = min(options.cutoff_tokens or DEFAULT_CUTOFF, shape.trained_tokens or 1 << 30)
    tokens = options.batch_tokens or options.micro_batch_size * limit
    if options.preference == "dpo" and options.batch_tokens:
        tokens = max(tokens, 2 * limit)
    layer = (KEPT_WIDTHS * shape.width + KEPT_INNERS * shape.inner) * number * (DORA_SHARE if options.dora else 1)
    kept = layer + shape.layers * shape.width * number if options.gradient_checkpointing else layer * shape.layers
    logits = LOGIT_COPIES * shape.vocabulary * 4.0
    share = options.processes if options.sharding == "fsdp2" else 1
    return int(PROCESS_BYTES + weights / share + states + tokens * (kept + logits))
