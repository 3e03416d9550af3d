"""What comes of a run when learning has ended: the adapter is published first, then proven; whatever happens to the proof, the adapter stays."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modules.core.files import write_atomic
from modules.core.job import Cancelled, JobContext
from modules.training import adapter
from modules.training.card import RunFacts, write_card
from modules.training.distributed import SAVED
from modules.training.feed import Feed
from modules.training.fingerprint import fingerprint
from modules.training.material import Material
from modules.training.proof import Proof, Proving, prove
from modules.training.publication import Publication
from modules.training.sequence_losses import learned_tokens
from modules.training.spec import CURVE, PROOF
from modules.training.standing import Standing

CARD_ROWS = 400  # of the curve, in training.json


@dataclass(frozen=True)
class Outcome:
    """A model that has learned, and where it stood then."""

    material: Material
    model: Any  # None where it does not fit into this process: several ranks have learned it together, and saved it
    standing: Standing
    ended: str  # why before the last step; empty if not
    publication: Publication
    context: JobContext


def conclude(outcome: Outcome) -> Mapping[str, Any]:
    """Publish, prove, and say how it came out.

    Raises:
        JobConflict: another adapter of this name came in between.
        Cancelled: the person asked to stop.
    """
    material, publication, context = outcome.material, outcome.publication, outcome.context
    args, standing = material.args, outcome.standing
    context.progress(standing.step, standing.step, "steps", phase="Saving the adapter")
    facts = _facts(outcome)
    if not publication.is_there():
        publication.publish(lambda folder: _write(outcome, folder, facts))
        context.log(f"The adapter “{args.name}” is saved.")
    proof = _proven(outcome)
    if proof is not None:
        write_atomic(context.directory / PROOF, proof.model_dump_json())
        write_card(publication.folder, args, proof, facts)
        context.log(proof.sentence)
    compared = proof.held_out if proof is not None and not material.prefers else None  # of preferences the curve has another loss
    return {
        "name": args.name,
        "path": str(publication.folder),
        "steps": standing.step,
        "loss": standing.loss,
        "held_out_loss_before": compared.before if compared else standing.held_out_first,
        "held_out_loss": compared.after if compared else standing.held_out_last,
        "verdict": proof.verdict if proof is not None else "",
        "ended": outcome.ended,
    }


def _write(outcome: Outcome, folder: Path, facts: RunFacts) -> None:
    args = outcome.material.args
    if outcome.model is None:
        shutil.copytree(outcome.context.directory / SAVED, folder, dirs_exist_ok=True)
    else:
        adapter.save(outcome.model, args.options, folder, initial=outcome.material.initial, base_name=args.base)
    write_card(folder, args, None, facts)


def _proven(outcome: Outcome) -> Proof | None:
    """The proof, or None with the reason in the log."""
    if outcome.model is None:
        return None
    context, material = outcome.context, outcome.material
    try:
        return prove(_proving(outcome))
    except Cancelled:
        raise
    except Exception as error:  # noqa: BLE001 - whatever a measurement may raise, the adapter is there and the run has done its work
        context.log(f"The adapter is saved, but what it changes could not be measured: {type(error).__name__}: {error}")
        material.directory.joinpath(PROOF).unlink(missing_ok=True)
        return None


def _proving(outcome: Outcome) -> Proving:
    material = outcome.material
    args = material.args
    model = _plain(outcome) if args.options.pissa else outcome.model
    return Proving(
        model=model,
        tokenizer=material.tokenizer,
        template=args.template,
        held_out=material.held_out,
        samples=material.data.held_out,
        prompts=args.prompts,
        context=outcome.context,
    )


def _plain(outcome: Outcome) -> Any:
    """The adapter as published on the untouched base model: what PiSSA learned on is not the base with an adapter beside it."""
    from peft import PeftModel

    from modules.training.base_model import load_base

    args = outcome.material.args
    base = load_base(args.base_path, args.options)
    return PeftModel.from_pretrained(base, str(outcome.publication.folder))


def _facts(outcome: Outcome) -> RunFacts:
    material, standing = outcome.material, outcome.standing
    data, feed = material.data, Feed(material.train, material.args.options)
    trainable, total = outcome.model.get_nb_trainable_parameters() if outcome.model is not None else (0, 0)
    each = sum(map(learned_tokens, material.train))
    epochs = feed.epoch_at(standing.step)
    return RunFacts(
        data_digest=data.digest,
        train_samples=len(data.train),
        held_out_samples=len(data.held_out),
        exact=data.exact,
        near=data.near,
        sequences=len(material.train),
        trained_tokens=int(each * epochs),
        base_fingerprint=fingerprint(material.args.base_path, material.initial).model_dump(),
        trainable=trainable,
        parameters=total - trainable,
        steps=standing.step,
        planned_steps=feed.steps,
        epochs=round(epochs, 3),
        seconds=round(standing.work_s, 1),
        device=_device(),
        ended=f"Ended early: {outcome.ended}." if outcome.ended else "",
        curve=tuple(_rows(material.directory / CURVE)),
        ended_s=time.time(),
    )


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return f"processor, {torch.get_num_threads()} threads"


def _rows(path: Path) -> list[dict[str, Any]]:
    """The curve for the card: thinned where it is long, looks at the held-out data all."""
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError):
        return []
    stride = max(1, len(rows) // CARD_ROWS)
    return [row for place, row in enumerate(rows) if place % stride == 0 or "held_out_loss" in row]
