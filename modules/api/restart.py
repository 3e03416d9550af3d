"""Starting the server again: what that would interrupt, and doing it. For the page and, behind the key, for the API."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from modules.api.errors import documented_errors
from modules.api.owner import OWNER
from modules.services.app import App


def restart_router(app: App, prefix: str) -> APIRouter:
    """The two routes below `prefix`."""
    router = APIRouter(prefix=prefix, responses=documented_errors())

    @router.get("/restart")
    async def look() -> dict[str, Any]:
        """What a restart would interrupt: replies and texts being written, jobs that run. `run` is another one after a restart."""
        jobs = [job.title for job in await app.jobs.list(OWNER) if job.status == "running"]
        return {"run": app.run.id, "replies": len(app.replies.running_ids()), "notebooks": app.notebook.writing(), "jobs": jobs}

    @router.post("/restart")
    async def restart() -> dict[str, Any]:
        """End in good order and start again with the same command line. `same_address` is false where changed settings ask for another one."""
        return {"run": app.run.id, "same_address": app.run.start_again()}

    return router
