"""What a long piece of work is: its kind, its arguments, what it may say while it runs, and one look at it.

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
TERMINAL: frozenset[JobStatus] = frozenset({"done", "failed", "cancelled"})


class Cancelled(Exception):
    """The person asked the job to stop. Raised by `JobContext.progress`; work functions let it pass."""


class JobContext(Protocol):
    """What a work function gets besides its arguments."""

    directory: Path  # the job's own folder: survives restarts, so that the same function resumes there
    secrets: Mapping[str, str]  # what `JobKind.secrets` names, where there is a value; never written anywhere

    def progress(self, done: float, total: float | None, unit: str, **metrics: float | int | str) -> None:
        """Tell how far the work is, in `unit`, with whatever else is measured. Call it at least once a second, from any thread.

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
    args: type[BaseModel]  # written into the job's folder: secrets are named below instead
    run: Callable[[Any, JobContext], Mapping[str, Any]]
    lane: Lane
    subject: str = ""  # the argument that says what it is about; a job's title is then "Download Qwen/Qwen3-0.6B"
    secrets: tuple[str, ...] = ()  # names of what the work needs to know and must not be stored: "hf_token"


@dataclass(frozen=True, slots=True)
class JobSnapshot:
    """One look at a job. Times are seconds since 1970."""

    id: str
    kind: str
    title: str
    args: Mapping[str, Any]
    status: JobStatus
    created_s: float
    place: int = 0  # in the queue of its lane, from 1; 0 when it does not wait
    stopping: bool = False  # running, and asked to stop
    paused: bool = False  # interrupted because a person wanted it so
    done: float | None = None
    total: float | None = None
    unit: str = ""
    metrics: Mapping[str, float | int | str] | None = None
    speed: float | None = None  # units a second, of late
    eta_s: float | None = None
    warning: str = ""  # running, and something is wrong all the same
    error: str = ""  # why it failed or was interrupted, a sentence
    result: Mapping[str, Any] | None = None
    started_s: float | None = None
    ended_s: float | None = None
    log: tuple[str, ...] = ()  # its last lines; left out of lists
