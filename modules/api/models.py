"""GET /v1/models, in OpenAI's shape with a few more facts, the engine's counters, and /health."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request

from modules.api.anthropic_errors import VERSION_HEADER
from modules.api.anthropic_models import anthropic_list, anthropic_model
from modules.api.auth import STRANGER
from modules.api.errors import documented_errors
from modules.core.errors import NotFound
from modules.core.generation import EngineCard
from modules.core.model import ModelInfo
from modules.services.app import App


def _entry(info: ModelInfo, cards: Mapping[str, EngineCard]) -> dict[str, Any]:
    card = cards.get(info.name)
    return {
        "id": info.name,
        "object": "model",
        "created": 0,
        "owned_by": info.host or "local",
        "loaded": card is not None,
        "vision": card.vision if card else None,  # whether messages may have images; not known before it is loaded
        "can_write": info.can_write,
        "can_embed": card.can_embed if card else None,
        "context_length": info.context_length,
        "architecture": info.architecture,
        "quantization": info.quantization,
        "size_bytes": info.size_bytes,
    }


def models_router(app: App) -> APIRouter:
    """The model list over an `App`."""
    router = APIRouter(responses=documented_errors())

    def loaded_cards() -> dict[str, EngineCard]:
        return {card.name: card for card in app.models.status().loaded}

    @router.get("/v1/models")
    async def models(request: Request) -> dict[str, Any]:
        """All models that can be used, loaded ones first; for Anthropic's clients in their shape."""
        infos = [info for info in (*await app.models.list(), *await app.models.remote()) if not info.problem]
        cards = loaded_cards()
        infos.sort(key=lambda info: (info.name not in cards, info.name))
        return anthropic_list(infos) if VERSION_HEADER in request.headers else {"object": "list", "data": [_entry(info, cards) for info in infos]}

    @router.get("/v1/models/{name:path}")
    async def model(name: str, request: Request) -> dict[str, Any]:
        """One model."""
        info = await app.models.find(name)
        return anthropic_model(info) if VERSION_HEADER in request.headers else _entry(info, loaded_cards())

    @router.get("/v1/internal/counters")
    async def counters(model: str = "") -> dict[str, Any]:
        """What the engine of a loaded model is doing now; empty is the model used last."""
        loaded = app.models.loaded_names()
        if model and model not in loaded:
            raise NotFound(f"“{model}” is not loaded, so nothing is counted; loaded: {', '.join(loaded) or 'nothing'}.")
        return asdict(await app.generation.counters(model))

    @router.get("/health")
    async def health(request: Request) -> dict[str, Any]:
        """Whether the server answers; and which models are ready, for who is known or where nobody has to be."""
        if request.scope.get(STRANGER):
            return {"status": "ok"}
        status = app.models.status()
        return {"status": "ok", "loaded": [card.name for card in status.loaded], "loading": status.loading.name if status.loading else None}

    return router
