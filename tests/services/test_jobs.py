"""The job service over real processes: lanes and order, stopping, resuming, restarts of the server, followers, owners."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from typing import Any

import psutil
import pytest

from modules.core.errors import AppError, InvalidRequest, JobConflict, NotFound
from modules.core.job import JobSnapshot
from modules.core.person import Person, asked_by
from modules.jobs.queue import REMOVED_PREFIX
from modules.services.audit import AuditLog
from tests.jobs.conftest import Jobs, jobs, open_jobs, start_server

pytestmark = pytest.mark.processes

__all__ = ["jobs", "open_jobs", "start_server"]

ENDLESS = {"n": 1_000_000, "step_s": 0.02}


async def running(jobs: Jobs, ids: list[str]) -> list[str]:
    snapshots = {snapshot.id: snapshot for snapshot in await jobs.service.list("ann")}
    return [job_id for job_id in ids if snapshots[job_id].status == "running"]


def alive(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


# ---- asking --------------------------------------------------------------------------------------------------------


async def test_arguments_are_checked_before_anything_is_made(jobs):
    with pytest.raises(NotFound, match="no kind of job “nothing”"):
        await jobs.submit("nothing")
    with pytest.raises(InvalidRequest, match="Count: n: input should be greater than or equal to 1; got 0") as caught:
        await jobs.submit(n=0)
    assert caught.value.details["field"] == "n"
    with pytest.raises(InvalidRequest, match="“more” is not known"):
        await jobs.submit(more=1)
    assert await jobs.service.list("ann") == ()
    assert list(jobs.directory.iterdir()) == []
    assert [kind.name for kind in jobs.service.kinds()][:2] == ["count", "compute"]


async def test_another_owners_jobs_do_not_exist(jobs):
    job_id = await jobs.submit(**ENDLESS)
    service = jobs.service
    assert await service.list("bob") == ()
    for verb in (service.read, service.cancel, service.pause, service.resume, service.remove):
        with pytest.raises(NotFound):
            await verb("bob", job_id)
    with pytest.raises(NotFound):
        await anext(service.watch("bob", job_id))
    for strange in ("", "..", "../..", job_id + "x"):
        with pytest.raises(NotFound):
            await service.read("ann", strange)


# ---- stopping ------------------------------------------------------------------------------------------------------


async def test_cancel_ends_a_job_within_two_seconds_and_a_retry_goes_on(jobs):
    job_id = await jobs.submit(n=300, step_s=0.01)
    await jobs.working(job_id)
    start = time.monotonic()
    assert (await jobs.service.cancel("ann", job_id)).stopping
    cancelled = await jobs.finished(job_id, "cancelled")
    assert time.monotonic() - start < 2
    assert (cancelled.error, cancelled.stopping, cancelled.result) == ("", False, None)
    with pytest.raises(JobConflict, match="was cancelled; retry it or remove it"):
        await jobs.service.cancel("ann", job_id)
    await jobs.service.resume("ann", job_id)
    done = await jobs.finished(job_id)
    assert done.result == {"counted": 300}
    with pytest.raises(JobConflict, match="it is done"):
        await jobs.service.resume("ann", job_id)


async def test_cancel_just_after_the_start(jobs):
    job_id = await jobs.submit(**ENDLESS)
    await jobs.service.cancel("ann", job_id)
    assert (await jobs.finished(job_id, "cancelled")).error == ""


async def test_a_library_that_wraps_the_stop_is_cancelled_all_the_same(jobs):
    job_id = await jobs.submit("wrap", **ENDLESS)
    await jobs.working(job_id)
    await jobs.service.cancel("ann", job_id)
    assert any("RuntimeError: callback failed" in line for line in (await jobs.finished(job_id, "cancelled")).log)


async def test_one_that_ignores_it_is_killed_after_the_grace_with_its_helpers(open_jobs):
    jobs = await open_jobs(grace_s=1.0)
    job_id = await jobs.submit("stubborn", **ENDLESS)
    await jobs.working(job_id)
    pid, helper = jobs.pid(job_id), int((jobs.directory / job_id / "helper").read_text())
    start = time.monotonic()
    await jobs.service.cancel("ann", job_id)
    await asyncio.sleep(0.5)
    assert (await jobs.service.cancel("ann", job_id)).stopping  # asked again: the time does not begin anew
    await jobs.finished(job_id, "cancelled")
    assert 0.9 < time.monotonic() - start < 3
    await asyncio.sleep(0.3)
    assert not alive(pid)
    assert not alive(helper)


async def test_pause_leaves_it_to_be_resumed(jobs):
    job_id = await jobs.submit(n=200, step_s=0.02)
    await jobs.working(job_id)
    await jobs.service.pause("ann", job_id)
    paused = await jobs.finished(job_id, "interrupted")
    assert (paused.paused, paused.error) == (True, "")
    with pytest.raises(JobConflict, match="resume it or remove it"):
        await jobs.service.pause("ann", job_id)
    resumed = await jobs.service.resume("ann", job_id)
    assert (resumed.status, resumed.paused, resumed.stopping) == ("running", False, False)
    assert resumed.done == paused.done
    with pytest.raises(JobConflict, match="pause or cancel it first"):
        await jobs.service.resume("ann", job_id)
    assert (await jobs.finished(job_id)).result == {"counted": 200}


async def test_what_was_paused_can_be_cancelled(jobs):
    job_id = await jobs.submit(**ENDLESS)
    await jobs.working(job_id)
    await jobs.service.pause("ann", job_id)
    await jobs.finished(job_id, "interrupted")
    cancelled = await jobs.service.cancel("ann", job_id)
    assert (cancelled.status, cancelled.paused) == ("cancelled", False)
    assert (await jobs.service.read("ann", job_id)).status == "cancelled"


async def test_a_cancel_wins_over_a_pause(open_jobs):
    jobs = await open_jobs(grace_s=0.5)
    job_id = await jobs.submit("stubborn", **ENDLESS)
    await jobs.working(job_id)
    await jobs.service.pause("ann", job_id)
    await jobs.service.cancel("ann", job_id)
    with pytest.raises(JobConflict, match="is being cancelled"):
        await jobs.service.pause("ann", job_id)
    await jobs.finished(job_id, "cancelled")


# ---- lanes and order -----------------------------------------------------------------------------------------------


async def test_lanes_hold_three_and_one_and_the_rest_waits_in_order(jobs):
    network = [await jobs.submit(**ENDLESS) for _ in range(5)]
    compute = [await jobs.submit("compute", **ENDLESS) for _ in range(3)]
    assert await running(jobs, network) == network[:3]
    assert await running(jobs, compute) == compute[:1]
    places = {snapshot.id: snapshot.place for snapshot in await jobs.service.list("ann")}
    assert [places[job_id] for job_id in network + compute] == [0, 0, 0, 1, 2, 0, 1, 2]
    await jobs.service.cancel("ann", network[3])  # one that waits is gone at once
    assert (await jobs.service.read("ann", network[3])).status == "cancelled"
    assert (await jobs.service.read("ann", network[4])).place == 1
    await jobs.service.pause("ann", compute[1])
    assert (await jobs.service.read("ann", compute[1])).paused
    await jobs.working(network[1])
    await jobs.service.cancel("ann", network[1])
    await jobs.working(network[4])
    await jobs.service.cancel("ann", compute[0])
    await jobs.working(compute[2])
    await jobs.service.resume("ann", compute[1])
    assert (await jobs.service.read("ann", compute[1])).place == 1
    assert [snapshot.id for snapshot in await jobs.service.list("ann")] == [*reversed(compute), *reversed(network)]


# ---- removing ------------------------------------------------------------------------------------------------------


async def test_a_job_is_removed_only_when_it_does_not_run(jobs):
    job_id = await jobs.submit(**ENDLESS)
    with pytest.raises(JobConflict, match="Cancel it first"):
        await jobs.service.remove("ann", job_id)
    await jobs.service.cancel("ann", job_id)
    await jobs.finished(job_id, "cancelled")
    await jobs.service.remove("ann", job_id)
    with pytest.raises(NotFound):
        await jobs.service.read("ann", job_id)
    await asyncio.sleep(0.2)
    assert list(jobs.directory.iterdir()) == []


async def test_a_directory_deleted_by_hand_is_forgotten(jobs, open_jobs):
    job_id = await jobs.submit(n=1)
    await jobs.finished(job_id)
    (jobs.directory / job_id).rename(jobs.directory.parent / "taken")
    with pytest.raises(NotFound):
        await jobs.service.read("ann", job_id)
    assert await jobs.service.list("ann") == ()


async def test_what_is_left_of_a_torn_removal_or_submission_is_swept(jobs, open_jobs):
    await jobs.service.close()
    (jobs.directory / f"{REMOVED_PREFIX}x").mkdir()
    (jobs.directory / "20260101T000000000-00000000").mkdir()
    (jobs.directory / "of another kind").mkdir()
    again = await open_jobs()
    assert await again.service.list("ann") == ()
    assert [path.name for path in jobs.directory.iterdir()] == ["of another kind"]


# ---- restarts of the server ----------------------------------------------------------------------------------------


async def test_a_killed_server_leaves_jobs_running_and_the_next_one_adopts_them(open_jobs, start_server):
    server = start_server(("count", {"n": 250, "step_s": 0.02}), *[("compute", ENDLESS)] * 4)
    counting, first, *waiting = server.ids
    server.wait_for(counting, first)
    server.end(signal.SIGKILL)
    jobs = await open_jobs()
    await jobs.working(counting)
    pid = jobs.pid(first)
    assert await running(jobs, server.ids) == [counting, first]
    assert [(await jobs.service.read("ann", job_id)).place for job_id in waiting] == [1, 2, 3]
    seen = [snapshot async for snapshot in jobs.service.watch("ann", counting)]
    assert (seen[-1].status, seen[-1].result) == ("done", {"counted": 250})
    assert alive(pid)
    start = time.monotonic()
    await jobs.service.cancel("ann", first)
    await jobs.finished(first, "cancelled")
    assert time.monotonic() - start < 2
    assert not alive(pid)
    await jobs.working(waiting[0])
    assert await running(jobs, server.ids) == [waiting[0]]


async def test_a_server_killed_at_once_loses_no_job_and_starts_none_twice(open_jobs, start_server):
    server = start_server(*[("count", {"n": 40, "step_s": 0.02})] * 5)
    server.end(signal.SIGKILL)
    jobs = await open_jobs()
    for job_id in server.ids:
        done = await jobs.finished(job_id)
        assert done.result == {"counted": 40}
        assert len([line for line in done.log if "from 0" in line]) == 1


async def test_an_adopted_job_that_ignores_a_cancel_is_killed(open_jobs, start_server):
    server = start_server(("stubborn", ENDLESS))
    server.wait_for(*server.ids)
    server.end(signal.SIGKILL)
    jobs = await open_jobs(grace_s=0.5)
    [job_id] = server.ids
    await jobs.working(job_id)
    helper = int((jobs.directory / job_id / "helper").read_text())
    await jobs.service.cancel("ann", job_id)
    await jobs.finished(job_id, "cancelled")
    await asyncio.sleep(0.3)
    assert not alive(helper)


async def test_a_stopped_server_stops_its_jobs_and_the_next_one_offers_them(open_jobs, start_server):
    server = start_server(("count", ENDLESS), ("stubborn", ENDLESS), ("compute", ENDLESS), ("compute", {"n": 5}))
    counting, stubborn, computing, waiting = server.ids
    server.wait_for(counting, stubborn, computing)
    assert server.end(signal.SIGTERM) < 8
    jobs = await open_jobs()
    for job_id in (counting, stubborn, computing):
        snapshot = await jobs.service.read("ann", job_id)
        assert (snapshot.status, snapshot.paused) == ("interrupted", False)
        assert "The server was stopped" in snapshot.error
        assert "Resume it" in snapshot.error
    assert (await jobs.finished(waiting)).result == {"counted": 5}  # it was queued, and its turn has come
    assert await running(jobs, server.ids) == []
    await jobs.service.resume("ann", counting)
    await jobs.working(counting)


async def test_nothing_is_taken_on_after_the_end(jobs):
    job_id = await jobs.submit(**ENDLESS)
    await jobs.working(job_id)
    following = asyncio.create_task(collect(jobs, job_id))
    await asyncio.sleep(0.3)
    await jobs.service.close()
    assert (await following)[-1].status == "interrupted"
    with pytest.raises(AppError, match="stopping"):
        await jobs.submit()


# ---- following -----------------------------------------------------------------------------------------------------


async def collect(jobs: Jobs, job_id: str) -> list[JobSnapshot]:
    return [snapshot async for snapshot in jobs.service.watch("ann", job_id)]


async def test_two_followers_see_the_same_job_a_few_times_a_second(jobs):
    job_id = await jobs.submit(n=100, step_s=0.02)
    start = time.monotonic()
    one, two = await asyncio.gather(collect(jobs, job_id), collect(jobs, job_id))
    elapsed_s = time.monotonic() - start
    for seen in (one, two):
        assert seen[0].status == "running"
        assert (seen[-1].status, seen[-1].done) == ("done", 100)
        assert 4 <= len(seen) <= 3 + 5.2 * elapsed_s
        done = [snapshot.done or 0 for snapshot in seen]
        assert done == sorted(done)
    middle = one[-2]
    assert 20 < middle.speed < 60
    assert middle.eta_s >= 0
    assert await collect(jobs, job_id) == [await jobs.service.read("ann", job_id)]


async def test_a_flood_of_reports_does_not_flood_a_follower(jobs):
    job_id = await jobs.submit("flood", n=300_000)
    start = time.monotonic()
    seen = await collect(jobs, job_id)
    assert seen[-1].done == 300_000
    assert len(seen) <= 3 + 5.2 * (time.monotonic() - start)


async def test_a_slow_follower_gets_the_newest_and_one_that_leaves_is_forgotten(jobs):
    job_id = await jobs.submit(n=50, step_s=0.01)
    seen: list[Any] = []
    async for snapshot in jobs.service.watch("ann", job_id):
        seen.append(snapshot)
        await jobs.finished(job_id, "done")  # it looks away until all is over
    assert [snapshot.status for snapshot in seen] == ["running", "done"]
    watching = jobs.service.watch("ann", job_id)
    await anext(watching)
    await watching.aclose()
    assert jobs.service._followers == set()


async def test_a_follower_stays_with_an_interrupted_job_and_leaves_a_removed_one(jobs):
    job_id = await jobs.submit(**ENDLESS)
    await jobs.working(job_id)
    following = asyncio.create_task(collect(jobs, job_id))
    await asyncio.sleep(0.3)
    os.kill(jobs.pid(job_id), signal.SIGKILL)
    await jobs.until(job_id, lambda s: "SIGKILL" in s.error)
    await asyncio.sleep(0.5)
    assert not following.done()
    await jobs.service.resume("ann", job_id)
    await jobs.working(job_id)
    await jobs.service.pause("ann", job_id)
    await jobs.finished(job_id, "interrupted")
    await jobs.service.remove("ann", job_id)
    statuses = [snapshot.status for snapshot in await following]
    assert [status for status, before in zip(statuses, [None, *statuses], strict=False) if status != before] == ["running", "interrupted", "running", "interrupted"]


# ---- the audit log -------------------------------------------------------------------------------------------------


async def test_the_end_of_each_job_is_noted_as_of_who_started_it(open_jobs, tmp_path):
    audit = AuditLog(tmp_path)

    async def entries(count: int) -> list[tuple[str, str, str, str]]:
        end = time.monotonic() + 20
        while len(found := await audit.read(text="job.end")) < count:
            assert time.monotonic() < end, found
            await asyncio.sleep(0.02)
        assert {one["action"] for one in found} == {"job.end"}
        return [(one["object"], one["name"], one["outcome"], one["why"]) for one in reversed(found)]

    jobs = await open_jobs(note=audit.note)
    with asked_by(Person("1", "manage", "Ann")):
        ids = [await jobs.submit(n=2, step_s=0.01), await jobs.submit("fail"), await jobs.submit(**ENDLESS)]
    await jobs.finished(ids[0])
    await jobs.finished(ids[1], "failed")
    await jobs.working(ids[2])
    await jobs.service.pause("ann", ids[2])
    await jobs.finished(ids[2], "interrupted")
    title = (await jobs.service.read("ann", ids[0])).title
    told = await entries(3)
    assert (f"{title} {ids[0]}", "Ann", "done", "") in told
    assert [row[1:] for row in told if ids[1] in row[0]] == [("Ann", "failed", "failed")]
    assert [row[1:] for row in told if ids[2] in row[0]] == [("Ann", "failed", "paused")]
    with asked_by(Person("2", "manage", "Ben")):
        await jobs.service.resume("ann", ids[2])
    await jobs.working(ids[2])
    await jobs.service.cancel("ann", ids[2])
    await jobs.finished(ids[2], "cancelled")
    assert (await entries(4))[3][1:] == ("Ben", "failed", "cancelled")
    await jobs.service.remove("ann", ids[2])
    assert len(await entries(4)) == 4
