"""Long work over the API: the kinds there are, and one route that begins each, with the arguments that the page has for it.

What is done is the business of the services that the page asks too. Arguments are names, never paths.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from modules.api.errors import documented_errors
from modules.api.jobs import told
from modules.api.owner import OWNER
from modules.api.view_adapter_files import ConvertBody, MergeBody
from modules.api.view_hub import DownloadBody
from modules.api.view_library import NAME_LIMIT
from modules.core.job import JobSnapshot
from modules.services.app import App
from modules.services.perplexity import PerplexityRequest
from modules.services.training import RunRequest


class VerifyBody(BaseModel):
    """A model or an adapter of this machine."""

    name: str = Field(max_length=NAME_LIMIT)
    what: Literal["model", "adapter"] = "model"


# By the kind of job what a client says to begin one; a test holds it against the kinds there are
ARGUMENTS: Mapping[str, type[BaseModel]] = MappingProxyType({
    "download": DownloadBody, "train": RunRequest, "examine": RunRequest, "perplexity": PerplexityRequest, "verify": VerifyBody,
    "convert_adapter": ConvertBody, "merge_adapter": MergeBody,
})  # fmt: skip


def internal_jobs_router(app: App) -> APIRouter:
    """The routes below /v1/internal/jobs that begin work."""
    router = APIRouter(prefix="/v1/internal/jobs", responses=documented_errors())

    @router.get("/kinds")
    async def kinds() -> dict[str, Any]:
        """The kinds of work, each with a JSON schema of the body that begins one at POST /v1/internal/jobs/KIND."""
        rows = [(kind, ARGUMENTS.get(kind.name)) for kind in app.jobs.kinds()]
        return {"kinds": [{"name": kind.name, "title": kind.title, "lane": kind.lane, "args": model.model_json_schema()} for kind, model in rows if model is not None]}

    @router.post("/download")
    async def download(body: DownloadBody) -> dict[str, Any]:
        """Fetch files of a repository of the hub."""
        return _begun(await app.hub.download(OWNER, body.model_dump()))

    @router.post("/train")
    async def train(body: RunRequest) -> dict[str, Any]:
        """Train an adapter."""
        return _begun(await app.training.start(OWNER, body.model_dump(mode="json")))

    @router.post("/examine")
    async def examine(body: RunRequest) -> dict[str, Any]:
        """Look at what a run would learn, and try two steps; what was found is in /v1/internal/jobs/ID/examination."""
        return _begun(await app.training.check(OWNER, body.model_dump(mode="json")))

    @router.post("/perplexity")
    async def perplexity(body: PerplexityRequest) -> dict[str, Any]:
        """Measure models on a text: a job for each that was not measured so yet, and `known` of those that were."""
        begun = await app.perplexity.begin(OWNER, body.model_dump(mode="json"))
        return {**_begun(*begun.jobs), "known": [row.model_dump(exclude={"owner"}) for row in begun.known]}

    @router.post("/verify")
    async def verify(body: VerifyBody) -> dict[str, Any]:
        """Compare all files of a model or adapter with what they should be."""
        library = app.library if body.what == "model" else app.adapter_library
        return _begun(await library.verify(OWNER, body.name))

    @router.post("/convert_adapter")
    async def convert_adapter(body: ConvertBody) -> dict[str, Any]:
        """Make a GGUF adapter of an adapter."""
        return _begun(await app.adapter_files.convert(OWNER, body.name, body.model))

    @router.post("/merge_adapter")
    async def merge_adapter(body: MergeBody) -> dict[str, Any]:
        """Merge an adapter into its base model."""
        return _begun(await app.adapter_files.merge(OWNER, body.name, body.target, body.scale, body.model))

    _found(app, router)
    return router


def _found(app: App, router: APIRouter) -> None:
    @router.get("/{job_id}/examination")
    async def examination(job_id: str) -> dict[str, Any]:
        """What a look at a run's data found; null until then."""
        _, found = await app.training.examination(OWNER, job_id)
        return {"examination": found}

    @router.post("/{job_id}/finish")
    async def finish(job_id: str) -> dict[str, Any]:
        """End a training run after the step it is at, and keep what it has learned."""
        return told(await app.training.finish(OWNER, job_id))

    @router.get("/perplexity/table")
    async def table() -> dict[str, Any]:
        """All measurements so far."""
        return {"rows": [row.model_dump(exclude={"owner"}) for row in (await app.perplexity.standing(OWNER)).rows]}


def _begun(*jobs: JobSnapshot) -> dict[str, Any]:
    return {"jobs": [told(job) for job in jobs]}
