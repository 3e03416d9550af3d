"""Errors as Anthropic's clients read them, whoever made them: routes, the framework, the key, the guard.

One layer in front of all of them turns the body of every error on Anthropic's addresses into their shape. Source: the public reference of Anthropic's API.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

from pydantic import BaseModel

from modules.api.answers import json_bytes
from modules.api.errors import STATUS, Shape
from modules.api.guard import Asgi, Event, Receive, Scope, Send, route_path

VERSION_HEADER = "anthropic-version"  # every client of theirs sends it
KINDS: Mapping[int, str] = MappingProxyType({
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error", 405: "invalid_request_error",
    409: "invalid_request_error", 413: "request_too_large", 421: "permission_error", 422: "invalid_request_error", 429: "rate_limit_error",
})  # fmt: skip


def anthropic_error(status: int, message: str) -> dict[str, Any]:
    """Anthropic's error object."""
    return {"type": "error", "error": {"type": KINDS.get(status, "api_error"), "message": message}}


class AnthropicProblem(BaseModel):
    """What went wrong."""

    type: str
    message: str


class AnthropicErrorAnswer(BaseModel):
    """Body of every answer that is an error."""

    type: Literal["error"]
    error: AnthropicProblem


def documented_errors() -> dict[int | str, dict[str, Any]]:
    """Every error status for the OpenAPI description."""
    found: dict[int | str, dict[str, Any]] = {status: {"model": AnthropicErrorAnswer, "description": kind} for _, status, kind in STATUS}
    return {**found, "default": {"model": AnthropicErrorAnswer, "description": "an error"}}


def asks_anthropic(path: str, headers: Mapping[str, str]) -> bool:
    """Whether a request is one of Anthropic's API: by its address, or by what its client says where both have the same one."""
    return path.startswith("/v1/messages") or (path.startswith("/v1/") and VERSION_HEADER in headers)


def anthropic_shape(scope: Scope) -> Shape | None:
    """How errors are told to who sends a request; None where it is none of Anthropic's API."""
    headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}
    return anthropic_error if asks_anthropic(route_path(scope), headers) else None


class AnthropicErrors:
    """ASGI middleware that puts errors into Anthropic's shape where that is spoken."""

    def __init__(self, app: Asgi) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and its answer back."""
        if scope["type"] == "http" and (shape := anthropic_shape(scope)) is not None:
            send = Retold(send, shape).send
        await self._app(scope, receive, send)


class Retold:
    """Holds an error back until it is whole and tells it in another shape; everything else passes."""

    def __init__(self, send: Send, shape: Shape) -> None:
        self._send = send
        self._shape = shape
        self._start: Event | None = None
        self._body = b""

    async def send(self, event: Event) -> None:
        """Pass an event on, or keep it."""
        if event["type"] == "http.response.start" and event["status"] >= 400:
            self._start = event
        elif self._start is None:
            await self._send(event)
        else:
            self._body += event.get("body", b"")
            if not event.get("more_body", False):
                await self._finish(self._start)

    async def _finish(self, start: Event) -> None:
        body = json_bytes(self._shape(start["status"], _sentence(self._body)))
        kept = [(key, value) for key, value in start.get("headers", []) if key.lower() not in (b"content-length", b"content-type")]
        length = (b"content-length", str(len(body)).encode())
        await self._send({**start, "headers": [*kept, (b"content-type", b"application/json"), length]})
        await self._send({"type": "http.response.body", "body": body})


def _sentence(body: bytes) -> str:
    """What an error says in OpenAI's shape or Ollama's, or whatever it says."""
    try:
        error = json.loads(body)["error"]
        return error if isinstance(error, str) else str(error["message"])
    except (ValueError, KeyError, TypeError):
        return body.decode("utf-8", "replace")[:1000]
