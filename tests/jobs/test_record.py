"""Where a job stands, derived from its directory alone; how fast it goes; what of its log is shown."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from modules.core.errors import AppError
from modules.jobs.lock import JobLock, holder
from modules.jobs.record import ID_PATTERN, LOG_NAME, SPEC_NAME, JobRecord, JobSpec, log_tail, new_id
from modules.jobs.story import Story

ROOT = Path(__file__).resolve().parents[2]
HOLD = """
import os, sys, time, pathlib
from modules.jobs.lock import JobLock
lock = JobLock.take(pathlib.Path(sys.argv[1]))
if "fork" in sys.argv and os.fork() == 0:
    time.sleep(30)
    os._exit(0)
print(lock is not None, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def record(tmp_path: Path) -> JobRecord:
    return JobRecord.create(tmp_path, JobSpec(kind="count", args={"n": 3}, owner="ann", title="Count", created_s=time.time()))


class Holder:
    """A process that holds the lock of a directory, or tried to."""

    def __init__(self, directory: Path, *flags: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(directory), *flags], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        self.took = self.process.stdout.readline() == "True\n"

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


def status_of(record: JobRecord) -> str:
    record.refresh()
    return record.status


def test_ids_sort_by_time_and_are_safe_names():
    first = new_id()
    time.sleep(0.002)
    assert first < new_id()
    assert ID_PATTERN.fullmatch(first)


def test_a_new_job_is_queued_and_private(record):
    assert record.status == "queued"
    assert record.directory.stat().st_mode & 0o077 == 0
    assert (record.directory / SPEC_NAME).stat().st_mode & 0o077 == 0
    again = JobRecord.open(record.directory)
    assert (again.spec, again.status) == (record.spec, "queued")


def test_what_is_no_job_is_not_opened(tmp_path):
    with pytest.raises(AppError, match="no job"):
        JobRecord.open(tmp_path)
    (tmp_path / SPEC_NAME).write_text('{"kind": 3}')
    with pytest.raises(AppError, match="no job"):
        JobRecord.open(tmp_path)


@pytest.mark.parametrize(
    ("events", "stop", "status", "paused"),
    [
        ((), "cancel", "cancelled", False),
        ((), "pause", "interrupted", True),
        ((), "close", "queued", False),
        (("started",), None, "interrupted", False),
        (("started",), "close", "interrupted", False),
        (("started",), "pause", "interrupted", True),
        (("started",), "cancel", "cancelled", False),
        (("started", "done"), "cancel", "done", False),
        (("started", "failed"), None, "failed", False),
        (("started", "cancelled"), None, "cancelled", False),
        (("started", "failed", "queued"), None, "queued", False),
        (("started", "failed", "queued", "started"), None, "interrupted", False),
    ],
)
def test_the_status_follows_from_events_and_stop_file(record, events, stop, status, paused):
    for event in events:
        record.append(event)
    if stop:
        record.ask_to_stop(stop)
    assert status_of(record) == status
    assert record.paused is paused


def test_who_holds_the_lock_runs_and_a_killed_one_is_interrupted_at_once(record):
    record.append("started", attempt=1)
    running = Holder(record.directory)
    assert running.took
    assert status_of(record) == "running"
    assert record.pid == running.process.pid
    other = Holder(record.directory)
    assert not other.took
    other.end()
    record.append("done", result={"a": 1})
    assert status_of(record) == "running"  # it may still be about to write
    running.end()
    assert status_of(record) == "done"


def test_a_forked_helper_does_not_keep_the_lock(record):
    running = Holder(record.directory, "fork")
    assert holder(record.directory) == running.process.pid
    running.process.kill()
    running.process.wait()
    assert holder(record.directory) is None
    os.killpg(running.process.pid, signal.SIGKILL)  # the helper is still there
    running.process.stdin.close()
    running.process.stdout.close()


def test_looking_takes_no_lock(record):
    assert holder(record.directory) is None
    lock = JobLock.take(record.directory)
    assert lock is not None


def test_speed_and_time_left():
    story = Story()
    for i in range(21):
        story.apply({"n": i, "t": 100.0 + i, "event": "progress", "done": 10 * i, "total": 400, "unit": "bytes"})
    assert story.pace(120.5) == (10.0, 20.0)
    slower, later = story.pace(130.0)  # nothing for ten seconds
    assert 0 < slower < 10
    assert later > 20
    assert story.pace(200.0)[0] == 0.0
    story.apply({"n": 30, "t": 121.0, "event": "progress", "done": 1, "total": 9, "unit": "files"})
    assert story.pace(121.0) == (None, None)  # another phase
    story.apply({"n": 31, "t": 50.0, "event": "progress", "done": 2, "total": 9, "unit": "files"})
    assert story.pace(50.0) == (None, None)  # the clock was set back
    assert story.last.done == 2


def test_odd_events_do_no_harm():
    story = Story()
    for values in ({"done": "x"}, {"done": float("nan")}, {"done": True}, {}, {"done": 1, "total": "y", "metrics": 3}):
        story.apply({"n": 1, "t": 1.0, "event": "progress", **values})
    story.apply({"n": 2, "t": 1.0, "event": "unheard of"})
    story.apply({"n": 3, "t": 1.0, "event": "done", "result": 3})
    assert (story.last.done, story.last.total, story.last.metrics, story.result) == (1, None, {}, None)


def test_of_the_log_the_last_state_of_the_last_lines_is_shown(tmp_path):
    assert log_tail(tmp_path) == ()
    (tmp_path / LOG_NAME).write_bytes(b"one\r\n10%\r20%\r30%\n\n" + b"\xff" + b"x" * 900 + b"\nend")
    lines = log_tail(tmp_path)
    assert (lines[0], lines[1], len(lines[2]), lines[3]) == ("one", "30%", 500, "end")
    (tmp_path / LOG_NAME).write_text("".join(f"line {i}\n" for i in range(9000)))
    assert log_tail(tmp_path)[-1] == "line 8999"
    assert len(log_tail(tmp_path)) == 40


def test_a_job_that_cannot_be_stored_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(JobRecord, "append", lambda *_, **__: False)
    with pytest.raises(OSError, match="nothing can be written"):
        JobRecord.create(tmp_path, JobSpec(kind="k", args={}, owner="o", title="t", created_s=0))
    assert list(tmp_path.iterdir()) == []
