"""The page's routes for models as a collection: facts, notes, pin, rename, bin, verify, what is newer at the hub.

Names of models contain slashes, so they come in bodies, never in addresses.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field

from modules.api.owner import OWNER
from modules.services.app import App

NAME_LIMIT = 1000
NOTE_BODY_LIMIT = 20_000  # the service says what is too long


class ModelBody(BaseModel):
    """A model, as the list names it."""

    name: str = Field(max_length=NAME_LIMIT)


class NoteBody(ModelBody):
    """A note about a model; empty forgets it."""

    note: str = Field("", max_length=NOTE_BODY_LIMIT)


class RenameBody(ModelBody):
    """Another name for a model's file or folder."""

    new_name: str = Field(max_length=NAME_LIMIT)


class PinBody(ModelBody):
    """Whether a model is pinned."""

    pinned: bool


class BinBody(BaseModel):
    """Something in the bin."""

    id: str = Field(max_length=60)


def library_routers(app: App) -> tuple[APIRouter, ...]:
    """The routes below /ui/library."""
    return _library(app), _bin(app)


def _library(app: App) -> APIRouter:
    router = APIRouter(prefix="/ui/library")

    @router.get("")
    async def shelf() -> dict[str, Any]:
        """What is known of the models beside their headers, and what is in the bin."""
        return {"models": [asdict(row) for row in await app.library.shelf()], "bin": [asdict(row) for row in await app.library.bin()]}

    @router.post("/note")
    async def note(body: NoteBody) -> dict[str, Any]:
        """Keep a note."""
        return {"note": await app.library.set_note(body.name, body.note)}

    @router.post("/pin")
    async def pin(body: PinBody) -> dict[str, Any]:
        """Pin a model, so that it is neither unloaded by idleness nor makes room; or take the pin off."""
        await app.models.pin(body.name, body.pinned)
        return {"pinned": body.pinned}

    @router.post("/rename")
    async def rename(body: RenameBody) -> dict[str, Any]:
        """Rename a model."""
        return {"name": await app.library.rename(body.name, body.new_name)}

    @router.post("/verify")
    async def verify(body: ModelBody) -> dict[str, Any]:
        """Begin to compare all its files with what they should be: a job."""
        return {"id": (await app.library.verify(OWNER, body.name)).id}

    @router.post("/check-update")
    async def check_update(body: ModelBody) -> dict[str, Any]:
        """Ask the hub what is newer."""
        return asdict(await app.library.check_update(body.name))

    return router


def _bin(app: App) -> APIRouter:
    router = APIRouter(prefix="/ui/library")

    @router.post("/delete")
    async def delete(body: ModelBody) -> dict[str, Any]:
        """Put a model into the bin."""
        return asdict(await app.library.delete(body.name))

    @router.post("/restore")
    async def restore(body: BinBody) -> dict[str, Any]:
        """Bring it back."""
        return {"name": await app.library.restore(body.id)}

    @router.post("/discard")
    async def discard(body: BinBody) -> dict[str, Any]:
        """Delete it for good."""
        await app.library.discard(body.id)
        return {"ok": True}

    return router
