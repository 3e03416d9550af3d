"""POST /v1/internal/score: how likely texts are, token by token, for ranking answers and measuring models."""

from __future__ import annotations

from math import exp, inf, isfinite
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field, field_validator

from modules.api.answers import JsonAnswer
from modules.api.completions import CLIENT_GONE
from modules.api.errors import documented_errors
from modules.api.owner import caller
from modules.api.schemas import TEXT_LIMIT
from modules.api.sse import unless_gone
from modules.core.model import AdapterChoices
from modules.services.app import App
from modules.services.scores import Score

MOST_TEXTS = 256
MOST_EXPONENT = 700.0  # e to the power of more is no number


class ScoreBody(BaseModel):
    """Texts to be scored, each behind the same context."""

    text: str | list[str] = Field(description="A text, or several that are scored one by one.")
    context: str = Field("", max_length=TEXT_LIMIT, description="What stands before each of them; its own tokens are not scored.")
    model: str = ""
    adapters: AdapterChoices | None = Field(None, description="LoRA adapters of loras/ for this request alone; without it those in use on the model.")

    @field_validator("text")
    @classmethod
    def _bounded(cls, value: str | list[str]) -> str | list[str]:
        texts = [value] if isinstance(value, str) else value
        if not texts or not all(texts):
            raise ValueError("nothing to score; send a text, or a list of texts")
        if len(texts) > MOST_TEXTS or sum(map(len, texts)) > TEXT_LIMIT:
            raise ValueError(f"at most {MOST_TEXTS} texts and {TEXT_LIMIT} characters at a time; got {len(texts)} and {sum(map(len, texts))}")
        return value

    @property
    def texts(self) -> list[str]:
        """One by one."""
        return [self.text] if isinstance(self.text, str) else self.text


def scores_router(app: App) -> APIRouter:
    """The route over an `App`."""
    router = APIRouter(prefix="/v1/internal", responses=documented_errors())

    @router.post("/score", response_model=None)
    async def score(body: ScoreBody, request: Request) -> Response:
        """The log-probability of each token of texts, given all before it; nothing is written."""
        asked = app.scores.score(body.texts, caller(request).person, context=body.context, model=body.model, adapters=body.adapters)
        found = await unless_gone(request, asked)
        if found is None:
            return Response(status_code=CLIENT_GONE)
        usage = {"prompt_tokens": found.read_tokens, "total_tokens": found.read_tokens}
        return JsonAnswer({"model": found.model, "scores": [_told(one) for one in found.texts], "usage": usage})

    return router


def _told(one: Score) -> dict[str, Any]:
    """JSON has no infinity: what is no number there is null."""
    mean = -one.total / one.scored if one.scored else inf
    return {
        "logprob": _finite(one.total if one.scored else -inf),
        "perplexity": exp(mean) if mean < MOST_EXPONENT else None,
        "tokens": list(one.token_ids),
        "logprobs": [None if value is None else _finite(value) for value in one.logprobs],
    }


def _finite(value: float) -> float | None:
    return value if isfinite(value) else None
