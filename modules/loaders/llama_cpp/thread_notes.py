"""What loads measured of a model's threads, as it goes from one load to the next: keys and values.

The engine's process measures, the web process keeps what it tells. Measures nothing; of a model's files it reads sizes and times of change alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

VERSION = 3  # of what is measured, and how: a new number measures anew
KEY_CHARACTERS = 32
MOST_THREADS = 1024

Count = Annotated[int, Field(ge=1, le=MOST_THREADS)]


class MeasuredThreads(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """The numbers of threads that were the fastest for one model that is loaded in one way."""

    decode: Count
    batch: Count
    step_s: dict[Count, Annotated[float, Field(gt=0)]] = Field(default_factory=dict, max_length=8)  # of one token, by threads

    @property
    def most(self) -> int:
        """The largest number in it."""
        return max(self.decode, self.batch, *self.step_s)


class ThreadNotes:
    """What earlier loads measured, and what this one did."""

    def __init__(self, known: Mapping[str, Any]) -> None:
        self._known = known
        self.new: dict[str, Any] = {}  # in plain values, as `known` was given

    def of(self, key: str, cores: int) -> MeasuredThreads | None:
        """What was measured; None where that is not known, or is nonsense on so many cores."""
        try:
            found = MeasuredThreads.model_validate(self._known.get(key))
        except ValidationError:
            return None
        return found if found.most <= cores else None

    def add(self, key: str, found: MeasuredThreads) -> None:
        """Let later loads know it."""
        self.new[key] = found.model_dump(mode="json")


def threads_key(files: Sequence[Path], facts: Sequence[object]) -> str:
    """A word for a model, by the sizes and times of change of its files, and for all facts on which the fastest number of threads depends."""
    stamps = [(status.st_size, status.st_mtime_ns) for status in (file.stat() for file in files)]
    return hashlib.sha256(repr((VERSION, stamps, tuple(facts))).encode()).hexdigest()[:KEY_CHARACTERS]
