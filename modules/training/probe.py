"""Two real steps before a run, the longest for the memory and a usual one for the time: what the whole run will take, and advice if it does not fit.

Runs in the process of the look, with the run's own options; nothing of it is kept. Knows no page.
"""

from __future__ import annotations

import gc
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from modules.core.errors import OutOfMemory
from modules.core.job import JobContext
from modules.loaders.machine import size_text
from modules.training.data import Data
from modules.training.feed import Feed
from modules.training.learner import Engine
from modules.training.material import Material
from modules.training.memory import most_bytes
from modules.training.packing import MicroBatch, collate
from modules.training.samples import Encoded
from modules.training.spec import TrainArgs
from modules.training.step_loss import StepLoss
from modules.training.tokens import load_tokenizer
from modules.training.train import check_room, expected_bytes, make_model, use_threads
from modules.training.trainer import autocast_of, make_engine

MOST_TIMED = 8  # micro-batches of the usual step that are really made; a step of more is reckoned from these
NO_ROOM = ("out of memory", "can't allocate memory", "not enough memory", "bad_alloc")


class Probe(BaseModel, frozen=True):
    """What two steps have shown. With a problem the other figures are what was known until then."""

    peak_bytes: int = 0  # measured; of the graphics card where there is one
    forecast_bytes: int = 0  # reckoned from headers before
    seconds_per_step: float = 0.0
    steps: int = 0
    hours: float = 0.0  # of all steps
    device: str = ""
    trainable: int = 0
    parameters: int = 0  # of base and adapter together
    problem: str = ""  # a sentence with advice


def probe(args: TrainArgs, encoded: Sequence[Encoded], context: JobContext) -> Probe:
    """Try it.

    Raises:
        Cancelled: the person asked to stop.
        AppError: what is wrong is not the memory.
    """
    import torch

    folder = Path(tempfile.mkdtemp(prefix="probe-", dir=context.directory))
    material = Material(args, folder, load_tokenizer(args.base_path, args.options.new_tokens), Data([], [], ""), encoded, ())
    on_graphics = torch.cuda.is_available()
    known = Probe(
        forecast_bytes=expected_bytes(args, encoded),
        steps=Feed(encoded, args.options).steps,
        device=torch.cuda.get_device_name() if on_graphics else "processor",
    )
    context.progress(0, 2, "steps", phase="Trying two steps")
    try:
        use_threads(args.options, args.options.processes)
        check_room(material)
        return _tried(material, known, context)
    except (OutOfMemory, MemoryError, RuntimeError) as error:
        if not (isinstance(error, OutOfMemory | MemoryError) or any(text in str(error).lower() for text in NO_ROOM)):
            raise
        said = error.message if isinstance(error, OutOfMemory) else f"Two steps did not fit into memory ({size_text(most_bytes())} were taken)"
        return known.model_copy(update={"peak_bytes": most_bytes(), "problem": f"{said.rstrip('.')}. {advice(args, encoded)}"})
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        gc.collect()
        if on_graphics:
            torch.cuda.empty_cache()


def advice(args: TrainArgs, encoded: Sequence[Encoded]) -> str:
    """What would take less memory, the cheapest first."""
    options = args.options
    longest = max(len(sequence.token_ids) for sequence in encoded)
    found = []
    if options.micro_batch_size > 1 and not options.batch_tokens:
        found.append("micro_batch_size 1, which changes nothing else")
    if options.batch_tokens > longest:
        found.append(f"fewer batch_tokens than {options.batch_tokens}")
    if not options.gradient_checkpointing:
        found.append("gradient_checkpointing")
    if options.precision not in ("4bit", "8bit") and options.sharding == "none":
        found.append("precision 4bit")
    if longest > 256:
        found.append(f"a cutoff below {longest} tokens, the longest sample now")
    found.append("a smaller rank or base model")
    return f"Try {'; or '.join(found)}."


def _tried(material: Material, known: Probe, context: JobContext) -> Probe:
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    model = make_model(material)
    feed = Feed(material.train, material.args.options)
    engine = make_engine(model, material, feed)
    trainable, total = model.get_nb_trainable_parameters()
    step = _Step(material, engine)
    longest, usual = chosen(material.train, feed)
    step.make(longest, context)
    context.progress(1, 2, "steps", phase="Trying two steps")
    began_s = time.monotonic()
    step.make(usual, context)
    seconds = (time.monotonic() - began_s) * feed.accumulation / len(usual)
    context.progress(2, 2, "steps", phase="Trying two steps")
    return known.model_copy(update={
        "peak_bytes": most_bytes(), "seconds_per_step": round(seconds, 4), "hours": round(seconds * feed.steps / 3600, 4),
        "trainable": int(trainable), "parameters": int(total),
    })  # fmt: skip


def chosen(encoded: Sequence[Encoded], feed: Feed) -> tuple[list[MicroBatch], list[MicroBatch]]:
    """The two longest micro-batches of an epoch, and about a step's worth whose size is as usual."""
    plan = sorted(feed.first_epoch(), key=lambda micro_batch: size_tokens(encoded, micro_batch))
    count = min(feed.accumulation, MOST_TIMED, len(plan))
    stride = len(plan) / count
    return plan[-2:], [plan[min(len(plan) - 1, int((place + 0.5) * stride))] for place in range(count)]


def size_tokens(encoded: Sequence[Encoded], micro_batch: MicroBatch) -> int:
    """Tokens of a micro-batch with what fills its rows up."""
    return len(micro_batch) * max(sum(len(encoded[place].token_ids) for place in row) for row in micro_batch)


class _Step:
    """Makes steps as the trainer does, without all that follows one."""

    def __init__(self, material: Material, engine: Engine) -> None:
        self._material = material
        self._engine = engine
        self._loss = StepLoss(material, engine.model, 1)
        self._device = engine.model.get_input_embeddings().weight.device

    def make(self, micro_batches: Sequence[MicroBatch], context: JobContext) -> None:
        """One step, with its optimizer."""
        import torch

        batches = list(self._batches(micro_batches))
        learned = max(1.0, sum(self._loss.counts(batch)[0] for batch in batches))
        for batch in batches:
            context.progress(0, 2, "steps", phase="Trying two steps")
            with self._cast():
                loss = self._loss(self._engine.model, batch, learned)
            loss.backward()
        trained = [parameter for parameter in self._engine.model.parameters() if parameter.grad is not None]
        torch.nn.utils.clip_grad_norm_(trained, self._material.args.options.max_grad_norm or float("inf"))
        self._engine.optimizer.step()
        self._engine.optimizer.zero_grad()
        if self._device.type == "cuda":
            torch.cuda.synchronize()

    def _batches(self, micro_batches: Sequence[MicroBatch]) -> Iterator[dict[str, Any]]:
        for micro_batch in micro_batches:
            batch = collate(self._material.train, micro_batch, self._material.pad_id)
            yield {name: value.to(self._device) if hasattr(value, "to") else value for name, value in batch.items()}

    def _cast(self) -> AbstractContextManager[Any]:
        import torch

        dtype = autocast_of(self._engine.model)
        return torch.autocast("cuda", dtype) if dtype is not None else nullcontext()
