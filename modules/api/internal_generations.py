"""What the model would see of a conversation, and stopping what is written; health once more where TextGen's clients look for it.

Paths and fields are those of TextGen's public API where it has them; further fields are ours.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from modules.api.answers import JsonAnswer
from modules.api.chat_parts import chat_request
from modules.api.errors import documented_errors
from modules.api.owner import Caller, caller
from modules.api.schemas import ChatRequest
from modules.core.generation import ChatPrompt
from modules.core.model import AdapterChoice
from modules.services.adapters import choices_from
from modules.services.app import App

OK = "OK"


class StopBody(BaseModel):
    """What to stop; empty stops everything of yours."""

    id: str = Field("", max_length=100, description="Id of an answer, as its first piece and its response tell it.")


class AdaptersBody(BaseModel):
    """LoRA adapters by name; a scale for each, in the same order, where it is not 1."""

    lora_names: list[str] = Field(max_length=16)
    scales: list[float] = Field(default_factory=list, max_length=16)
    model: str = Field("", max_length=1000)

    def choices(self) -> tuple[AdapterChoice, ...]:
        """The adapters with their scales.

        Raises:
            InvalidRequest: one twice, or a scale outside its limits.
        """
        scales = [*self.scales, *[1.0] * len(self.lora_names)]
        return choices_from([{"name": name, "scale": scale} for name, scale in zip(self.lora_names, scales, strict=False)]) or ()


def internal_generations_router(app: App) -> APIRouter:
    """The routes below /v1/internal."""
    router = APIRouter(prefix="/v1/internal", responses=documented_errors())

    @router.post("/chat-prompt", response_model=None)
    async def chat_prompt(body: ChatRequest, request: Request) -> JsonAnswer:
        """The prompt that the model would get for a chat request: text, tokens and the template that made it. Nothing is written."""
        return JsonAnswer(await _prompt(app, body, caller(request)))

    @router.post("/stop-generation")
    async def stop(body: StopBody | None = None) -> str:
        """Stop one answer by its id, or all generations of who asks; each ends with the text so far."""
        await app.queues.stop(body.id if body else "")
        return OK

    @router.get("/health")
    async def health() -> dict[str, Any]:
        """Whether the server answers."""
        return {"status": "ok"}

    return router


def lora_router(app: App) -> APIRouter:
    """LoRA adapters as TextGen's clients ask for them; /v1/internal/adapters tells more."""
    router = APIRouter(prefix="/v1/internal/lora", responses=documented_errors())

    @router.get("/list")
    async def listing() -> dict[str, Any]:
        """Names of all adapters that can be used."""
        return {"lora_names": [row.name for row in await app.models.adapters() if not row.problem]}

    @router.post("/load")
    async def load(body: AdaptersBody) -> str:
        """Put these into use beside those that are, on a loaded model."""
        engine = await app.models.get(body.model)
        wanted = {choice.name: choice for choice in (*engine.card.adapters, *body.choices())}
        await app.adapters.apply(engine.name, tuple(wanted.values()))
        return OK

    @router.post("/unload")
    async def unload() -> str:
        """Take all adapters off the model used last."""
        await app.adapters.apply("", ())
        return OK

    return router


async def _prompt(app: App, body: ChatRequest, who: Caller) -> dict[str, Any]:
    asked = await chat_request(app, body, who)
    prompt = asked.prompt
    assert isinstance(prompt, ChatPrompt)
    seen = await app.generation.render(prompt, asked.params, body.model)
    engine = await app.models.get(body.model)
    tokens = seen["tokens"]
    return {
        "prompt": seen["text"],
        "token_ids": [token_id for token_id, _, _ in tokens],
        "tokens": [{"id": token_id, "text": piece, "message": None if place < 0 else place} for token_id, piece, place in tokens],
        "length": len(tokens),
        "template": {**seen["template"], "name": body.prompt_template or app.generation.template_in_force(engine.card)},
        "model": engine.name,
        "context_length": seen["context_length"],
    }
