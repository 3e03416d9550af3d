"""Errors as Ollama's clients read them where no route of theirs made them: the key, accounts, the guard.

Source: the public description of Ollama's API.
"""

from __future__ import annotations

from typing import Any

from modules.api.anthropic_errors import Retold
from modules.api.errors import Shape
from modules.api.guard import Asgi, Receive, Scope, Send, route_path

PREFIX = "/api/"


def ollama_shape(scope: Scope) -> Shape | None:
    """How errors are told to who sends a request; None where it is none of Ollama's API."""
    return _sentence_alone if route_path(scope).startswith(PREFIX) else None


class OllamaErrors:
    """ASGI middleware that makes every error below Ollama's addresses one sentence."""

    def __init__(self, app: Asgi) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and its answer back."""
        if scope["type"] == "http" and (shape := ollama_shape(scope)) is not None:
            send = Retold(send, shape).send
        await self._app(scope, receive, send)


def _sentence_alone(_: int, message: str) -> dict[str, Any]:
    return {"error": message}
