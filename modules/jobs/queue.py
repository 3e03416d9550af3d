"""All jobs of a server: waiting in lanes, started in order, stopped, resumed, removed, and found again after a restart.

A plain object for one thread; whoever owns it calls `look` a few times a second while it is `busy`. Knows no kind of work but its lane.
"""

from __future__ import annotations

import logging
import secrets
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from modules.core.errors import AppError, JobConflict, NotFound
from modules.core.job import JobKind, JobSnapshot, JobStatus, Lane
from modules.core.process import how_it_ended
from modules.jobs.child import WorkerProcess
from modules.jobs.record import ID_PATTERN, SPEC_NAME, JobRecord, JobSpec, StopReason, is_full
from modules.jobs.worker import EXIT_UNRECORDED, Header

log = logging.getLogger(__name__)

REMOVED_PREFIX = ".removed-"

SecretOf = Callable[[str, str], str]  # owner and name of a secret → its value, empty when there is none


@dataclass(frozen=True)
class QueueLimits:
    """How many jobs run at a time, and how long one that is asked to stop may take."""

    places: Mapping[Lane, int] = field(default_factory=lambda: MappingProxyType({"network": 3, "compute": 1}))
    grace_s: float = 10.0


@dataclass
class _Running:
    """A job with a worker."""

    process: WorkerProcess
    lane: Lane
    stop: StopReason | None = None
    kill_at_s: float | None = None


class JobQueue:
    """See above."""

    def __init__(self, root: Path, kinds: Sequence[JobKind], command: Sequence[str], secret_of: SecretOf, limits: QueueLimits) -> None:
        self._root = root
        self._kinds = {kind.name: kind for kind in kinds}
        self._command = tuple(command)
        self._secret_of = secret_of
        self._limits = limits
        self._records: dict[str, JobRecord] = {}
        self._running: dict[str, _Running] = {}
        self._waiting: list[str] = []
        self._over: list[JobSnapshot] = []
        self._closing = False

    @property
    def busy(self) -> bool:
        """Whether there is a reason to look again soon."""
        return bool(self._running)

    # ---- find again ------------------------------------------------------------------------------------------------

    def recover(self) -> None:
        """Find the jobs of earlier servers: running ones are adopted, waiting ones wait on, interrupted ones are left alone."""
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        for directory in sorted(self._root.iterdir()):
            if directory.name.startswith(REMOVED_PREFIX) or (ID_PATTERN.fullmatch(directory.name) and not (directory / SPEC_NAME).exists()):
                shutil.rmtree(directory, ignore_errors=True)  # a server died while it made or removed this one
            elif ID_PATTERN.fullmatch(directory.name):
                self._find(directory)
        waiting = [record for record in self._records.values() if record.status == "queued"]
        self._waiting = [record.id for record in sorted(waiting, key=lambda record: (record.story.queued_s, record.id))]
        self._fill()

    def _find(self, directory: Path) -> None:
        try:
            record = JobRecord.open(directory)
        except AppError as error:
            log.warning("%s", error.message)
            return
        self._records[record.id] = record
        if record.status == "running":
            self._adopt(record)

    def _adopt(self, record: JobRecord) -> None:
        kind = self._kinds.get(record.spec.kind)
        running = _Running(WorkerProcess.adopt(record.directory), kind.lane if kind else "compute", record.stop_reason())
        if running.stop:
            running.kill_at_s = time.monotonic() + self._limits.grace_s
        self._running[record.id] = running

    # ---- what a person does ----------------------------------------------------------------------------------------

    def submit(self, spec: JobSpec) -> JobSnapshot:
        """Queue a new job; it starts at once if its lane has a place.

        Raises:
            AppError: it cannot be stored.
        """
        try:
            record = JobRecord.create(self._root, spec)
        except OSError as error:
            raise _not_stored(self._root, error) from error
        self._records[record.id] = record
        self._waiting.append(record.id)
        self._fill()
        return self.snapshot(spec.owner, record.id)

    def cancel(self, owner: str, job_id: str) -> JobSnapshot:
        """End a job for good, now or within the grace; also one that was interrupted, so that nobody resumes it.

        Raises:
            JobConflict: it has ended already.
            NotFound: there is none, or it is another's; so for every verb.
        """
        return self._stop(owner, job_id, "cancel")

    def pause(self, owner: str, job_id: str) -> JobSnapshot:
        """Stop a job so that it can be resumed.

        Raises:
            JobConflict: it neither runs nor waits, or is being cancelled.
        """
        return self._stop(owner, job_id, "pause")

    def _stop(self, owner: str, job_id: str, reason: StopReason) -> JobSnapshot:
        self.look(())
        record = self._record(owner, job_id)
        running = self._running.get(job_id)
        if running is not None:
            if reason == "pause" and running.stop == "cancel":
                raise JobConflict("This job is being cancelled; once that is done, Retry starts it where it stopped.")
            self._ask(record, running, reason)
        elif record.status == "queued":
            told = record.append("cancelled") if reason == "cancel" else record.append("interrupted", paused=True)
            if not told:
                raise _not_stored(record.directory, None)
            self._waiting.remove(job_id)
        elif record.status == "interrupted" and reason == "cancel":
            if not record.append("cancelled"):
                raise _not_stored(record.directory, None)
        else:
            raise JobConflict(f"This job cannot be stopped: {_STANDS[record.status]}.")
        return self.snapshot(owner, job_id)

    def _ask(self, record: JobRecord, running: _Running, reason: StopReason) -> None:
        """Ask a worker to stop; asked again, the time it has does not begin again."""
        running.stop = reason
        running.kill_at_s = running.kill_at_s or time.monotonic() + self._limits.grace_s
        try:
            record.ask_to_stop(reason)
        except OSError as error:  # it stops all the same; what for is then known to this server alone, which writes it down when it can
            log.warning("Why job %s stops could not be written: %s", record.id, error)
        running.process.terminate()

    def resume(self, owner: str, job_id: str) -> JobSnapshot:
        """Queue a job again that was interrupted, failed or was cancelled: the same work on the same directory.

        Raises:
            JobConflict: it runs, waits, or is done.
            AppError: it cannot be stored.
        """
        self.look(())
        record = self._record(owner, job_id)
        status: JobStatus = "running" if job_id in self._running else record.status
        if status in ("running", "queued", "done"):
            raise JobConflict(f"This job cannot be resumed: {_STANDS[status]}.")
        if record.spec.kind not in self._kinds:
            raise JobConflict(f"This version of Paddock does not know the job “{record.spec.kind}”. Remove it, or go back to the version that made it.")
        try:
            record.withdraw_stop()
            told = record.append("queued")
        except OSError as error:
            raise _not_stored(record.directory, error) from error
        if not told:
            raise _not_stored(record.directory, None)
        self._waiting.append(job_id)
        self._fill()
        return self.snapshot(owner, job_id)

    def remove(self, owner: str, job_id: str) -> Path:
        """Forget a job; the directory that is left to be deleted.

        Raises:
            JobConflict: it runs.
            AppError: the system refuses.
        """
        self.look(())
        record = self._record(owner, job_id)
        if job_id in self._running or record.status == "running":
            raise JobConflict("This job is running. Cancel it first, then remove it.")
        removed = self._root / f"{REMOVED_PREFIX}{job_id}-{secrets.token_hex(2)}"
        try:
            record.directory.rename(removed)
        except OSError as error:
            raise AppError(f"The folder of this job cannot be removed ({error.strerror}): {record.directory}. Delete it by hand.") from error
        self._forget(job_id)
        return removed

    # ---- looking ---------------------------------------------------------------------------------------------------

    def snapshots(self, owner: str) -> tuple[JobSnapshot, ...]:
        """All jobs of an owner, the newest first, without their logs."""
        mine = [record for record in self._records.values() if record.spec.owner == owner]
        for record in mine:
            if not record.story.ending or record.id in self._running:  # what has ended stays as it is
                record.refresh()
        return tuple(self._shown(record, with_log=False) for record in sorted(mine, key=lambda record: record.id, reverse=True))

    def snapshot(self, owner: str, job_id: str) -> JobSnapshot:
        """One job."""
        return self._shown(self._record(owner, job_id), with_log=True)

    def directory(self, owner: str, job_id: str) -> Path:
        """The folder of one job."""
        return self._record(owner, job_id).directory

    def _shown(self, record: JobRecord, *, with_log: bool) -> JobSnapshot:
        return record.snapshot(place=self._place(record), starting=record.id in self._running, with_log=with_log)

    def _place(self, record: JobRecord) -> int:
        if record.id not in self._waiting:
            return 0
        lane = self._lane(record.id)
        return [job_id for job_id in self._waiting if self._lane(job_id) == lane].index(record.id) + 1

    def _record(self, owner: str, job_id: str) -> JobRecord:
        record = self._records.get(job_id)
        if record is not None and not record.directory.exists():  # deleted by hand
            self._forget(job_id)
            record = None
        if record is None or record.spec.owner != owner:
            raise NotFound("There is no such job; it may have been removed. Refresh the list.")
        record.refresh()
        if record.status == "running" and job_id not in self._running:
            self._adopt(record)
        return record

    def _forget(self, job_id: str) -> None:
        del self._records[job_id]
        if job_id in self._waiting:
            self._waiting.remove(job_id)

    def look(self, followed: Sequence[str]) -> tuple[JobSnapshot, ...]:
        """See who has ended, kill who does not stop in time, start who can; how the followed jobs stand."""
        for job_id, running in tuple(self._running.items()):
            if running.process.ended(leaving=self._is_leaving(job_id)):
                del self._running[job_id]
                if job_id in self._records:
                    self._ended(self._records[job_id], running)
                    self._tell_end(self._records[job_id])
            elif running.kill_at_s is not None and time.monotonic() >= running.kill_at_s:
                running.process.kill()
        self._fill()
        records = [self._records[job_id] for job_id in followed if job_id in self._records]
        for record in records:
            record.refresh()
        return tuple(self._shown(record, with_log=True) for record in records)

    def take_ended(self) -> tuple[JobSnapshot, ...]:
        """The jobs that ran, or could not begin, and have ended since this was last asked."""
        ended, self._over = tuple(self._over), []
        return ended

    def _tell_end(self, record: JobRecord) -> None:
        record.refresh()
        if record.story.ending:
            self._over.append(self._shown(record, with_log=False))

    def _is_leaving(self, job_id: str) -> bool:
        """Whether the worker had the lock and has given it back."""
        record = self._records.get(job_id)
        if record is None:
            return False
        record.refresh()
        return record.pid is None and (record.story.started or bool(record.story.ending))

    def _ended(self, record: JobRecord, running: _Running) -> None:
        """Write down how a worker ended that could not do so itself."""
        record.refresh()
        status, code = record.status, running.process.returncode
        if status == "running":  # two servers started it: the other one's worker has it
            self._adopt(record)
        elif record.story.ending or (status == "queued" and running.stop == "close"):
            return
        elif running.stop == "cancel":
            self._note(record, "cancelled")
        elif running.stop == "pause":
            self._note(record, "interrupted", paused=True)
        elif code == EXIT_UNRECORDED or is_full(record.directory):
            self._note(record, "interrupted", error="The disk is full: how this job ended could not be written. Free some space, then resume it.")
        elif running.stop == "close":
            self._note(record, "interrupted", error="The server was stopped, and this job did not stop in time. Resume it: it goes on where it can.")
        elif status == "queued":
            self._note(record, "failed", error=f"The process of this job could not begin: {how_it_ended(code)}. The log says more; correct that, then retry.")
        else:
            how = f": {how_it_ended(code)}" if code is not None else ""
            self._note(record, "interrupted", error=f"The process of this job ended in the middle of the work{how}. Resume it: it goes on where it can.")

    def _note(self, record: JobRecord, event: str, **values: Any) -> None:
        """Write an event whose loss costs an explanation and no work."""
        try:
            told = record.append(event, **values)
        except OSError as error:
            log.warning("Job %s: %s", record.id, error)
        else:
            if not told:
                log.warning("Job %s: the disk is full, “%s” could not be written.", record.id, event)

    # ---- starting --------------------------------------------------------------------------------------------------

    def _lane(self, job_id: str) -> Lane:
        kind = self._kinds.get(self._records[job_id].spec.kind)
        return kind.lane if kind else "compute"

    def _fill(self) -> None:
        """Start waiting jobs where there is a place, in order."""
        for job_id in () if self._closing else tuple(self._waiting):
            lane = self._lane(job_id)
            if sum(running.lane == lane for running in self._running.values()) < self._limits.places[lane]:
                self._waiting.remove(job_id)
                self._start(self._records[job_id], lane)

    def _start(self, record: JobRecord, lane: Lane) -> None:
        kind = self._kinds.get(record.spec.kind)
        names = kind.secrets if kind else ()
        try:
            given = {name: self._secret_of(record.spec.owner, name) for name in names}
            record.withdraw_stop()
            header = Header(record.story.attempts + 1, {name: value for name, value in given.items() if value})
            process = WorkerProcess.start(self._command, record.directory, header, network=lane == "network")
        except OSError as error:
            self._note(record, "failed", error=f"The system could not start this job ({error.strerror}). Free memory or disk space, then retry.")
            self._tell_end(record)
        except AppError as error:
            self._note(record, "failed", error=error.message)
            self._tell_end(record)
        else:
            self._running[record.id] = _Running(process, lane)

    # ---- the end ---------------------------------------------------------------------------------------------------

    def stop_all(self) -> None:
        """The server ends: nothing starts any more, every worker is asked to stop."""
        self._closing = True
        for job_id, running in self._running.items():
            if job_id in self._records:
                self._ask(self._records[job_id], running, running.stop or "close")

    def kill_all(self) -> None:
        """End those that did not stop."""
        for running in self._running.values():
            running.process.kill()


_STANDS: Mapping[JobStatus, str] = {
    "queued": "it waits for its turn; cancel it if you do not want it",
    "running": "it is running; pause or cancel it first",
    "done": "it is done; start a new one if you want it again",
    "failed": "it has failed; retry it or remove it",
    "cancelled": "it was cancelled; retry it or remove it",
    "interrupted": "it was interrupted; resume it or remove it",
}


def _not_stored(place: Path, error: OSError | None) -> AppError:
    if error is None or is_full(place):
        return AppError(f"The disk is full: the job cannot be written to {place}. Free some space and try again.")
    return AppError(f"The job cannot be written to {place} ({error.strerror or error}). Correct that and try again.")
