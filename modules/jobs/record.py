"""A job as a directory: what it is to do, what happened, and from both where it stands now. Nothing here starts or stops anything.

    job.json       kind, arguments, owner, title, time: written once
    events.jsonl   see `events.py`
    log.txt        what the work and its libraries print
    lock           held by the worker while it runs: see `lock.py`
    stop           why the worker is asked to stop: cancel, pause or close
    reserve        room for the last words on a full disk

Everything else in the directory is the work function's own.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ValidationError

from modules.core.errors import AppError
from modules.core.files import write_atomic
from modules.core.job import JobSnapshot, JobStatus
from modules.jobs.events import EventReader, EventWriter, make_reserve
from modules.jobs.lock import holder
from modules.jobs.story import Story

SPEC_NAME = "job.json"
LOG_NAME = "log.txt"
STOP_NAME = "stop"
ID_PATTERN = re.compile(r"\d{8}T\d{9}-[0-9a-f]{8}")
LOG_TAIL_BYTES = 8192
LOG_TAIL_LINES = 40
LOG_LINE_CHARACTERS = 500
FULL_BYTES = 64 * 1024

StopReason = Literal["cancel", "pause", "close"]


class JobSpec(BaseModel, frozen=True):
    """What `job.json` holds."""

    kind: str
    args: dict[str, Any]
    owner: str
    title: str
    created_s: float


class JobRecord:
    """One job's directory, read again when asked. Not for two threads at once."""

    def __init__(self, directory: Path, spec: JobSpec) -> None:
        self.directory = directory
        self.spec = spec
        self.pid: int | None = None  # of the process that held the lock at the last look
        self.story = Story()
        self._reader = EventReader(directory)

    @classmethod
    def create(cls, root: Path, spec: JobSpec) -> JobRecord:
        """Make the directory of a new job; nothing is left of it when that fails.

        Raises:
            OSError: for example a full disk.
        """
        directory = root / new_id()
        directory.mkdir(mode=0o700)
        try:
            make_reserve(directory)
            record = cls(directory, spec)
            if not record.append("queued"):
                raise OSError(f"nothing can be written to {directory}")
            write_atomic(directory / SPEC_NAME, spec.model_dump_json(), mode=0o600)  # last: with it the job exists
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise
        record.refresh()
        return record

    @classmethod
    def open(cls, directory: Path) -> JobRecord:
        """The job in a directory.

        Raises:
            AppError: it is none.
        """
        record = cls(directory, read_spec(directory))
        record.refresh()
        return record

    @property
    def id(self) -> str:
        """Its name; names sort by time."""
        return self.directory.name

    def refresh(self) -> None:
        """Look again. The lock comes first: whoever held it has written its last event before it gave it back."""
        self.pid = holder(self.directory)
        whole, events = self._reader.read()
        if whole:
            self.story = Story()
        for event in events:
            self.story.apply(event)

    @property
    def status(self) -> JobStatus:
        """Where it stands, as of the last look."""
        if self.pid is not None:
            return "running"
        ending = self.story.ending
        if ending:
            return next(status for status in get_args(JobStatus) if status == ending)
        reason = self.stop_reason()
        if reason == "cancel":
            return "cancelled"
        return "interrupted" if self.story.started or reason == "pause" else "queued"

    @property
    def paused(self) -> bool:
        """Interrupted because a person wanted it so."""
        return self.status == "interrupted" and (self.story.paused or (not self.story.ending and self.stop_reason() == "pause"))

    def append(self, event: str, **values: Any) -> bool:
        """Write an event. Only while no worker runs."""
        writer = EventWriter(self.directory)
        try:
            return writer.say(event, **values)
        finally:
            writer.close()

    # ---- asking to stop --------------------------------------------------------------------------------------------

    def ask_to_stop(self, reason: StopReason) -> None:
        """Write down why the worker is to stop.

        Raises:
            OSError: it cannot be written.
        """
        write_atomic(self.directory / STOP_NAME, reason, mode=0o600)

    def stop_reason(self) -> StopReason | None:
        """Why the worker was asked to stop, if it was."""
        return stop_reason(self.directory)

    def withdraw_stop(self) -> None:
        """Before a new start."""
        (self.directory / STOP_NAME).unlink(missing_ok=True)

    # ---- for people ------------------------------------------------------------------------------------------------

    def snapshot(self, *, place: int = 0, starting: bool = False, with_log: bool = True) -> JobSnapshot:
        """One look, as of the last `refresh`; `starting` says that a worker is about to take the lock."""
        story, status = self.story, self.status
        if starting and not story.started and not story.ending:  # also when it was asked to stop meanwhile
            status = "running"
        running = status == "running"
        last = story.last
        speed, eta_s = story.pace(time.time()) if running else (None, None)
        return JobSnapshot(
            id=self.id,
            kind=self.spec.kind,
            title=self.spec.title,
            args=self.spec.args,
            status=status,
            created_s=self.spec.created_s,
            place=place,
            stopping=running and self.stop_reason() is not None,
            paused=self.paused and status == "interrupted",
            done=last.done if last else None,
            total=last.total if last else None,
            unit=last.unit if last else "",
            metrics=last.metrics if last else None,
            speed=speed,
            eta_s=eta_s,
            warning=story.warning if running else "",
            error=self._error(status),
            result=story.result,
            started_s=story.started_s,
            ended_s=story.ended_s,
            log=log_tail(self.directory) if with_log else (),
        )

    def _error(self, status: JobStatus) -> str:
        if status == "failed":
            return self.story.error
        if status != "interrupted" or self.paused:
            return ""
        return self.story.error or (
            "The process of this job ended in the middle of the work, and could not say why."
            + (" The disk is full: free some space." if is_full(self.directory) else "")
            + " Resume it: it goes on where it can."
        )


def read_spec(directory: Path) -> JobSpec:
    """What the job in a directory is to do.

    Raises:
        AppError: it is none.
    """
    try:
        return JobSpec.model_validate_json((directory / SPEC_NAME).read_bytes())
    except (OSError, ValidationError) as error:
        raise AppError(f"{directory} holds no job that can be read: {type(error).__name__}.") from error


def read_story(directory: Path) -> Story:
    """What happened so far, without a look at the lock: its holder may not look."""
    story = Story()
    for event in EventReader(directory).read()[1]:
        story.apply(event)
    return story


def new_id() -> str:
    """A name that sorts by time."""
    now = datetime.now(UTC)
    return f"{now:%Y%m%dT%H%M%S}{now.microsecond // 1000:03d}-{secrets.token_hex(4)}"


def stop_reason(directory: Path) -> StopReason | None:
    """Why the worker in a directory was asked to stop, if it was."""
    try:
        text = (directory / STOP_NAME).read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None
    return next((reason for reason in get_args(StopReason) if reason == text), None)


def is_full(directory: Path) -> bool:
    """Whether the disk under a directory has no room left."""
    try:
        return shutil.disk_usage(directory).free < FULL_BYTES
    except OSError:
        return False


def log_tail(directory: Path) -> tuple[str, ...]:
    """The last lines of a job's log; of a line that was written over and over (a progress bar) the last state."""
    try:
        with (directory / LOG_NAME).open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - LOG_TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ()
    lines = text.split("\n")[1 if size > LOG_TAIL_BYTES else 0 :]
    shown = (line.rstrip("\r").rpartition("\r")[2].rstrip() for line in lines)
    return tuple(line[:LOG_LINE_CHARACTERS] for line in shown if line)[-LOG_TAIL_LINES:]
