"""The page's routes for characters and the person's own profiles: list, read, edit, picture, files in and out, bin."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from modules.core.errors import NotFound
from modules.services.app import App
from modules.services.characters import CharacterService, FileForm


class CardBody(BaseModel):
    """Fields of a card; without a name it is a new one."""

    name: str = Field("", max_length=100)
    values: dict[str, Any]


class MarkBody(BaseModel):
    """Which deleted card."""

    mark: str = Field(max_length=40)


def character_routers(app: App) -> tuple[APIRouter, ...]:
    """Routes below /ui/characters and /ui/profiles."""
    kinds = ((app.casting.characters, "/ui/characters"), (app.casting.profiles, "/ui/profiles"))
    return tuple(make(service, prefix) for service, prefix in kinds for make in (_cards, _files))


def _cards(service: CharacterService, prefix: str) -> APIRouter:
    """Texts: list, read, edit, delete."""
    router = APIRouter(prefix=prefix)

    @router.get("")
    async def listing() -> dict[str, Any]:
        """All cards, and what can be edited of one."""
        return {"cards": [asdict(row) for row in await service.list()], "fields": service.fields()}

    @router.post("")
    async def save(body: CardBody) -> dict[str, Any]:
        """Save a new or an edited card."""
        return {"name": await service.save(body.values, body.name)}

    @router.post("/restore")
    async def restore(body: MarkBody) -> dict[str, Any]:
        """Put a deleted card back."""
        return {"name": await service.restore(body.mark)}

    @router.get("/{name}")
    async def read(name: str) -> dict[str, Any]:
        """The texts of a card."""
        text, lore = await service.read(name)
        return {"values": text.model_dump(), "lore": lore}

    @router.delete("/{name}")
    async def delete(name: str) -> dict[str, Any]:
        """Move a card into the bin."""
        return {"mark": await service.delete(name)}

    return router


def _files(service: CharacterService, prefix: str) -> APIRouter:
    """Files in and out, and pictures."""
    router = APIRouter(prefix=prefix)

    @router.post("/import")
    async def import_(request: Request) -> dict[str, Any]:
        """A card from a file, which is the body."""
        return {"name": await service.add(await request.body())}

    @router.get("/{name}/picture", response_model=None)
    async def picture(name: str) -> Response:
        """The picture; its address changes when it does."""
        file = await service.picture(name)
        if file is None:
            raise NotFound(f"“{name[:100]}” has no picture.")
        return Response(file, media_type="image/png", headers={"cache-control": "private, max-age=86400"})

    @router.put("/{name}/picture")
    async def set_picture(name: str, request: Request) -> dict[str, Any]:
        """Give a picture: a PNG file, which is the body; an empty one takes it away."""
        await service.set_picture(name, await request.body() or None)
        return {"ok": True}

    @router.get("/{name}/file/{form}", response_model=None)
    async def file(name: str, form: FileForm) -> Response:
        """The card as a file to pass on."""
        content = await service.file(name, form)
        suffix, kind = ("png", "image/png") if form == "png" else ("json", "application/json")
        headers = {"content-disposition": f"attachment; filename*=UTF-8''{quote(name)}.{suffix}"}
        return Response(content, media_type=kind, headers=headers)

    return router
