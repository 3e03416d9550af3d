"""Jobs as they stand, and the verbs on them; the page and API clients have the same routes below prefixes of their own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response

from modules.api.errors import documented_errors
from modules.api.owner import OWNER
from modules.api.sse import frame, stream
from modules.core.job import JobSnapshot
from modules.services.app import App
from modules.services.jobs import JobService
from modules.services.training import TRAIN, TrainingService

PING_S = 15.0
FIELDS = (
    "id", "kind", "title", "status", "created_s", "place", "stopping", "paused", "done", "total", "unit", "metrics", "speed", "eta_s", "warning",
    "error", "result", "started_s", "ended_s",
)  # fmt: skip


def told(job: JobSnapshot) -> dict[str, Any]:
    """A job as clients see it, without its log."""
    return {name: getattr(job, name) for name in FIELDS}


def jobs_router(app: App, prefix: str) -> APIRouter:
    """The routes below `prefix`."""
    router = APIRouter(prefix=f"{prefix}/jobs", responses=documented_errors())

    @router.get("")
    async def listing() -> dict[str, Any]:
        """All jobs, the newest first."""
        return {"jobs": [told(row) for row in await app.jobs.list(OWNER)]}

    @router.get("/{job_id}")
    async def read(job_id: str) -> dict[str, Any]:
        """One job with the end of its log."""
        snapshot = await app.jobs.read(OWNER, job_id)
        return {**told(snapshot), "log": list(snapshot.log)}

    @router.get("/{job_id}/events", response_model=None)
    async def events(job_id: str) -> Response:
        """Follow it: server-sent events `job`, each the job as it then stands, until it has ended."""
        await app.jobs.read(OWNER, job_id)  # an unknown id is an error, not a stream
        return stream(_events(app.jobs, job_id))

    @router.post("/{job_id}/cancel")
    async def cancel(job_id: str) -> dict[str, Any]:
        """End it."""
        return told(await (await _keeper(app, job_id)).cancel(OWNER, job_id))

    @router.post("/{job_id}/pause")
    async def pause(job_id: str) -> dict[str, Any]:
        """Stop it so that it can go on later."""
        return told(await (await _keeper(app, job_id)).pause(OWNER, job_id))

    @router.post("/{job_id}/resume")
    async def resume(job_id: str) -> dict[str, Any]:
        """Go on where it stopped."""
        return told(await (await _keeper(app, job_id)).resume(OWNER, job_id))

    @router.delete("/{job_id}")
    async def remove(job_id: str) -> dict[str, Any]:
        """Take it off the list."""
        await (await _keeper(app, job_id)).remove(OWNER, job_id)
        return {"ok": True}

    return router


async def _keeper(app: App, job_id: str) -> JobService | TrainingService:
    """Who knows what else belongs to a verb: a training run makes room for itself, and gives up what it has."""
    return app.training if (await app.jobs.read(OWNER, job_id)).kind == TRAIN else app.jobs


async def _events(jobs: JobService, job_id: str) -> AsyncIterator[bytes]:
    snapshots = jobs.watch(OWNER, job_id)
    step: asyncio.Task[JobSnapshot | None] | None = None
    try:
        while True:
            step = step or asyncio.create_task(_next(snapshots))
            await asyncio.wait({step}, timeout=PING_S)
            if not step.done():
                yield frame({}, "ping")
                continue
            job, step = step.result(), None
            if job is None:
                return
            yield frame(told(job), "job")
    finally:
        if step is not None:
            step.cancel()
            await asyncio.gather(step, return_exceptions=True)


async def _next(snapshots: AsyncIterator[JobSnapshot]) -> JobSnapshot | None:
    return await anext(snapshots, None)
