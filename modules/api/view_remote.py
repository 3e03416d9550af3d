"""The page's routes for other servers whose models can be used: look, try, add, remove. Keys come in and never go out."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field, SecretStr

from modules.services.app import App
from modules.services.remote import ServerLook

LENGTH_LIMIT = 1000  # of names and addresses; what is too long the service says
COUNT_LIMIT = 100


class ServerBody(BaseModel):
    """A server as the page describes it."""

    name: str = Field("", max_length=LENGTH_LIMIT)
    urls: list[str] = Field(max_length=COUNT_LIMIT)
    key: SecretStr | None = None
    kind: str = Field("auto", max_length=40)
    aliases: dict[str, list[str]] = Field(default_factory=dict, max_length=COUNT_LIMIT)


class NameBody(BaseModel):
    """A server by its name."""

    name: str = Field(max_length=LENGTH_LIMIT)


def remote_router(app: App) -> APIRouter:
    """The routes below /ui/remote."""
    router = APIRouter(prefix="/ui/remote")

    @router.get("")
    async def servers() -> dict[str, Any]:
        """All servers and how their addresses are now; they are checked for a while after this."""
        return {"servers": [_row(look) for look in await app.remote.look()]}

    @router.post("/test")
    async def test(body: ServerBody) -> dict[str, Any]:
        """Look at a server without keeping it."""
        return _row(await app.remote.test(body.model_dump()))

    @router.post("/add")
    async def add(body: ServerBody) -> dict[str, Any]:
        """Keep a server."""
        await app.remote.add(body.model_dump())
        return {"ok": True}

    @router.post("/remove")
    async def remove(body: NameBody) -> dict[str, Any]:
        """Forget a server with its key, and unload its models."""
        await app.remote.remove(body.name)
        return {"ok": True}

    return router


def _row(look: ServerLook) -> dict[str, Any]:
    addresses = [{**asdict(address), "models": len(address.models)} for address in look.addresses]
    models = [{"name": name, "context_length": length} for name, length in sorted(look.models.items())]
    return {
        "name": look.name,
        "kind": look.kind,
        "has_key": look.has_key,
        "key_is_open": look.key_is_open,
        "leaves": look.leaves,
        "addresses": addresses,
        "models": models,
        "aliases": {name: list(names) for name, names in look.aliases.items()},
    }
