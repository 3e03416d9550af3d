"""Text to token ids and back, counts, and the likeliest next tokens: POST /v1/internal/encode, decode, token-count and logits.

The shapes are those that clients of other local servers know. Token ids are of the plain text, without a token that a model puts in front.
"""

from __future__ import annotations

import asyncio
from math import exp
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, model_validator

from modules.api.answers import JsonAnswer
from modules.api.errors import documented_errors
from modules.api.schemas import TEXT_LIMIT, SamplingFields, TokenIds
from modules.api.textgen_fields import textgen_names
from modules.core.generation import TextPrompt
from modules.core.model import AdapterChoices
from modules.core.params import GenerationParams
from modules.services.app import App

MOST_IDS = 1_048_576


class TextBody(BaseModel):
    """A text, and the model whose tokens are meant."""

    text: str = Field(max_length=TEXT_LIMIT)
    model: str = ""


class TokensBody(BaseModel):
    """Token ids of a model."""

    tokens: TokenIds = Field(max_length=MOST_IDS)
    model: str = ""


class LogitsBody(SamplingFields):
    """A text whose next token is asked about; with `use_samplers` the sampling fields act on the probabilities."""

    model_config = ConfigDict(extra="ignore")

    prompt: str = Field(max_length=TEXT_LIMIT)
    model: str = ""
    top_logits: int = Field(50, ge=1, le=500)
    use_samplers: bool = Field(False, description="The probabilities as the samplers leave them, instead of the model's own.")
    preset: str = ""
    adapters: AdapterChoices | None = None

    @model_validator(mode="before")
    @classmethod
    def _names_of_textgen(cls, values: Any) -> Any:
        return textgen_names(values) if isinstance(values, dict) else values

    async def params(self, app: App) -> GenerationParams | None:
        """What acts on the probabilities; None: nothing."""
        if not self.use_samplers:
            return None
        given = {name: value for name in SamplingFields.model_fields if (value := getattr(self, name)) is not None}
        return await asyncio.to_thread(app.presets.merge, self.preset, given)


def internal_router(app: App) -> APIRouter:
    """The routes over an `App`."""
    router = APIRouter(prefix="/v1/internal", responses=documented_errors())

    @router.post("/encode")
    async def encode(body: TextBody) -> dict[str, Any]:
        """Token ids of a text."""
        tokens = await app.generation.tokenize(body.text, body.model)
        return {"tokens": tokens, "length": len(tokens)}

    @router.post("/decode", response_model=None)
    async def decode(body: TokensBody) -> JsonAnswer:
        """The text of token ids, special tokens as they are written."""
        return JsonAnswer({"text": await app.generation.detokenize(body.tokens, body.model)})

    @router.post("/token-count")
    async def count(body: TextBody) -> dict[str, int]:
        """How many tokens a text has."""
        return {"length": len(await app.generation.tokenize(body.text, body.model))}

    @router.post("/logits", response_model=None)
    async def logits(body: LogitsBody) -> JsonAnswer:
        """The likeliest next tokens after a text, with their probabilities, best first."""
        found = await app.generation.next_tokens(TextPrompt(text=body.prompt), body.top_logits, body.model, body.adapters, await body.params(app))
        named: dict[str, float] = {}
        for entry in found:
            named.setdefault(entry.text, exp(entry.logprob))
        return JsonAnswer({"logits": named})

    return router
