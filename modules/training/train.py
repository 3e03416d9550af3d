"""A run from its arguments to an adapter that proved itself: the work function of the job “train”.

Resuming is the same function on the same directory: it goes on from the newest whole checkpoint, or with the proof where learning has ended. Knows no loop
(`trainer.py`) and no other process (`distributed.py`).
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modules.core.errors import InvalidRequest, OutOfMemory
from modules.core.files import write_atomic
from modules.core.job import Cancelled, JobContext
from modules.jobs.record import stop_reason
from modules.loaders.folder_header import read_folder_header
from modules.loaders.machine import check_memory, size_text, usable_cores
from modules.loaders.shape import folder_shape
from modules.training import adapter
from modules.training.base_model import load_base
from modules.training.checkpoints import Checkpoint, Checkpoints
from modules.training.distributed import SAVED, learn_together
from modules.training.forecast import needed_bytes
from modules.training.material import INITIAL, Material, gather
from modules.training.options import TrainingOptions
from modules.training.outcome import Outcome, conclude
from modules.training.packing import packs_exactly
from modules.training.publication import Publication
from modules.training.samples import Encoded
from modules.training.spec import CHECKPOINTS, TrainArgs
from modules.training.standing import Standing
from modules.training.trainer import learn

LEARNED = "learned.json"  # there: no step is to be made any more
CURE = "choose a smaller batch, a shorter cutoff, precision 4bit or gradient_checkpointing, or close programs"


def run(args: TrainArgs, context: JobContext) -> Mapping[str, Any]:
    """Learn, publish, prove.

    Raises:
        AppError: with what happened and the cure.
        Cancelled: the person asked to stop.
    """
    publication = Publication(args, context.directory)
    checkpoints = Checkpoints(context.directory / CHECKPOINTS, args.options.keep_checkpoints)
    publication.is_there()
    try:
        return _run(args, context, checkpoints, publication)
    except Cancelled:
        if stop_reason(context.directory) == "cancel":
            give_up(args, context.directory)
        raise
    finally:
        publication.tidy()


def give_up(args: TrainArgs, directory: Path) -> None:
    """Delete what a run has learned, wherever it stands; tried again, it begins anew."""
    Checkpoints(directory / CHECKPOINTS, args.options.keep_checkpoints).clear()
    Publication(args, directory).withdraw()
    for folder in (SAVED, INITIAL):
        shutil.rmtree(directory / folder, ignore_errors=True)
    (directory / LEARNED).unlink(missing_ok=True)


def _run(args: TrainArgs, context: JobContext, checkpoints: Checkpoints, publication: Publication) -> Mapping[str, Any]:
    use_threads(args.options)
    if args.options.processes * args.options.nodes > 1 and not is_learned(context.directory):
        learn_together(args, context)
    material = gather(args, context.directory, context)
    checkpoint = checkpoints.newest()
    try:
        check_room(material)
    except OutOfMemory as error:
        if not (is_learned(context.directory) and checkpoint and (context.directory / SAVED).is_dir()):
            raise
        context.log(f"{error.message} So the adapter is saved without a proof.")
        return conclude(Outcome(material, None, Standing.model_validate(checkpoint.read().state), _why(context.directory), publication, context))
    context.progress(0, None, "steps", phase="Loading the base model")
    model = make_model(material)
    if is_learned(context.directory) and checkpoint is not None:
        adapter.put_weights(model, checkpoint.weights())
        standing = Standing.model_validate(checkpoint.read().state)
    else:
        say_beginning(material, model, checkpoint, context)
        learner = learn(material, model, context, checkpoint.read() if checkpoint else None)
        standing = learner.standing
        note_learned(context.directory, learner.ended)
    put_best(material, model, standing, context)
    return conclude(Outcome(material, model, standing, _why(context.directory), publication, context))


def put_best(material: Material, model: Any, standing: Standing, context: JobContext) -> None:
    """Where patience was asked for, go back to the weights with the lowest held-out loss."""
    options = material.args.options
    best = Checkpoints(context.directory / CHECKPOINTS, options.keep_checkpoints).best(standing.best_step) if options.patience else None
    if best is not None and best.step != standing.step:
        context.log(f"The adapter is kept as it was at step {best.step}, where the held-out loss was lowest.")
        adapter.put_weights(model, best.weights())


def use_threads(options: TrainingOptions, sharing: int = 1) -> None:
    """Say how many processor threads are used: the environment goes before the machine's cores, the options before both."""
    import torch

    warnings.filterwarnings("ignore", category=FutureWarning)  # what libraries tell each other is not for the log
    named = os.environ.get("OMP_NUM_THREADS", "")
    torch.set_num_threads(options.threads or (int(named) if named.isdigit() and int(named) else max(1, usable_cores() // sharing)))


def make_model(material: Material) -> Any:
    """The base model with the adapter on it, as every process of the run begins.

    Raises:
        InvalidRequest: packing was asked for, and this model does not keep packed samples apart.
        AppError: it cannot be loaded or adapted.
    """
    args = material.args
    base = load_base(args.base_path, args.options)
    if args.options.packing and not material.prefers and not packs_exactly(base):
        raise InvalidRequest(f"{args.base} cannot keep packed samples apart, so that each would be learned as a part of another; turn packing off.", field="packing")
    return adapter.attach(base, args.options, initial=material.initial, continue_from=args.continue_from)


def expected_bytes(args: TrainArgs, encoded: Sequence[Encoded]) -> int:
    """Memory that the run will take, about, by the longest sequences that there really are."""
    import torch

    longest = max(len(sequence.token_ids) for sequence in encoded)
    options = args.options if args.options.packing else args.options.model_copy(update={"cutoff_tokens": longest})
    return needed_bytes(folder_shape(read_folder_header(args.base_path)), options, graphics=torch.cuda.is_available())


def check_room(material: Material) -> None:
    """Refuse what would not fit before anything is loaded.

    Raises:
        OutOfMemory: with what is needed, what there is, and the cure.
    """
    import torch

    args = material.args
    needed = expected_bytes(args, material.train)
    if not torch.cuda.is_available():
        check_memory(needed, f"Training {args.base}", CURE)
        return
    free = torch.cuda.mem_get_info()[0]
    if needed > free:
        raise OutOfMemory(
            f"Training {args.base} needs about {size_text(needed)} of the graphics card's memory and {size_text(free)} is free; {CURE}.",
            needed_bytes=needed,
            available_bytes=free,
        )


def say_beginning(material: Material, model: Any, checkpoint: Checkpoint | None, context: JobContext) -> None:
    """For people, in the log."""
    trainable, total = model.get_nb_trainable_parameters()
    data = material.data
    context.log(f"{len(data.train)} samples to learn, {len(data.held_out)} held out; {data.exact} the same and {data.near} nearly the same as others were left out.")
    if material.left_out:
        context.log(f"Of those to learn, {material.left_out}; {len(material.train)} sequences are left.")
    context.log(f"{trainable:,} of {total:,} parameters learn ({trainable / total:.2%}).")
    if checkpoint is not None:
        context.log(f"Going on from the checkpoint of step {checkpoint.step}.")


# ---- the end of learning -----------------------------------------------------------------------------------------------


def note_learned(directory: Path, ended: str) -> None:
    """Write down that no step is to be made any more, and why if that was before the last one."""
    write_atomic(directory / LEARNED, json.dumps({"ended": ended}))


def is_learned(directory: Path) -> bool:
    """Whether learning has ended."""
    return (directory / LEARNED).is_file()


def _why(directory: Path) -> str:
    try:
        return str(json.loads((directory / LEARNED).read_text(encoding="utf-8"))["ended"])
    except (OSError, ValueError, KeyError) as error:
        raise InvalidRequest("The folder of this run is damaged: how learning ended cannot be read. Begin a new run.") from error
