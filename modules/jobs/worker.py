"""The process of one job: takes its lock, runs its work function, writes down how that ended.

Standard input brings one line from the server: which start this is, and the secrets. Knows no kind of work.
"""

from __future__ import annotations

import errno
import faulthandler
import json
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from modules.core.errors import AppError, in_short
from modules.core.job import Cancelled, JobKind
from modules.core.process import be_expendable
from modules.jobs.context import StopFlag, WorkerContext
from modules.jobs.events import EventWriter
from modules.jobs.lock import JobLock
from modules.jobs.record import JobSpec, read_spec, read_story

OOM_SCORE = 900  # of 1000: a job goes before an engine, for it can be resumed
HEADER_BYTES = 64 * 1024
EXIT_RECORDED = 0  # how it ended is in the events
EXIT_UNRECORDED = 74  # the disk would take nothing
EXIT_NOT_MINE = 75  # another process runs this job, or ran it meanwhile
SERVER_STOPPED = "The server was stopped in the middle of the work. Resume it: it goes on where it can."
SIGNALLED = "The system asked the job's process to stop. Resume it: it goes on where it can."


@dataclass(frozen=True, slots=True)
class Header:
    """What the server says at the start."""

    attempt: int
    secrets: Mapping[str, str]

    def to_line(self) -> bytes:
        """As it crosses the pipe."""
        return json.dumps({"attempt": self.attempt, "secrets": dict(self.secrets)}).encode() + b"\n"

    @classmethod
    def read(cls, stream: BinaryIO) -> Header | None:
        """None when the server ended before it said anything."""
        line = stream.readline(HEADER_BYTES)
        if not line.endswith(b"\n"):
            return None
        values = json.loads(line)
        return cls(int(values["attempt"]), dict(values["secrets"]))


@dataclass(frozen=True, slots=True)
class Ending:
    """The last event of a run."""

    event: str
    values: Mapping[str, Any]


def run_worker(directory: Path, kinds: Sequence[JobKind]) -> int:
    """Run the job in a directory; the exit status, after which the process must end without waiting for anything."""
    stop = StopFlag(directory)
    stop.listen()
    header = Header.read(sys.stdin.buffer)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    if header is None or not directory.is_dir():
        return EXIT_NOT_MINE
    lock = JobLock.take(directory)
    if lock is None:
        return EXIT_NOT_MINE
    story = read_story(directory)
    if story.attempts + 1 != header.attempt or story.ending:
        return EXIT_NOT_MINE
    be_expendable(OOM_SCORE)
    faulthandler.enable()  # the log then shows where native code fell
    events = EventWriter(directory)
    events.tidy()
    if not events.say("started", attempt=header.attempt, pid=os.getpid()):
        return EXIT_UNRECORDED
    stop.look()
    context = WorkerContext(directory, events, stop, header.secrets)
    ending = _run(read_spec(directory), kinds, context, stop)
    context.close()
    return EXIT_RECORDED if events.say(ending.event, **ending.values) else EXIT_UNRECORDED


def _run(spec: JobSpec, kinds: Sequence[JobKind], context: WorkerContext, stop: StopFlag) -> Ending:
    """The work, and whatever it may raise."""
    if stop.asked:
        return _stopped(stop)
    kind = next((kind for kind in kinds if kind.name == spec.kind), None)
    if kind is None:
        return Ending("failed", {"error": f"This version of Paddock does not know the job “{spec.kind}”. Remove it, or go back to the version that made it."})
    try:
        return _done(kind.run(kind.args.model_validate(spec.args), context))
    except BaseException as error:  # this is the top: also SystemExit, and what a library's event loop lets out
        return _raised(_first(error), context, stop)


def _done(result: Mapping[str, Any] | None) -> Ending:
    plain = json.loads(json.dumps(dict(result or {}), default=str))
    return Ending("done", {"result": plain})


def _stopped(stop: StopFlag) -> Ending:
    """A stop that was asked for, by its reason; without one it was a signal from outside, or the work's own wish."""
    reason = stop.reason()
    if reason == "pause":
        return Ending("interrupted", {"paused": True})
    if reason == "close":
        return Ending("interrupted", {"error": SERVER_STOPPED})
    if reason is None and stop.asked:
        return Ending("interrupted", {"error": SIGNALLED})
    return Ending("cancelled", {})


def _raised(error: BaseException, context: WorkerContext, stop: StopFlag) -> Ending:
    """What an exception means; after the work was told to stop, whatever it raises is how a library passed that on."""
    if not isinstance(error, AppError | Cancelled):
        for line in "".join(traceback.format_exception(error)).splitlines():
            context.log(line)
    if isinstance(error, Cancelled) or context.told:
        return _stopped(stop)
    if isinstance(error, KeyboardInterrupt):
        return Ending("interrupted", {"error": SIGNALLED})
    return Ending("failed", {"error": context.redacted(_sentence(error, context.directory))})


def _first(error: BaseException) -> BaseException:
    """Of several errors at once (a task group) the one with a sentence, or the first."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    errors = [_first(inner) for inner in error.exceptions]
    return next((inner for inner in errors if isinstance(inner, AppError | Cancelled)), errors[0])


def _sentence(error: BaseException, directory: Path) -> str:
    if isinstance(error, AppError):
        return error.message
    if isinstance(error, MemoryError):
        return "The memory of this machine did not suffice. Close other programs or choose a smaller piece of work, then retry."
    if isinstance(error, SystemExit):
        return f"A library ended the job by itself, with status {error.code!r}. The log says more; correct that, then retry."
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"The disk is full ({error.filename or directory}). Free some space, then retry: the work goes on where it can."
    return f"The work stopped at an error nobody had thought of: {in_short(error)}. The log has the details; retry, or report it with the log."
