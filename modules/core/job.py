"""What a long piece of work is: its kind, its arguments, and what it may say while it runs.

Values and protocols only. Where a job lives and how it is started is the business of `modules/jobs`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import BaseModel

Lane = Literal["network", "compute"]
JobStatus = Literal["queued", "running", "done", "failed", "cancelled", "interrupted"]


class Cancelled(Exception):
    """The person asked the job to stop. Raised by `JobContext.progress`; work functions let it pass."""


class JobContext(Protocol):
    """What a work function gets besides its arguments."""

    directory: Path  # the job's own folder: survives restarts, so that the same function resumes there

    def progress(self, done: float, total: float | None, unit: str, **metrics: float | int | str) -> None:
        """Tell how far the work is, in `unit`, with whatever else is measured.

        Raises:
            Cancelled: the person asked to stop.
        """
        ...

    def log(self, line: str) -> None:
        """One line for the job's log."""
        ...


@dataclass(frozen=True)
class JobKind:
    """A way to work for long. `run` imports what it needs itself: the web process knows the kind and never runs it."""

    name: str
    title: str  # for lists, a verb: "Download"
    args: type[BaseModel]
    run: Callable[[Any, JobContext], Mapping[str, Any]]
    lane: Lane
