"""LoRA adapters: whether each fits the model at hand, and which ones are in use on it. For the page, and in the same way for API clients."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field

from modules.api.errors import documented_errors
from modules.core.model import AdapterChoices
from modules.services.adapters import AdapterRow
from modules.services.app import App

SHOWN = ("name", "format", "size_bytes", "base_model", "rank")


class UseBody(BaseModel):
    """Adapters for a loaded model, exactly these."""

    model: str = Field("", max_length=400)
    adapters: AdapterChoices


def adapters_router(app: App, prefix: str = "/ui") -> APIRouter:
    """The routes below `prefix`."""
    router = APIRouter(prefix=f"{prefix}/adapters", responses=documented_errors())

    async def listing(model: str) -> dict[str, Any]:
        loaded = {card.name: card for card in app.models.status().loaded}
        name = model or next(iter(app.models.loaded_names()), "")
        in_use = loaded[name].adapters if name in loaded else ()
        rows = await app.adapters.list(name)
        return {"model": name, "adapters": [_shown(row) for row in rows], "in_use": [choice.model_dump() for choice in in_use]}

    @router.get("")
    async def read(model: str = "") -> dict[str, Any]:
        """All adapters, looked at for a model; empty is the one used last."""
        return await listing(model[:400])

    @router.put("")
    async def use(body: UseBody) -> dict[str, Any]:
        """Put exactly these into use on a model, for all that choose none themselves."""
        await app.adapters.apply(body.model, body.adapters)
        return await listing(body.model)

    return router


def _shown(row: AdapterRow) -> dict[str, Any]:
    facts = {name: getattr(row.info, name) for name in SHOWN}
    return {**facts, "targets": row.targets, "problem": row.problem, "note": row.note}
