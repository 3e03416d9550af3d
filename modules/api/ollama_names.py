"""Models and errors as Ollama's clients know them: names with a tag, rows of a list, what a model is, and errors as one sentence."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Coroutine, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastapi import HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.routing import APIRoute
from pydantic import BaseModel

from modules.api.answers import JsonAnswer
from modules.api.errors import http_message, retry_headers, status_of, validation_message
from modules.core.errors import AppError, NotFound
from modules.core.generation import EngineCard
from modules.core.messages import THINKING_SWITCHES
from modules.core.model import ModelInfo
from modules.services.app import App

TAG = ":latest"


async def resolved(app: App, name: str) -> str:
    """The model that is meant: clients of Ollama put a tag behind every name."""
    bare = name.removesuffix(TAG)
    if bare == name:
        return name
    try:
        return (await app.models.find(name)).name
    except NotFound:
        return bare


class ErrorSentence(BaseModel):
    """Body of every answer that is an error."""

    error: str


class OllamaRoute(APIRoute):
    """A route whose errors are Ollama's, and whose bodies are JSON whatever they are called: its documented examples name no type."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler with both."""
        handler = super().get_route_handler()

        async def answered(request: Request) -> Response:
            headers = [(key, value) for key, value in request.scope["headers"] if key.lower() != b"content-type"]
            as_json = Request({**request.scope, "headers": [*headers, (b"content-type", b"application/json")]}, request.receive)
            try:
                return await handler(as_json)
            except AppError as error:
                return _sentence(error.message, status_of(error)[0], retry_headers(error))
            except RequestValidationError as error:
                return _sentence(validation_message(error)[0], 400)
            except HTTPException as error:
                return _sentence(http_message(error, request), error.status_code)

        return answered


def _sentence(message: str, status: int, headers: Mapping[str, str] | None = None) -> JsonAnswer:
    return JsonAnswer({"error": message}, status_code=status, headers=headers)


def details(info: ModelInfo) -> dict[str, Any]:
    """What a list tells of a model."""
    return {
        "parent_model": "",
        "format": info.format,
        "family": info.architecture,
        "families": [info.architecture] if info.architecture else [],
        "parameter_size": _size(info.parameters),
        "quantization_level": info.quantization,
    }


def row(info: ModelInfo) -> dict[str, Any]:
    """A model of the list. Reads the disk: call it in a thread."""
    try:
        changed_s = Path(info.path).stat().st_mtime if info.path and not info.host else 0.0
    except OSError:  # removed just now
        changed_s = 0.0
    changed = datetime.fromtimestamp(changed_s, UTC).isoformat().replace("+00:00", "Z")
    return {"name": info.name, "model": info.name, "modified_at": changed, "size": info.size_bytes, "digest": _mark(info, changed), "details": details(info)}


def _mark(info: ModelInfo, changed: str) -> str:
    """Tells models and their versions apart, in the form of a hash; hashing files as large as models would hold up a list."""
    return hashlib.sha256(f"{info.name}\n{info.size_bytes}\n{changed}".encode("utf-8", "replace")).hexdigest()


def _size(parameters: int) -> str:
    for unit, letter in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if parameters >= unit:
            return f"{parameters / unit:.1f}{letter}"
    return str(parameters or "")


def capabilities(info: ModelInfo, card: EngineCard | None) -> list[str]:
    """What it can do, as far as is known. Every model that writes can be given tools: a template that knows none is helped."""
    found = ["completion", "tools"] if info.can_write else []
    if not info.can_write or (card is not None and card.can_embed):
        found.append("embedding")
    if card.vision if card else info.sees:
        found.append("vision")
    if card is not None and any(name in THINKING_SWITCHES for name in card.template_variables or ()):
        found.append("thinking")
    return found


def facts(info: ModelInfo, card: EngineCard | None) -> dict[str, Any]:
    """The header of a model by the names of GGUF; the context is the one in force where it is loaded."""
    kind = info.architecture or "model"
    told = {
        "general.architecture": info.architecture,
        "general.parameter_count": info.parameters,
        f"{kind}.context_length": card.context_length if card else info.context_length,
        f"{kind}.block_count": info.layers,
        "tokenizer.vocab_size": info.vocab_size,
    }
    return {name: value for name, value in told.items() if value}
