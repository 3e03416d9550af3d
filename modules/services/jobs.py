"""Long work for the front ends: submit, list, follow, stop, resume and remove jobs; and the table of their kinds.

All work on files and processes happens in one thread, in order; the event loop only waits. A follower gets the newest look at a job, at most
a few times a second, however often it changes. Knows no kind of work beyond its row.
"""

from __future__ import annotations

import asyncio
import builtins
import logging
import shutil
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from modules.core.errors import AppError, InvalidRequest, NotFound
from modules.core.job import TERMINAL, JobKind, JobSnapshot
from modules.core.settings import validation_sentence
from modules.hub.download import TOKEN_SECRET, DownloadArgs
from modules.hub.download import run as run_download
from modules.hub.verify import VerifyArgs
from modules.hub.verify import run as run_verify
from modules.jobs.queue import JobQueue, QueueLimits, SecretOf
from modules.jobs.record import JobSpec
from modules.lab.perplexity import PerplexityArgs
from modules.lab.perplexity import run as run_perplexity
from modules.services.audit import Note, unnoted
from modules.training.preflight import examine
from modules.training.spec import ExamineArgs, TrainArgs
from modules.training.train import run as run_train
from modules.weights.adapter_gguf import ConvertAdapterArgs
from modules.weights.adapter_gguf import run as run_convert
from modules.weights.adapter_merge import MergeAdapterArgs
from modules.weights.adapter_merge import run as run_merge

log = logging.getLogger(__name__)

T = TypeVar("T")

JOB_KINDS: tuple[JobKind, ...] = (
    JobKind("download", "Download", DownloadArgs, run_download, "network", subject="repo", secrets=(TOKEN_SECRET,)),
    JobKind("convert_adapter", "Convert", ConvertAdapterArgs, run_convert, "compute", subject="name"),
    JobKind("merge_adapter", "Merge", MergeAdapterArgs, run_merge, "compute", subject="target"),
    JobKind("verify", "Verify", VerifyArgs, run_verify, "compute", subject="name"),
    JobKind("examine", "Check", ExamineArgs, examine, "compute", subject="title"),
    JobKind("train", "Train", TrainArgs, run_train, "compute", subject="name"),
    JobKind("perplexity", "Measure", PerplexityArgs, run_perplexity, "compute", subject="model"),
)
WORKER_COMMAND = (sys.executable, "-m", "modules.services.job_worker")
LOOK_INTERVAL_S = 0.2
IDLE_LOOK_INTERVAL_S = 0.5  # nobody follows: only the lanes want to be filled
CLOSE_GRACE_S = 4.0
KILLED_WITHIN_S = 2.0
TITLE_CHARACTERS = 200


@dataclass(eq=False)
class _Follower:
    """A place for the newest look at a job: what is not fetched in time is replaced."""

    job_id: str
    news: asyncio.Event = field(default_factory=asyncio.Event)
    newest: JobSnapshot | None = None
    over: bool = False

    def tell(self, snapshot: JobSnapshot) -> None:
        if snapshot != self.newest:
            self.newest = snapshot
            self.news.set()

    def end(self) -> None:
        self.over = True
        self.news.set()


class JobService:
    """All verbs on jobs. The owner is part of every call; what is another's does not exist. One event loop calls it."""

    def __init__(
        self,
        state_dir: Path,
        kinds: Sequence[JobKind] = JOB_KINDS,
        *,
        secret_of: SecretOf = lambda owner, name: "",
        command: Sequence[str] = WORKER_COMMAND,
        limits: QueueLimits | None = None,
        note: Note = unnoted,
    ) -> None:
        """`note` hears how each job ended that ran, as said by who started it, or nobody where that was an earlier server."""
        self._kinds = {kind.name: kind for kind in kinds}
        self._queue = JobQueue(state_dir / "jobs", kinds, command, secret_of, limits or QueueLimits())
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="jobs")
        self._followers: set[_Follower] = set()
        self._wake = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None
        self._deleting: set[asyncio.Task[None]] = set()
        self._note = note
        self._asked: dict[str, Context] = {}  # who started a job, and from where
        self._closed = False

    async def start(self) -> None:
        """Find the jobs of earlier servers again and begin to look after them."""
        await self._run(self._queue.recover)
        self._looking = asyncio.create_task(self._look_after())

    async def close(self) -> None:
        """Ask every worker to stop, end those that do not, and mark what was interrupted; harmless the second time."""
        if self._closed:
            return
        self._closed = True
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
            await self._in_thread(self._queue.stop_all)
            if not await self._all_ended(CLOSE_GRACE_S):
                await self._in_thread(self._queue.kill_all)
                await self._all_ended(KILLED_WITHIN_S)
        for follower in self._followers:
            follower.end()
        await asyncio.gather(*self._deleting, return_exceptions=True)
        await asyncio.to_thread(self._thread.shutdown)

    async def _all_ended(self, limit_s: float) -> bool:
        end_s = time.monotonic() + limit_s
        while True:
            await self._look()
            if not self._queue.busy:
                return True
            if time.monotonic() >= end_s:
                return False
            await asyncio.sleep(0.05)

    # ---- verbs -----------------------------------------------------------------------------------------------------

    def kinds(self) -> tuple[JobKind, ...]:
        """What can be asked for."""
        return tuple(self._kinds.values())

    async def submit(self, owner: str, kind: str, args: Mapping[str, Any]) -> JobSnapshot:
        """Queue new work; it starts as soon as its lane has a place.

        Raises:
            NotFound: no such kind.
            InvalidRequest: an argument outside its limits, naming it.
        """
        known = self._kinds.get(kind)
        if known is None:
            raise NotFound(f"There is no kind of job “{kind[:60]}”. There is: {', '.join(self._kinds) or 'none yet'}.")
        try:
            values = known.args.model_validate(dict(args))
        except ValidationError as error:
            where = ".".join(str(part) for part in error.errors()[0]["loc"])
            raise InvalidRequest(f"{known.title}: {validation_sentence(error)}", field=where or None) from error
        subject = str(getattr(values, known.subject)) if known.subject else ""
        title = f"{known.title} {subject}".strip()[:TITLE_CHARACTERS]
        spec = JobSpec(kind=kind, args=values.model_dump(mode="json"), owner=owner, title=title, created_s=time.time())
        return await self._begin(lambda: self._queue.submit(spec))

    async def list(self, owner: str) -> tuple[JobSnapshot, ...]:
        """All jobs of an owner, the newest first, without their logs."""
        return await self._run(lambda: self._queue.snapshots(owner))

    async def read(self, owner: str, job_id: str) -> JobSnapshot:
        """One job as it stands.

        Raises:
            NotFound: there is none, or it is another's; so for every verb.
        """
        return await self._run(lambda: self._queue.snapshot(owner, job_id))

    async def cancel(self, owner: str, job_id: str) -> JobSnapshot:
        """End a job: at once while it waits or is interrupted, within a grace while it runs (`stopping` until then).

        Raises:
            JobConflict: it has ended already.
        """
        return await self._tell(lambda: self._queue.cancel(owner, job_id))

    async def pause(self, owner: str, job_id: str) -> JobSnapshot:
        """Stop a job so that it can be resumed: it is then interrupted, and marked as paused.

        Raises:
            JobConflict: it neither waits nor runs, or is being cancelled.
        """
        return await self._tell(lambda: self._queue.pause(owner, job_id))

    async def resume(self, owner: str, job_id: str) -> JobSnapshot:
        """Queue a job again that was interrupted, has failed or was cancelled; it goes on where its work function can.

        Raises:
            JobConflict: it waits, runs, or is done.
        """
        return await self._begin(lambda: self._queue.resume(owner, job_id))

    async def remove(self, owner: str, job_id: str) -> None:
        """Forget a job that does not run, and delete its directory in the background.

        Raises:
            JobConflict: it runs.
        """
        removed, ended = await self._run(lambda: (self._queue.remove(owner, job_id), self._queue.take_ended()))
        self._note_ends(ended)  # before who started it is forgotten
        self._asked.pop(job_id, None)
        for follower in self._followers:
            if follower.job_id == job_id:
                follower.end()
        deleting = asyncio.create_task(asyncio.to_thread(shutil.rmtree, removed, ignore_errors=True))
        self._deleting.add(deleting)
        deleting.add_done_callback(self._deleting.discard)

    async def directory(self, owner: str, job_id: str) -> Path:
        """The folder of a job, where its work function keeps what it has to show."""
        return await self._run(lambda: self._queue.directory(owner, job_id))

    async def watch(self, owner: str, job_id: str) -> AsyncIterator[JobSnapshot]:
        """The job as it stands, then as it changes. Ends when it is done, has failed or was cancelled, is removed, or the server stops.

        An interrupted job is followed further: somebody may resume it.
        """
        follower = _Follower(job_id)
        shown: JobSnapshot | None = None
        self._followers.add(follower)
        try:
            follower.tell(await self.read(owner, job_id))
            while True:
                await follower.news.wait()
                follower.news.clear()
                snapshot, over = follower.newest, follower.over
                if snapshot is not None and snapshot != shown:
                    shown = snapshot
                    yield snapshot
                if over or snapshot is None or snapshot.status in TERMINAL:
                    return
                await asyncio.sleep(LOOK_INTERVAL_S)  # what happens meanwhile comes as one
        finally:
            self._followers.discard(follower)

    # ---- how -------------------------------------------------------------------------------------------------------

    async def _run(self, work: Callable[[], T]) -> T:
        if self._closed:
            raise AppError("The server is stopping; try again when it is back.")
        return await self._in_thread(work)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def _begin(self, work: Callable[[], JobSnapshot]) -> JobSnapshot:
        snapshot = await self._tell(work)
        self._asked[snapshot.id] = copy_context()
        return snapshot

    async def _tell(self, work: Callable[[], JobSnapshot]) -> JobSnapshot:
        """Do something to a job, and let its followers and those who look after it know."""
        snapshot = await self._run(work)
        self._spread((snapshot,))
        self._wake.set()
        return snapshot

    def _spread(self, snapshots: Sequence[JobSnapshot]) -> None:
        by_id = {snapshot.id: snapshot for snapshot in snapshots}
        for follower in self._followers:
            if follower.job_id in by_id:
                follower.tell(by_id[follower.job_id])

    async def _look(self) -> None:
        followed: builtins.list[str] = sorted({follower.job_id for follower in self._followers})
        seen, ended = await self._in_thread(lambda: (self._queue.look(followed), self._queue.take_ended()))
        self._spread(seen)
        self._note_ends(ended)

    def _note_ends(self, ended: Sequence[JobSnapshot]) -> None:
        """Errors stay with the job: they may quote what somebody wrote."""
        for job in ended:
            context = self._asked.pop(job.id, None) or Context()
            is_done = job.status == "done"
            context.run(self._note, "job.end", f"{job.title} {job.id}", "done" if is_done else "failed", "" if is_done else "paused" if job.paused else job.status)

    async def _look_after(self) -> None:
        """Look while anything runs; sleep while nothing does."""
        while True:
            self._wake.clear()
            try:
                await self._look()
            except OSError as error:  # files that cannot be read just now: they are looked at again
                log.warning("The jobs cannot be looked after: %s", error)
            if self._queue.busy:
                await asyncio.sleep(LOOK_INTERVAL_S if self._followers else IDLE_LOOK_INTERVAL_S)
            else:
                await self._wake.wait()
