"""One run as its job and the files in its directory tell it: curve, sample texts, proof, notes. Reads only; what is torn or absent is left out."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from modules.core.job import JobSnapshot
from modules.training.spec import CURVE, FINISH, PROOF, SAMPLES

NOTES = "notes.txt"
COMMANDS = "commands.json"
FILE_LIMIT_BYTES = 64 << 20
ROWS_LIMIT = 4000  # of a curve, sent at once
SAMPLES_LIMIT = 200


@dataclass(frozen=True)
class RunRecord:
    """A run as it stands. `curve` has the rows that were asked for, thinned where there are very many."""

    job: JobSnapshot
    loss: float | None = None
    held_out_loss: float | None = None
    verdict: str = ""
    finishing: bool = False
    notes: str = ""
    curve: tuple[Mapping[str, Any], ...] = ()
    rows: int = 0  # of the whole curve
    samples: tuple[Mapping[str, Any], ...] = ()
    proof: Mapping[str, Any] | None = None
    commands: tuple[str, ...] = ()
    request: Mapping[str, Any] = field(default_factory=dict)  # as it was asked for, to be asked for again


def read_record(job: JobSnapshot, directory: Path, *, after: int | None) -> RunRecord:
    """A run; `after` None leaves its rows, sample texts and proof out."""
    metrics, result = job.metrics or {}, job.result or {}
    notes = _text(directory / NOTES)
    record = RunRecord(
        job=job,
        loss=_number(result.get("loss", metrics.get("loss"))),
        held_out_loss=_number(result.get("held_out_loss", metrics.get("held_out_loss"))),
        verdict=str(result.get("verdict") or ""),
        finishing=(directory / FINISH).exists() and job.status == "running",
        notes=notes if notes is not None else str(job.args.get("notes") or ""),
        request=request_of(job.args),
    )
    if after is None:
        return record
    rows = list(_lines(directory / CURVE))
    commands = _json(directory / COMMANDS)
    return replace(
        record,
        curve=tuple(_thinned(rows[after:])),
        rows=len(rows),
        samples=tuple(_lines(directory / SAMPLES))[-SAMPLES_LIMIT:],
        proof=_json(directory / PROOF),
        commands=tuple(map(str, commands)) if isinstance(commands, list) else (),
    )


def request_of(args: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a run's job as a person would ask for it again: names instead of paths."""
    dataset, held_out = args.get("dataset") or {}, args.get("held_out")
    parent, loras = args.get("continue_from"), args.get("loras_dir")
    return {
        "name": args.get("name", ""),
        "base": args.get("base", ""),
        "dataset": _choice(dataset),
        "held_out": _choice(held_out) if held_out else None,
        "template": args.get("template_name", ""),
        "continue_from": _below(parent, loras) if parent and loras else "",
        "options": dict(args.get("options") or {}),
        "prompts": list(args.get("prompts") or ()),
        "notes": args.get("notes", ""),
    }


def differences(records: Sequence[RunRecord]) -> tuple[tuple[str, tuple[Any, ...]], ...]:
    """What was asked for differently, and what came out: the word, and its value in each run."""
    flat = [_flat(record) for record in records]
    names = dict.fromkeys(name for row in flat for name in row)
    found = ((name, tuple(row.get(name) for row in flat)) for name in names)
    return tuple((name, values) for name, values in found if any(value != values[0] for value in values))


def _flat(record: RunRecord) -> dict[str, Any]:
    request = record.request
    plain = {name: request[name] for name in ("base", "template", "continue_from") if name in request}
    results = {"loss": record.loss, "held_out_loss": record.held_out_loss, "verdict": record.verdict, "status": record.job.status}
    return {**plain, "dataset": request.get("dataset", {}).get("name"), **request.get("options", {}), **results}


def _choice(dataset: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": dataset.get("name", ""), "format": dataset.get("format", ""), "columns": dict(dataset.get("columns") or {})}


def _below(path: str, folder: str) -> str:
    return Path(path).relative_to(folder).as_posix() if Path(path).is_relative_to(folder) else Path(path).name


def _thinned(rows: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """All rows, or about as many as a plot has points; those with a held-out loss and the last always."""
    stride = max(1, -(-len(rows) // ROWS_LIMIT))
    return (row for place, row in enumerate(rows) if place % stride == 0 or "held_out_loss" in row or place == len(rows) - 1)


def _lines(path: Path) -> Iterator[Mapping[str, Any]]:
    for line in (_text(path) or "").splitlines():
        with contextlib.suppress(ValueError):  # the last one may be half written
            row = json.loads(line)
            if isinstance(row, dict):
                yield row


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace") if path.stat().st_size <= FILE_LIMIT_BYTES else None
    except OSError:
        return None


def _json(path: Path) -> Any:
    try:
        return json.loads(_text(path) or "null")
    except ValueError:
        return None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None
