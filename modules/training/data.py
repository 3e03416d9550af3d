"""The samples of a run: read, without duplicates, divided into what is learned and what is held out; and a digest that says whether they changed.

Knows no token; files are read in `formats.py`, duplicates found in `duplicates.py`, the division made in `division.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, is_dataclass
from typing import Any

from pydantic import BaseModel

from modules.core.errors import InvalidRequest
from modules.training.division import divide
from modules.training.duplicates import without_duplicates
from modules.training.formats import read_samples
from modules.training.samples import Sample
from modules.training.spec import TrainArgs


@dataclass(frozen=True, slots=True)
class Data:
    """What a run learns from and what it is measured by."""

    train: list[Sample]
    held_out: list[Sample]
    digest: str  # of both, in their order
    exact: int = 0  # samples left out because an earlier one is the same
    near: int = 0  # or nearly the same


def load_data(args: TrainArgs) -> Data:
    """Read, leave out duplicates, divide.

    Raises:
        InvalidRequest: nothing is left to learn from, or a file cannot be read (naming file and line).
    """
    samples = list(read_samples(args.dataset))
    exact = near = 0
    if args.options.drop_duplicates:
        kept = without_duplicates(samples)
        samples, exact, near = list(kept.samples), kept.exact, kept.near
    if args.held_out is not None:
        train, held_out = samples, list(read_samples(args.held_out))
    else:
        parts = divide(samples, args.options.held_out_percent)
        train, held_out = list(parts.train), list(parts.held_out)
    if not train:
        name = args.dataset.name or args.dataset.path.name
        raise InvalidRequest(f"“{name}” holds no sample to learn from. Choose a data set with at least one, or check which column means what.")
    return Data(train, held_out, digest_of(train, held_out), exact, near)


def digest_of(*parts: Iterable[Sample]) -> str:
    """A hash of samples in their order; where they stood does not count."""
    digest = hashlib.sha256()
    for part in parts:
        for sample in part:
            values = {name: value for name, value in _plain(sample).items() if name != "where"}
            digest.update(json.dumps(values, sort_keys=True, ensure_ascii=False, default=str).encode("utf-8", "surrogatepass") + b"\n")
        digest.update(b"\x00")
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    """Dataclasses, models and sets as what JSON has."""
    if is_dataclass(value) and not isinstance(value, type):
        return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_none=True)
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, frozenset | set):
        return sorted(_plain(inner) for inner in value)
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value
