"""How a job ends: every way a work function, its process or a full disk can end it, with real processes."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from modules.jobs.record import SPEC_NAME
from modules.jobs.worker import EXIT_NOT_MINE, Header
from tests.jobs.conftest import ROOT
from tests.jobs.kinds import COMMAND, SECRET

pytestmark = pytest.mark.processes

DISK_SENTENCE = "The disk is full"


async def test_a_job_runs_reports_and_ends(jobs):
    job_id = await jobs.submit(n=30, step_s=0.03, label="sheep")
    during = await jobs.working(job_id)
    assert (during.title, during.total, during.unit, during.error) == ("Count sheep", 30, "steps", "")
    done = await jobs.finished(job_id)
    assert (done.done, done.result, done.metrics) == (30, {"counted": 30}, {"loss": 1 / 30})
    assert done.created_s <= done.started_s <= done.ended_s
    assert done.log[-1].endswith("from 0")
    assert done.speed is None


@pytest.mark.parametrize(
    ("what", "sentence", "trace"),
    [
        ("AppError", "The hub said no. Ask again tomorrow.", False),
        ("ValueError", "an error nobody had thought of: ValueError: odd. The log", True),
        ("group", "One of many said no.", False),
        ("CancelledError", "an error nobody had thought of: CancelledError. The log", True),
        ("MemoryError", "The memory of this machine did not suffice", True),
        ("SystemExit", "ended the job by itself, with status 3", True),
        ("full", "The disk is full (/somewhere). Free some space", True),
    ],
)
async def test_a_failure_is_a_sentence_and_a_trace(jobs, what, sentence, trace):
    failed = await jobs.finished(await jobs.submit("fail", what=what), "failed")
    assert sentence in failed.error
    assert any("Traceback" in line for line in failed.log) is trace
    assert failed.done == 1  # the last progress is not lost


async def test_an_interrupt_from_a_library_and_a_crash_of_native_code(jobs):
    asked = await jobs.submit("fail", what="KeyboardInterrupt")
    crashed = await jobs.submit("fail", what="segv")
    assert "Resume" in (await jobs.finished(asked, "interrupted")).error
    snapshot = await jobs.until(crashed, lambda s: s.status == "interrupted" and "SIGSEGV" in s.error)
    assert any("Segmentation fault" in line for line in snapshot.log)


async def test_a_thread_left_behind_delays_nothing_and_the_environment_carries_no_keys(jobs, monkeypatch):
    monkeypatch.setenv("OTHER_TOKEN", "x")
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    result = (await jobs.finished(await jobs.submit("fail", what="thread"))).result
    assert result["path"] == "/x"
    assert "OTHER_TOKEN" not in result["env"]
    assert "TRANSFORMERS_OFFLINE" not in result["env"]  # it is in the network lane


async def test_a_secret_reaches_the_work_and_no_file(jobs):
    job_id = await jobs.submit("fail", what="secret")
    failed = await jobs.finished(job_id, "failed")
    assert failed.error == "Refused: •••."
    assert any("the key is •••" in line for line in failed.log)
    for path in (jobs.directory / job_id).iterdir():
        assert SECRET.encode() not in path.read_bytes()
    await jobs.service.resume("ann", job_id)  # given again, and refused again in the same words
    assert (await jobs.finished(job_id, "failed")).error == "Refused: •••."
    other = await jobs.submit("fail", "bob", what="AppError")
    while (snapshot := await jobs.service.read("bob", other)).status in ("queued", "running"):
        pass
    assert any("not here" in line for line in snapshot.log)


async def test_reports_are_written_a_few_times_a_second(jobs):
    job_id = await jobs.submit("flood", n=20_000)
    done = await jobs.finished(job_id)
    assert (done.done, done.metrics) == (20_000, {"loss": "nan"})
    lines = (jobs.directory / job_id / "events.jsonl").read_text().splitlines()
    assert len(lines) <= 5 + 4.5 * (done.ended_s - done.started_s)


async def test_a_worker_killed_is_interrupted_at_once_and_resumes_where_it_was(jobs):
    job_id = await jobs.submit(n=100, step_s=0.02)
    await jobs.working(job_id, 10)
    os.kill(jobs.pid(job_id), signal.SIGKILL)
    snapshot = await jobs.until(job_id, lambda s: s.status == "interrupted", 0.5)
    assert "Resume" in snapshot.error
    assert not snapshot.paused
    await jobs.until(job_id, lambda s: "SIGKILL" in s.error)
    await jobs.service.resume("ann", job_id)
    done = await jobs.finished(job_id)
    assert done.result == {"counted": 100}
    assert done.error == ""
    starts = [int(line.rpartition(" ")[2]) for line in done.log if "from" in line]
    assert starts[0] == 0
    assert starts[1] >= 10


async def test_a_worker_that_cannot_begin_fails_with_its_log(open_jobs):
    jobs = await open_jobs(command=(COMMAND[0], "-c", "import no_such_module"))
    failed = await jobs.finished(await jobs.submit(), "failed")
    assert "could not begin: exit status 1" in failed.error
    assert "No module named 'no_such_module'" in failed.log[-1]


async def test_a_program_that_is_not_there(open_jobs):
    jobs = await open_jobs(command=("/nowhere/python",))
    failed = await jobs.finished(await jobs.submit(), "failed")
    assert "could not start this job (No such file" in failed.error


async def test_a_second_worker_of_the_same_job_leaves_it_alone(jobs):
    job_id = await jobs.submit(n=100, step_s=0.03)
    await jobs.working(job_id)
    for header in (Header(1, {}).to_line(), Header(2, {}).to_line(), b""):
        done = subprocess.run([*COMMAND, str(jobs.directory / job_id)], input=header, cwd=ROOT, check=False, timeout=20)
        assert done.returncode == EXIT_NOT_MINE
    assert (await jobs.finished(job_id)).result == {"counted": 100}
    late = subprocess.run([*COMMAND, str(jobs.directory / job_id)], input=Header(1, {}).to_line(), cwd=ROOT, check=False, timeout=20)
    assert late.returncode == EXIT_NOT_MINE
    assert (await jobs.service.read("ann", job_id)).status == "done"


async def test_a_kind_that_is_gone(jobs, open_jobs):
    job_id = await jobs.submit("fail", what="ValueError")
    await jobs.finished(job_id, "failed")
    path = jobs.directory / job_id / SPEC_NAME
    path.write_text(path.read_text().replace('"kind":"fail"', '"kind":"gone"'))
    await jobs.service.close()
    again = await open_jobs()
    assert (await again.service.read("ann", job_id)).kind == "gone"
    with pytest.raises(Exception, match="does not know the job “gone”"):
        await again.service.resume("ann", job_id)
    await again.service.remove("ann", job_id)


# ---- a full disk ---------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("a small disk cannot be mounted here: " + mounted.stderr.decode().strip())
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


async def test_a_full_disk_is_said_and_nothing_is_lost(open_jobs, small_disk):
    jobs = await open_jobs(state_dir=small_disk)
    job_id = await jobs.submit("fill", n=40, step_s=0.05)
    warned = await jobs.until(job_id, lambda s: s.warning or s.status not in ("queued", "running"))
    assert DISK_SENTENCE in warned.warning
    with pytest.raises(Exception, match=DISK_SENTENCE):
        await jobs.submit()
    done = await jobs.finished(job_id)
    assert done.result == {"full": True}
    assert done.warning == ""
    (jobs.directory / job_id / "big").unlink()
    again = await jobs.submit(n=3)
    assert (await jobs.finished(again)).result == {"counted": 3}


async def test_work_that_fails_on_a_full_disk_says_so_and_can_be_retried(open_jobs, small_disk):
    jobs = await open_jobs(state_dir=small_disk)
    job_id = await jobs.submit("fill", n=1, label="raise")
    failed = await jobs.finished(job_id, "failed")
    assert failed.error.startswith(DISK_SENTENCE)
    (jobs.directory / job_id / "big").unlink()
    await jobs.service.resume("ann", job_id)
    assert (await jobs.finished(job_id, "failed")).error.startswith(DISK_SENTENCE)
