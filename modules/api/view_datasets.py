"""The page's routes for data sets: what is there, uploads, a look at rows and samples, deleting. Names are in bodies and queries, never in addresses."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.requests import ClientDisconnect

from modules.api.guard import DATASET_LIMIT_BYTES
from modules.api.owner import OWNER
from modules.core.errors import InvalidRequest
from modules.core.job import JobSnapshot
from modules.services.app import App
from modules.services.datasets import format_choices

NAME_LIMIT = 300
JOB_FIELDS = ("id", "title", "status", "stopping", "paused", "place", "done", "total", "error", "result")


class DatasetNameBody(BaseModel):
    """A data set, as the list names it."""

    name: str = Field(max_length=NAME_LIMIT)


class DatasetBody(DatasetNameBody):
    """A data set and how it is read."""

    format: str = Field(max_length=40)
    columns: dict[str, str] = Field(default_factory=dict, max_length=32)


class ReferenceBody(BaseModel):
    """A file of a data set of the hub, as a person names it."""

    reference: str = Field(max_length=1000)


def datasets_router(app: App) -> APIRouter:
    """Everything below /ui/datasets but what is made of conversations."""
    router = APIRouter(prefix="/ui/datasets")

    @router.get("")
    async def listing() -> dict[str, Any]:
        """All data sets."""
        return {"datasets": [asdict(row) for row in await app.datasets.rows()]}

    @router.get("/fetching")
    async def fetching() -> dict[str, Any]:
        """Those on their way from the hub."""
        return {"jobs": [_job(job) for job in await app.dataset_fetching.fetching(OWNER)]}

    @router.post("/fetching")
    async def fetch(body: ReferenceBody) -> dict[str, Any]:
        """Begin to fetch a file of a data set of the hub."""
        return _job(await app.dataset_fetching.fetch(OWNER, body.reference))

    @router.post("/upload")
    async def upload(request: Request, name: str) -> dict[str, Any]:
        """A file as the whole body."""
        length = request.headers.get("content-length", "")
        return {"name": await app.datasets.upload(name[:NAME_LIMIT], _pieces(request), limit_bytes=DATASET_LIMIT_BYTES, length=int(length) if length.isdigit() else None)}

    @router.get("/look")
    async def look(name: str) -> dict[str, Any]:
        """Its first rows, and what they seem to be."""
        return {**asdict(await app.datasets.look(name[:NAME_LIMIT])), "formats": [asdict(choice) for choice in format_choices()]}

    @router.post("/preview")
    async def preview(body: DatasetBody) -> dict[str, Any]:
        """The samples that its rows become."""
        return asdict(await app.datasets.preview(body.name, body.format, body.columns))

    @router.post("/delete")
    async def delete(body: DatasetNameBody) -> dict[str, Any]:
        """Delete it for good."""
        await app.datasets.delete(body.name)
        return {"ok": True}

    return router


def _job(job: JobSnapshot) -> dict[str, Any]:
    return {name: getattr(job, name) for name in JOB_FIELDS}


async def _pieces(request: Request) -> AsyncIterator[bytes]:
    """The body as it arrives; a client that leaves is no defect."""
    try:
        async for piece in request.stream():
            yield piece
    except ClientDisconnect as error:
        raise InvalidRequest("The upload broke off; nothing of it was kept. Upload the file again.") from error
