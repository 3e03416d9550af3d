"""Job services over a folder of the test; whatever they started is gone at the end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from modules.core.job import TERMINAL, JobSnapshot
from modules.jobs.queue import QueueLimits
from modules.services.jobs import JobService
from tests.jobs.kinds import COMMAND, SECRET, TEST_KINDS

ROOT = Path(__file__).resolve().parents[2]


class Jobs:
    """A service and what tests ask of it besides its verbs."""

    def __init__(self, state_dir: Path, **options: Any) -> None:
        self.directory = state_dir / "jobs"
        options = {"secret_of": lambda owner, name: SECRET if owner == "ann" else "", "command": COMMAND, **options}
        self.service = JobService(state_dir, TEST_KINDS, **options)

    async def submit(self, kind: str = "count", owner: str = "ann", **args: Any) -> str:
        return (await self.service.submit(owner, kind, args)).id

    async def until(self, job_id: str, condition: Callable[[JobSnapshot], Any], seconds: float = 20) -> JobSnapshot:
        end = time.monotonic() + seconds
        while True:
            snapshot = await self.service.read("ann", job_id)
            if condition(snapshot):
                return snapshot
            assert snapshot.status not in TERMINAL, f"ended first: {snapshot}"
            assert time.monotonic() < end, f"did not happen in time: {snapshot}"
            await asyncio.sleep(0.02)

    async def finished(self, job_id: str, status: str = "done") -> JobSnapshot:
        snapshot = await self.until(job_id, lambda s: s.status not in ("queued", "running"))
        assert snapshot.status == status, snapshot
        return snapshot

    async def working(self, job_id: str, done: int = 1) -> JobSnapshot:
        return await self.until(job_id, lambda s: s.status == "running" and s.done is not None and s.done >= done)

    def pid(self, job_id: str) -> int:
        return int((self.directory / job_id / "lock").read_text())


@pytest.fixture
async def open_jobs(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """Starts services one after another on the same folder, as restarts would."""
    opened: list[Jobs] = []

    async def start(grace_s: float = 10.0, state_dir: Path | None = None, **options: Any) -> Jobs:
        opened.append(Jobs(state_dir or tmp_path, limits=QueueLimits(grace_s=grace_s), **options))
        await opened[-1].service.start()
        return opened[-1]

    yield start
    for jobs in opened:
        await jobs.service.close()
    assert list(workers_in(tmp_path)) == [], "a worker outlived its service"


@pytest.fixture
async def jobs(open_jobs: Callable[..., Any]) -> Jobs:
    return await open_jobs()


def workers_in(folder: Path) -> Iterator[psutil.Process]:
    """Workers of jobs below a folder that run."""
    for process in psutil.process_iter():
        try:
            if str(folder) in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                yield process
        except psutil.Error:
            continue


class Server:
    """A server process that has submitted jobs."""

    def __init__(self, state_dir: Path, submissions: list[tuple[str, dict[str, Any]]]) -> None:
        self.directory = state_dir / "jobs"
        self.process = subprocess.Popen([sys.executable, "-m", "tests.jobs.kinds", "server", str(state_dir), json.dumps(submissions)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        self.ids: list[str] = json.loads(self.process.stdout.readline())

    def wait_for(self, *ids: str) -> None:
        """Until the workers of these jobs have begun."""
        end = time.monotonic() + 20
        while not all(b'"progress"' in (self.directory / job_id / "events.jsonl").read_bytes() for job_id in ids):
            assert time.monotonic() < end
            time.sleep(0.02)

    def end(self, number: int) -> float:
        """Send it a signal; how long it took to end."""
        start = time.monotonic()
        os.kill(self.process.pid, number)
        self.process.wait(timeout=20)
        return time.monotonic() - start


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(*submissions: tuple[str, dict[str, Any]]) -> Server:
        servers.append(Server(tmp_path, list(submissions)))
        return servers[-1]

    yield start
    for server in servers:
        if server.process.poll() is None:
            server.end(signal.SIGKILL)
        server.process.stdout.close()
