"""The page's routes for folders of other programs whose models are used where they lie."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field

from modules.services.app import App


class FolderBody(BaseModel):
    """A folder of this machine."""

    path: str = Field(min_length=1, max_length=4000)


class TagBody(BaseModel):
    """A folder of the list."""

    tag: str = Field(max_length=100)


def model_folders_router(app: App) -> APIRouter:
    """The routes below /ui/model-folders."""
    router = APIRouter(prefix="/ui/model-folders")

    @router.get("")
    async def rows() -> dict[str, Any]:
        """Folders in use, and those that could be."""
        return {"rows": [asdict(row) for row in await app.model_folders.rows()]}

    @router.post("/add")
    async def add(body: FolderBody) -> dict[str, Any]:
        """Use its models."""
        return asdict(await app.model_folders.add(body.path))

    @router.post("/remove")
    async def remove(body: TagBody) -> dict[str, Any]:
        """Use them no more."""
        await app.model_folders.remove(body.tag)
        return {"ok": True}

    return router
