"""The page's routes for training: what can be trained, looks before a run, runs with their curves, actions on them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from modules.api.owner import OWNER
from modules.core.job import JobSnapshot
from modules.core.person import asking
from modules.services.app import App
from modules.services.training_records import RunRecord

JOB_FIELDS = (
    "id", "status", "stopping", "paused", "place", "done", "total", "unit", "eta_s", "metrics", "error", "warning", "created_s", "started_s", "ended_s", "result",
)  # fmt: skip


class NotesBody(BaseModel):
    """Words about a run."""

    text: str = Field("", max_length=20_000)


class CompareBody(BaseModel):
    """Runs to compare."""

    ids: list[str] = Field(max_length=100)


def training_router(app: App) -> APIRouter:
    """The routes below /ui/training."""
    router = APIRouter(prefix="/ui/training")

    @router.get("/models")
    async def models() -> dict[str, Any]:
        """Models, prompt templates and adapters that a run can begin from."""
        return {
            "models": [row.__dict__ for row in await app.training.bases()],
            "templates": [row.name for row in await app.templates.list() if not row.problem],
            "adapters": [{"name": name, "base": base} for name, base in await app.training.parents()],
        }

    @router.get("/recipes")
    async def recipes() -> dict[str, Any]:
        """Settings to begin from."""
        return {"recipes": [row.__dict__ for row in await app.training.recipes()]}

    @router.get("/recipe")
    async def recipe(kind: Literal["recipe", "adapter"], name: str) -> dict[str, Any]:
        """A run as such settings ask for it."""
        return {"run": await app.training.recipe(kind, name[:400])}

    @router.post("/check")
    async def check(run: dict[str, Any]) -> dict[str, Any]:
        """Look at what would be learned."""
        return {"job": (await app.training.check(OWNER, run)).id}

    @router.get("/checks/{job_id}")
    async def checked(job_id: str) -> dict[str, Any]:
        """How a look stands and what it found."""
        job, examination = await app.training.examination(OWNER, job_id)
        return {"job": _job(job), "examination": examination}

    @router.post("/start")
    async def start(run: dict[str, Any]) -> dict[str, Any]:
        """Begin a run."""
        return {"job": (await app.training.start(OWNER, run)).id}

    @router.post("/compare")
    async def compare(body: CompareBody) -> dict[str, Any]:
        """Runs side by side."""
        found = await app.training.compare(OWNER, body.ids)
        return {
            "runs": [{"id": record.job.id, "name": record.request.get("name", "")} for record in found.records],
            "differences": [{"option": option, "values": list(values)} for option, values in found.differences],
            "curves": {record.job.id: list(record.curve) for record in found.records},
        }

    _runs(app, router)
    return router


def _runs(app: App, router: APIRouter) -> None:
    @router.get("/runs")
    async def runs() -> dict[str, Any]:
        """All runs, the newest first."""
        return {"runs": [_run(record) for record in await app.training.runs(OWNER)]}

    @router.get("/runs/{job_id}")
    async def run(job_id: str, after: int = 0) -> dict[str, Any]:
        """One run with the rows of its curve after so many; texts of its data, which may be somebody's conversations, for who manages alone."""
        record, who = await app.training.run(OWNER, job_id, max(0, after)), asking()
        if who is not None and not who.manages:
            record = replace(record, samples=(), proof=None if record.proof is None else {**record.proof, "answers": [], "worst": []})
        return {
            "run": _run(record),
            "args": dict(record.request),
            "curve": list(record.curve),
            "rows": record.rows,
            "samples": list(record.samples),
            "proof": record.proof,
            "log": list(record.job.log),
            "commands": list(record.commands),
        }

    @router.post("/runs/{job_id}/finish")
    async def finish(job_id: str) -> dict[str, Any]:
        """End it now and keep what was learned."""
        return _job(await app.training.finish(OWNER, job_id))

    @router.post("/runs/{job_id}/pause")
    async def pause(job_id: str) -> dict[str, Any]:
        """Stop it at a checkpoint."""
        return _job(await app.training.pause(OWNER, job_id))

    @router.post("/runs/{job_id}/cancel")
    async def cancel(job_id: str) -> dict[str, Any]:
        """End it for good."""
        return _job(await app.training.cancel(OWNER, job_id))

    @router.post("/runs/{job_id}/resume")
    async def resume(job_id: str) -> dict[str, Any]:
        """Go on from the last checkpoint."""
        return _job(await app.training.resume(OWNER, job_id))

    @router.post("/runs/{job_id}/notes")
    async def notes(job_id: str, body: NotesBody) -> dict[str, Any]:
        """Keep words about it."""
        await app.training.note(OWNER, job_id, body.text)
        return {"ok": True}

    @router.delete("/runs/{job_id}")
    async def remove(job_id: str) -> dict[str, Any]:
        """Forget it; the adapter stays."""
        await app.training.remove(OWNER, job_id)
        return {"ok": True}


def _job(job: JobSnapshot) -> dict[str, Any]:
    return {name: getattr(job, name) for name in JOB_FIELDS}


def _run(record: RunRecord) -> dict[str, Any]:
    told = {name: getattr(record, name) for name in ("loss", "held_out_loss", "verdict", "finishing", "notes")}
    request = record.request
    return {**_job(record.job), **told, "name": request.get("name", ""), "base": request.get("base", ""), "dataset": request.get("dataset", {}).get("name", "")}
