"""The page's routes for models and adapters as collections: facts, notes, pin, rename, bin, verify, what is newer at the hub.

Both have the same ones, below /ui/library and /ui/adapter-library. Names contain slashes, so they come in bodies, never in addresses.
"""

from __future__ import annotations

from dataclasses import asdict
from ipaddress import ip_address
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from modules.api.owner import OWNER
from modules.api.view_model_folders import model_folders_router
from modules.services.app import App
from modules.services.library import LibraryService

NAME_LIMIT = 1000
NOTE_BODY_LIMIT = 20_000  # the service says what is too long


class NameBody(BaseModel):
    """A model or adapter, as the list names it."""

    name: str = Field(max_length=NAME_LIMIT)


class NoteBody(NameBody):
    """A note about it; empty forgets it."""

    note: str = Field("", max_length=NOTE_BODY_LIMIT)


class RenameBody(NameBody):
    """Another name for its file or folder."""

    new_name: str = Field(max_length=NAME_LIMIT)


class PinBody(NameBody):
    """Whether a model is pinned."""

    pinned: bool


class BinBody(BaseModel):
    """Something in the bin."""

    id: str = Field(max_length=60)


def library_routers(app: App) -> tuple[APIRouter, ...]:
    """The routes of both libraries, and of the folders of other programs."""
    both = ((app.library, "/ui/library"), (app.adapter_library, "/ui/adapter-library"))
    return (model_folders_router(app), _pins(app), *(router for library, prefix in both for router in (_library(library, prefix), _bin(library, prefix), _folders(app, library, prefix))))


def _is_local(request: Request) -> bool:
    """Whether the page is used on this machine: a proxy's word for it does not count."""
    told = any(name in request.headers for name in ("forwarded", "x-forwarded-for", "x-real-ip"))
    try:
        return request.client is not None and not told and ip_address(request.client.host).is_loopback
    except ValueError:  # a name, as some proxies and tests give
        return False


def _folders(app: App, library: LibraryService, prefix: str) -> APIRouter:
    router = APIRouter(prefix=prefix)

    @router.post("/folder")
    async def folder(body: NameBody, request: Request) -> dict[str, Any]:
        """Show where it lies in the file manager, for a page on this machine; the place itself is told to everybody who may delete it."""
        place = await library.folder_of(body.name)
        return {"folder": str(place), "shown": _is_local(request) and await app.file_manager.show(place)}

    return router


def _pins(app: App) -> APIRouter:
    router = APIRouter(prefix="/ui/library")

    @router.post("/pin")
    async def pin(body: PinBody) -> dict[str, Any]:
        """Pin a model, so that it is neither unloaded by idleness nor makes room; or take the pin off."""
        await app.models.pin(body.name, body.pinned)
        return {"pinned": body.pinned}

    return router


def _library(library: LibraryService, prefix: str) -> APIRouter:
    router = APIRouter(prefix=prefix)

    @router.get("")
    async def shelf() -> dict[str, Any]:
        """What is known of each beside its header, and what is in the bin."""
        return {"rows": [asdict(row) for row in await library.shelf()], "bin": [asdict(row) for row in await library.bin()]}

    @router.post("/note")
    async def note(body: NoteBody) -> dict[str, Any]:
        """Keep a note."""
        return {"note": await library.set_note(body.name, body.note)}

    @router.post("/rename")
    async def rename(body: RenameBody) -> dict[str, Any]:
        """Rename it."""
        return {"name": await library.rename(body.name, body.new_name)}

    @router.post("/verify")
    async def verify(body: NameBody) -> dict[str, Any]:
        """Begin to compare all its files with what they should be: a job."""
        return {"id": (await library.verify(OWNER, body.name)).id}

    @router.post("/check-update")
    async def check_update(body: NameBody) -> dict[str, Any]:
        """Ask the hub what is newer."""
        return asdict(await library.check_update(body.name))

    return router


def _bin(library: LibraryService, prefix: str) -> APIRouter:
    router = APIRouter(prefix=prefix)

    @router.post("/delete")
    async def delete(body: NameBody) -> dict[str, Any]:
        """Put it into the bin."""
        return asdict(await library.delete(body.name))

    @router.post("/restore")
    async def restore(body: BinBody) -> dict[str, Any]:
        """Bring it back."""
        return {"name": await library.restore(body.id)}

    @router.post("/discard")
    async def discard(body: BinBody) -> dict[str, Any]:
        """Delete it for good."""
        await library.discard(body.id)
        return {"ok": True}

    return router
