"""POST /v1/embeddings: vectors of texts or of token ids. Source: the public OpenAI API reference.

Beyond OpenAI's fields `pooling` and `normalize` choose how a vector is made; the answer says how it was.
"""

from __future__ import annotations

import array
import base64
import sys
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field, field_validator

from modules.api.answers import JsonAnswer
from modules.api.completions import CLIENT_GONE
from modules.api.errors import documented_errors
from modules.api.owner import caller
from modules.api.schemas import TEXT_LIMIT, Texts, TokenIds
from modules.api.sse import unless_gone
from modules.core.generation import EmbeddingRequest, Embeddings
from modules.core.model import AdapterChoices, Pooling
from modules.services.app import App

MOST_TEXTS = 2048


def check_texts(value: Any) -> None:
    """Let through a text, or a list of texts or of token ids, that is not too much at a time.

    Raises:
        ValueError: it is.
    """
    if isinstance(value, list) and value and not isinstance(value[0], int) and len(value) > MOST_TEXTS:
        raise ValueError(f"at most {MOST_TEXTS} texts at a time; got {len(value)}")
    if sum(map(len, [value] if isinstance(value, str) else [item for item in value if isinstance(item, str)])) > TEXT_LIMIT:
        raise ValueError(f"at most {TEXT_LIMIT} characters at a time")


class EmbeddingBody(BaseModel):
    """Body of POST /v1/embeddings."""

    model_config = ConfigDict(extra="ignore")

    input: str | Texts | TokenIds | Annotated[list[TokenIds], Field(fail_fast=True)]
    model: str = ""
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(None, ge=1, le=65_536, description="Only the first so many numbers of a vector, then of length 1.")
    user: str | None = Field(None, max_length=512)
    pooling: Pooling | None = Field(None, description="How the states of a text's tokens become one vector; by the model's own files if left out.")
    normalize: bool | None = Field(None, description="Whether vectors have the length 1; by the model's own files if left out.")
    adapters: AdapterChoices | None = Field(None, description="LoRA adapters of loras/ for this request alone; without it those in use on the model.")

    @field_validator("input")
    @classmethod
    def _bounded(cls, value: Any) -> Any:
        if not value:
            raise ValueError("nothing to embed; send a text, a list of texts, or token ids")
        check_texts(value)
        return value

    def inputs(self) -> tuple[str | tuple[int, ...], ...]:
        """The texts one by one, as text or token ids."""
        value: Any = self.input
        if isinstance(value, str):
            return (value,)
        if isinstance(value[0], int):
            return (tuple(value),)
        return tuple(item if isinstance(item, str) else tuple(item) for item in value)


def embeddings_router(app: App) -> APIRouter:
    """The route over an `App`."""
    router = APIRouter(prefix="/v1", responses=documented_errors())

    @router.post("/embeddings", response_model=None)
    async def embeddings(body: EmbeddingBody, request: Request) -> Response:
        """Turn texts into vectors."""
        asked = EmbeddingRequest(inputs=body.inputs(), pooling=body.pooling, normalize=body.normalize, dimensions=body.dimensions, person=caller(request).person)
        found = await unless_gone(request, app.embeddings.embed(asked, body.model, body.adapters))
        if found is None:
            return Response(status_code=CLIENT_GONE)
        return JsonAnswer(_answer(found, as_text=body.encoding_format == "base64"))

    return router


def _answer(found: Embeddings, *, as_text: bool) -> dict[str, Any]:
    shown = _base64 if as_text else numbers
    return {
        "object": "list",
        "data": [{"object": "embedding", "index": index, "embedding": shown(vector)} for index, vector in enumerate(found.vectors)],
        "model": found.model,
        "usage": {"prompt_tokens": found.prompt_tokens, "total_tokens": found.prompt_tokens},
        "pooling": found.pooling,
        "normalized": found.normalized,
    }


def _base64(vector: bytes) -> str:
    return base64.b64encode(vector).decode("ascii")


def numbers(vector: bytes) -> list[float]:
    """A vector as numbers."""
    found = array.array("f", vector)
    if sys.byteorder == "big":
        found.byteswap()
    return found.tolist()
