"""What another server refused or failed to do, as sentences with the cure, and whether another address may do better."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import httpx2

from modules.core.errors import (
    AppError,
    Busy,
    ContextOverflow,
    InvalidRequest,
    NotFound,
    RemoteError,
)
from modules.loaders.remote.connection import AddressError

WORDS_LIMIT = 300  # of what a server says
TOO_LONG = (
    "context_length_exceeded",
    "exceed_context_size_error",
    "maximum context length",
    "context size",
    "context window",
    "context length",
)


class RefusedError(Exception):
    """One address did not answer a request. `elsewhere`: another one may. `fault`: counts against the address."""

    def __init__(self, error: AppError, *, elsewhere: bool, fault: bool, wait_s: float = 0.0) -> None:
        super().__init__(error.message)
        self.error = error
        self.elsewhere = elsewhere
        self.fault = fault
        self.wait_s = wait_s  # better not asked for so long


def broken(host: str, how: str) -> RefusedError:
    """The connection failed or broke."""
    return RefusedError(
        RemoteError(
            f"{host} does not answer ({how}). Check that its server runs, and its address on the Models page."
        ),
        elsewhere=True,
        fault=True,
    )


def how_it_broke(error: Exception) -> str:
    """A failed connection in a few words."""
    if isinstance(error, AddressError):
        return str(error)
    if isinstance(error, httpx2.ConnectTimeout):
        return "no connection in time"
    if isinstance(error, httpx2.TimeoutException):
        return "nothing came in time"
    if isinstance(error, httpx2.ConnectError):
        return (
            "it cannot be reached"
            if str(error) in ("", "All connection attempts failed")
            else f"it cannot be reached: {str(error)[:WORDS_LIMIT]}"
        )
    return "the connection broke"


def refusal(host: str, status: int, raw: bytes, model: str, retry_after: str | None = None) -> RefusedError:
    """An answer that is no success."""
    error = _sentence(host, status, raw, model)
    elsewhere = status in (401, 403, 404, 429) or status >= 500 or status < 400
    fault = status >= 500 or status < 400
    return RefusedError(
        error, elsewhere=elsewhere, fault=fault, wait_s=_seconds(retry_after) if status == 429 else 0.0
    )


def _sentence(host: str, status: int, raw: bytes, model: str) -> AppError:
    words = words_of(raw)
    said = f" It says: {words}" if words else ""
    if status in (401, 403):
        cure = "Remove the server on the Models page and add it again with the right key."
        return RemoteError(f"{host} refuses the key ({status}). {cure}{said}")
    if status == 404:
        cure = "Choose a model from its list on the Models page."
        return NotFound(
            f"{host} has no model “{model}”, or not this part of OpenAI's API (404). {cure}{said}"
        )
    if status == 429:
        return Busy(f"{host} has too much to do (429); wait a moment, then try again.{said}")
    if status >= 500:
        return RemoteError(f"{host} failed ({status}); look at its own log, then try again.{said}")
    if status < 400:
        cure = "add the server with its final address."
        return RemoteError(
            f"{host} answers with a redirect or nothing ({status}), which is not followed; {cure}"
        )
    return _refused_request(host, status, raw, model, said)


def _refused_request(host: str, status: int, raw: bytes, model: str, said: str) -> AppError:
    if any(sign in raw.decode("utf-8", "replace").lower() for sign in TOO_LONG):
        return ContextOverflow(
            f"The text is longer than the context of “{model}” at {host}; shorten it or begin a new conversation.{said}"
        )
    return InvalidRequest(
        f"{host} refuses the request ({status}).{said or ' Change the parameters, then try again.'}"
    )


def _seconds(retry_after: str | None) -> float:
    try:
        return min(max(float(retry_after or 1), 0.5), 30.0)
    except ValueError:
        return 1.0


def words_of(raw: bytes) -> str:
    """What a server says in the body of an error, in the shapes that are known; nothing of other bodies is shown."""
    try:
        body: Any = json.loads(raw)
    except (ValueError, RecursionError):
        return ""
    error = body.get("error", body) if isinstance(body, Mapping) else None
    for value in (
        error,
        *((error.get("message"), error.get("detail")) if isinstance(error, Mapping) else ()),
    ):
        if isinstance(value, str) and value.strip():
            text = " ".join(value.split())
            return text if len(text) <= WORDS_LIMIT else text[:WORDS_LIMIT] + "…"
    return ""
