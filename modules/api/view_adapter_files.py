"""The page's routes for what can be made of an adapter: a chat that tries it, a GGUF file, a merged model, a zip archive."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from modules.api.owner import OWNER, owner
from modules.services.app import App

NAME_LIMIT = 400


class ConvertBody(BaseModel):
    """An adapter, and the model it is for; empty is the one that it names."""

    name: str = Field(max_length=NAME_LIMIT)
    model: str = Field("", max_length=NAME_LIMIT)


class TryBody(ConvertBody):
    """An adapter to be tried at a scale."""

    scale: float = Field(1, ge=-4, le=4)


class MergeBody(TryBody):
    """An adapter to be merged, and what to call the result; empty takes the names of both."""

    target: str = Field("", max_length=200)


def adapter_files_router(app: App) -> APIRouter:
    """The routes over an `App`."""
    router = APIRouter(prefix="/ui/adapters")

    @router.post("/try")
    async def try_(body: TryBody) -> dict[str, Any]:
        """Load its base model if need be, and a conversation with the adapter on it."""
        return asdict(await app.adapter_files.try_in_chat(owner(), body.name, body.scale, body.model))

    @router.post("/files/convert")
    async def convert(body: ConvertBody) -> dict[str, Any]:
        """Begin to make a GGUF adapter of it: a job."""
        return {"job": (await app.adapter_files.convert(OWNER, body.name, body.model)).id}

    @router.post("/files/merge")
    async def merge(body: MergeBody) -> dict[str, Any]:
        """Begin to merge it into its base model: a job."""
        return {"job": (await app.adapter_files.merge(OWNER, body.name, body.target, body.scale, body.model)).id}

    @router.get("/files/download", response_model=None)
    async def download(name: str) -> StreamingResponse:
        """All its files as a zip archive."""
        archive = await app.adapter_files.download(name[:NAME_LIMIT])
        headers = {"content-disposition": f"attachment; filename*=UTF-8''{quote(archive.filename)}"}
        return StreamingResponse(archive.pieces, media_type="application/zip", headers=headers)

    return router
