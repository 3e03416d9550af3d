"""The page's routes for perplexity: begin, how it stands, jobs, comments, and the table as a file."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response
from pydantic import BaseModel, Field

from modules.api.owner import OWNER
from modules.core.job import JobSnapshot
from modules.services.app import App
from modules.services.dataset_fetching import TextRow
from modules.services.perplexity_table import PerplexityRow

JOB_FIELDS = ("id", "title", "status", "stopping", "paused", "place", "done", "total", "unit", "eta_s", "metrics", "error", "warning", "created_s")
FETCH_FIELDS = ("id", "status", "stopping", "paused", "place", "done", "total", "error", "warning")
ARG_FIELDS = ("model", "text_name", "window", "stride")


class CommentBody(BaseModel):
    """Words about a row."""

    text: str = Field("", max_length=20_000)


def perplexity_router(app: App) -> APIRouter:
    """The routes below /ui/perplexity."""
    router = APIRouter(prefix="/ui/perplexity")

    @router.get("")
    async def standing() -> dict[str, Any]:
        """What goes on, and the table."""
        found = await app.perplexity.standing(OWNER)
        texts = [_text(row) for row in await app.dataset_fetching.texts(OWNER)]
        return {"jobs": [_job(job) for job in found.jobs], "rows": [_row(row) for row in found.rows], "texts": texts}

    @router.post("")
    async def begin(request: dict[str, Any]) -> dict[str, Any]:
        """Measure models on a text."""
        begun = await app.perplexity.begin(OWNER, request)
        return {"jobs": [_job(job) for job in begun.jobs], "known": [_row(row) for row in begun.known]}

    @router.post("/texts/{text_id}/fetch")
    async def fetch(text_id: str) -> dict[str, Any]:
        """Fetch a well-known text from the hub; it is measured like any data set once it is there."""
        return {"job": (await app.dataset_fetching.fetch_text(OWNER, text_id)).id}

    @router.get("/table.csv", response_model=None)
    async def table() -> Response:
        """The table as a file."""
        headers = {"content-disposition": 'attachment; filename="perplexity.csv"'}
        return Response("\ufeff" + await app.perplexity.csv(OWNER), media_type="text/csv; charset=utf-8", headers=headers)

    @router.post("/jobs/{job_id}/cancel")
    async def cancel(job_id: str) -> dict[str, Any]:
        """End one that waits or runs."""
        return _job(await app.perplexity.cancel(OWNER, job_id))

    @router.post("/jobs/{job_id}/resume")
    async def resume(job_id: str) -> dict[str, Any]:
        """Go on with one that was stopped."""
        return _job(await app.perplexity.resume(OWNER, job_id))

    @router.delete("/jobs/{job_id}")
    async def forget(job_id: str) -> dict[str, Any]:
        """Take one that does not run out of the list."""
        await app.perplexity.forget(OWNER, job_id)
        return {"ok": True}

    @router.post("/rows/{row_id}/comment")
    async def comment(row_id: str, body: CommentBody) -> dict[str, Any]:
        """Change the comment of a row."""
        await app.perplexity.comment(OWNER, row_id, body.text)
        return {"ok": True}

    @router.delete("/rows/{row_id}")
    async def delete(row_id: str) -> dict[str, Any]:
        """Take a row out of the table."""
        await app.perplexity.delete(OWNER, row_id)
        return {"ok": True}

    return router


def _job(job: JobSnapshot) -> dict[str, Any]:
    adapters = [{"name": adapter["name"], "scale": adapter["scale"]} for adapter in job.args.get("adapters", ())]
    return {name: getattr(job, name) for name in JOB_FIELDS} | {name: job.args.get(name) for name in ARG_FIELDS} | {"adapters": adapters}


def _text(row: TextRow) -> dict[str, Any]:
    job = {name: getattr(row.job, name) for name in FETCH_FIELDS} if row.job else None
    return {**row.text.model_dump(include={"id", "title", "repo", "licence", "about"}), "name": row.name, "job": job}


def _row(row: PerplexityRow) -> dict[str, Any]:
    return row.model_dump(exclude={"owner"})
