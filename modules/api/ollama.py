"""Ollama's API below /api, so that programs that know no other setting work: chat, generate, vectors, the lists of models.

What changes the collection of models is refused with a sentence: Paddock has other ways for that. Source: Ollama's public API reference.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import PlainTextResponse, Response

from modules.api.answers import JsonAnswer
from modules.api.completions import CLIENT_GONE
from modules.api.embeddings import numbers
from modules.api.errors import documented_errors
from modules.api.ollama_bodies import EmbedBody, EmbeddingsBody, ModelBody
from modules.api.ollama_names import ErrorSentence, OllamaRoute, capabilities, details, facts, resolved, row
from modules.api.ollama_writing import add_writing
from modules.api.owner import caller
from modules.api.sse import unless_gone
from modules.core.errors import AppError, NotOffered
from modules.core.generation import EmbeddingRequest, EngineCard
from modules.services.app import App

LEVEL = "0.12.11"  # of Ollama's API that is offered here; its clients ask for a least one
NEVER = timedelta(days=365)
REFUSED = ("pull", "push", "create", "copy", "delete", "blobs/{digest:path}")
REFUSAL = (
    "Paddock does not change its models over Ollama's API. Download, rename and delete them on the Models page, or begin a download with "
    "POST /v1/internal/jobs/download."
)


def ollama_router(app: App) -> APIRouter:
    """The routes over an `App`."""
    router = APIRouter(prefix="/api", route_class=OllamaRoute, responses=documented_errors(ErrorSentence))
    add_writing(app, router)
    _models(app, router)
    _vectors(app, router)

    async def refuse() -> None:
        raise NotOffered(REFUSAL)

    for path in REFUSED:
        router.add_api_route(f"/{path}", refuse, methods=["GET", "HEAD", "POST", "DELETE"], include_in_schema=False, response_model=None)

    async def nothing(rest: str) -> None:
        raise HTTPException(404)

    router.add_api_route("/{rest:path}", nothing, methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"], include_in_schema=False, response_model=None)
    return router


def greeting_router() -> APIRouter:
    """What stands at the address itself where there is no page: clients look whether anybody is there."""
    router = APIRouter()

    @router.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def greet() -> PlainTextResponse:
        """A line of text."""
        return PlainTextResponse("Paddock is running without its page. Its API is described at /v1/docs.\n")

    return router


def _models(app: App, router: APIRouter) -> None:
    def cards() -> dict[str, EngineCard]:
        return {card.name: card for card in app.models.status().loaded}

    @router.head("/version", include_in_schema=False)
    @router.get("/version")
    async def version() -> dict[str, str]:
        """The version of Ollama whose API this is like."""
        return {"version": LEVEL, "server": "Paddock"}

    @router.head("/tags", include_in_schema=False)
    @router.get("/tags")
    async def tags() -> dict[str, Any]:
        """All models that can be used, loaded ones first."""
        infos = [info for info in (*await app.models.list(), *await app.models.remote()) if not info.problem]
        loaded = cards()
        infos.sort(key=lambda info: (info.name not in loaded, info.name))
        return {"models": await asyncio.to_thread(lambda: [row(info) for info in infos])}

    @router.get("/ps")
    async def running() -> dict[str, Any]:
        """The loaded models."""
        left = timedelta(seconds=app.settings.idle_unload_s) if app.settings.idle_unload_s else NEVER
        rows = []
        for card in cards().values():
            info = await app.models.find(card.name)
            told = await asyncio.to_thread(row, info)
            expires = (datetime.now(UTC) + left).isoformat().replace("+00:00", "Z")
            rows.append({**told, "size": card.memory_bytes, "expires_at": expires, "size_vram": 0, "context_length": card.context_length})
        return {"models": rows}

    @router.post("/show")
    async def show(body: ModelBody) -> dict[str, Any]:
        """What a model is."""
        info = await app.models.find(await resolved(app, body.model) or next(iter(app.models.loaded_names()), ""))
        card = cards().get(info.name)
        return {
            "license": info.licence,
            "modelfile": f"# of Paddock, for reading only\nFROM {info.name}\n",
            "parameters": f"num_ctx {card.context_length}" if card else "",
            "template": await _template(app, info.name),
            "details": details(info),
            "model_info": facts(info, card),
            "capabilities": capabilities(info, card),
            "modified_at": (await asyncio.to_thread(row, info))["modified_at"],
        }


async def _template(app: App, name: str) -> str:
    """The chat template of a model that is loaded on this machine."""
    engine = app.models.loaded(name)
    if engine is None or engine.card.host or not engine.card.can_write:
        return ""
    try:
        return str((await engine.examine("template", {}))["text"])
    except AppError:  # it has none, or ended just now
        return ""


def _vectors(app: App, router: APIRouter) -> None:
    @router.post("/embed", response_model=None)
    async def embed(body: EmbedBody, request: Request) -> Response:
        """Vectors of texts, each of length 1."""
        begun_ns = time.monotonic_ns()
        texts = (body.input,) if isinstance(body.input, str) else tuple(body.input)
        head = {"model": body.model, "embeddings": []}
        if not any(texts):
            await app.models.get(await resolved(app, body.model))
            return JsonAnswer(head)
        asked = EmbeddingRequest(inputs=texts, normalize=True, dimensions=body.dimensions, person=caller(request).person)
        found = await unless_gone(request, app.embeddings.embed(asked, await resolved(app, body.model)))
        if found is None:
            return Response(status_code=CLIENT_GONE)
        taken = {"total_duration": time.monotonic_ns() - begun_ns, "load_duration": 0, "prompt_eval_count": found.prompt_tokens}
        return JsonAnswer({**head, "embeddings": [numbers(vector) for vector in found.vectors], **taken})

    @router.post("/embeddings", response_model=None)
    async def embeddings(body: EmbeddingsBody, request: Request) -> Response:
        """The vector of one text, as the model's files say."""
        name = await resolved(app, body.model)
        if not body.prompt:
            await app.models.get(name)
            return JsonAnswer({"embedding": []})
        found = await unless_gone(request, app.embeddings.embed(EmbeddingRequest(inputs=(body.prompt,), person=caller(request).person), name))
        return JsonAnswer({"embedding": numbers(found.vectors[0])}) if found is not None else Response(status_code=CLIENT_GONE)
