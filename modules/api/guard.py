"""One guard in front of page and API: host, origin, forbidden routes, body size and time, response headers.

Pure ASGI, so that it also covers what Gradio mounts. It knows no keys (see auth.py) and no users.
Threats: DNS rebinding, cross-site requests, foreign CORS, huge or slow bodies, bodies of very many values, leaks through rendered content.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from modules.api.json_count import JsonCount, JsonLimits, limits_of

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
JSON_LIMIT_BYTES = 8 << 20
IMAGES_LIMIT_BYTES = 32 << 20  # of a body that may hold images, or is a document
WITH_IMAGES = re.compile(
    r"/v1/(chat/completions|responses|messages(/count_tokens)?|internal/chat-prompt)|/api/(chat|generate)"
    r"|/ui/conversations/([^/]+/(send|files|insert|begin|context|summarise)|import)|/ui/(characters|profiles)/import"
)
UPLOAD_LIMIT_BYTES = 64 << 20
DATASET_PATH = "/ui/datasets/upload"
DATASET_LIMIT_BYTES = 2 << 30  # of a data set's file
CONVERSATIONS_PATH = "/ui/conversations/import-file"
CONVERSATIONS_LIMIT_BYTES = 8 << 30  # of a file of conversations, mostly an archive
UPLOAD_BYTES_PER_S = 32 << 10  # an upload on the slowest line that is waited for
BODY_TIME_LIMIT_S = 30.0
HOST_PATTERN = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::(\d{1,5}))?")
# Gradio routes that fetch for a client, run components' server functions, describe themselves or show other people's runs: nothing here uses them.
DENIED_PATHS = re.compile(
    r"^/(gradio_api/(proxy=|file=https?:|file/https?:|vibe|runs|run-history|component_server|process_recording|deep_link|dev/)|monitoring|openapi\.json$)", re.IGNORECASE
)
CONTENT_SECURITY_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; "
    "frame-src 'none'; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
SECURITY_HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"content-security-policy", CONTENT_SECURITY_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"x-frame-options", b"SAMEORIGIN"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


@dataclass(frozen=True)
class Refusal:
    """Why a request is not passed on."""

    status: int
    message: str


@dataclass
class _Asked:
    """The headers of a request that the rules read."""

    host: str = ""
    name: str = ""  # host without port
    origin: str | None = None
    fetch_site: str = ""
    length: str | None = None
    doubled: bool = False
    headers: dict[str, str] = field(default_factory=dict)


def in_address(host: str) -> str:
    """A host as addresses have it: IPv6 in brackets."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def route_path(scope: Scope) -> str:
    """The path below the prefix that a proxy strips: with `root_path` set, the server puts that prefix back in front of every path."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path[len(root) :] or "/" if root and f"{path}/".startswith(f"{root}/") else path


def _read(scope: Scope) -> _Asked:
    asked = _Asked()
    for raw_key, raw_value in scope["headers"]:
        key, value = raw_key.decode("latin-1").lower(), raw_value.decode("latin-1")
        asked.doubled = asked.doubled or (key in asked.headers and key in ("host", "origin", "content-length"))
        asked.headers[key] = value
    asked.host = asked.headers.get("host", "").lower()
    match = HOST_PATTERN.fullmatch(asked.host)
    asked.name = match[1].rstrip(".") if match else ""
    asked.origin = asked.headers.get("origin")
    asked.fetch_site = asked.headers.get("sec-fetch-site", "")
    asked.length = asked.headers.get("content-length")
    return asked


class Guard:
    """ASGI middleware that applies the rules before anything else sees the request."""

    def __init__(self, app: Asgi, *, allowed_hosts: Iterable[str] = (), allowed_origins: Iterable[str] = (), any_host: bool = False) -> None:
        self._app = app
        self._hosts = LOOPBACK_NAMES | {in_address(host.lower()) for host in allowed_hosts}
        self._origins = frozenset(allowed_origins)
        self._any_host = any_host  # reachable from other machines under addresses not known beforehand: the key protects then

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        asked = _read(scope)
        refusal = self._refusal(scope, asked)
        if refusal is not None:
            await _refuse(scope, send, refusal)
            return
        body = _BoundedBody(receive, _limits(route_path(scope)), limits_of(route_path(scope), asked.headers.get("content-type", "")), counts=scope["type"] == "http")
        sent = _Headers(send, self._cors(asked), body)
        try:
            await self._app(scope, body.receive, sent.send)
        except Exception:
            if not body.broken:
                raise
        if body.broken and not sent.started:
            await _refuse(scope, send, Refusal(413, body.broken))

    def _refusal(self, scope: Scope, asked: _Asked) -> Refusal | None:
        if "content-length" in asked.headers and "transfer-encoding" in asked.headers:  # a proxy may read another end of the body than we do (RFC 9112, 6.1)
            return Refusal(400, "The request tells the length of its body in two ways; send one of them.")
        if asked.doubled or not asked.name or not (self._any_host or asked.name in self._hosts):
            return Refusal(421, f"This server does not answer to the host name “{asked.host[:100]}”; add it with --allowed-host.")
        if DENIED_PATHS.search(unquote(route_path(scope))):
            return Refusal(404, "There is nothing at this address.")
        return self._cross_site(scope, asked) or _too_long(scope, asked)

    def _cross_site(self, scope: Scope, asked: _Asked) -> Refusal | None:
        unsafe = scope["type"] != "http" or scope["method"] not in SAFE_METHODS
        preflight = scope["type"] == "http" and scope["method"] == "OPTIONS"
        if asked.origin is not None and (unsafe or preflight) and not self._own(asked):
            return Refusal(403, f"Requests from {asked.origin[:100]} are refused; add it with --allowed-origin if it is yours.")
        reads_data = route_path(scope).startswith(("/v1/", "/api/", "/ui/", "/gradio_api/", "/metrics"))
        if asked.origin is None and asked.fetch_site in ("cross-site", "same-site") and (unsafe or reads_data):
            return Refusal(403, "Requests from other web sites are refused.")
        return None

    def _own(self, asked: _Asked) -> bool:
        origin = asked.origin or ""
        return origin in self._origins or (origin != "null" and urlsplit(origin).netloc.lower() == asked.host)

    def _cors(self, asked: _Asked) -> list[tuple[bytes, bytes]]:
        if asked.origin in self._origins and asked.origin is not None:
            return [
                (b"access-control-allow-origin", asked.origin.encode()),
                (b"access-control-allow-headers", b"authorization, content-type, x-api-key, anthropic-version, anthropic-beta, anthropic-dangerous-direct-browser-access"),
                (b"access-control-allow-methods", b"GET, POST, OPTIONS"),
                (b"vary", b"Origin"),
            ]
        return []


class _Limits(NamedTuple):
    """What a body may be: so many bytes, within the time that every body has and what this pace adds for the bytes that came."""

    size_bytes: int
    bytes_per_s: float = math.inf

    def time_s(self, seen_bytes: int) -> float:
        """How long it may have taken so far."""
        return BODY_TIME_LIMIT_S + seen_bytes / self.bytes_per_s


def _limits(path: str) -> _Limits:
    if path == DATASET_PATH:
        return _Limits(DATASET_LIMIT_BYTES, UPLOAD_BYTES_PER_S)
    if path == CONVERSATIONS_PATH:
        return _Limits(CONVERSATIONS_LIMIT_BYTES, UPLOAD_BYTES_PER_S)
    if path.startswith("/gradio_api/upload"):
        return _Limits(UPLOAD_LIMIT_BYTES)
    return _Limits(IMAGES_LIMIT_BYTES if WITH_IMAGES.fullmatch(path) else JSON_LIMIT_BYTES)


def _too_long(scope: Scope, asked: _Asked) -> Refusal | None:
    limit = _limits(route_path(scope)).size_bytes
    if asked.length is not None and (not asked.length.isdigit() or int(asked.length) > limit):
        return Refusal(413, f"The request has {asked.length[:20]} bytes; at most {limit} are accepted.")
    return None


class _BoundedBody:
    """Counts the bytes and the seconds of a request body, and where it is JSON its values."""

    def __init__(self, receive: Receive, limits: _Limits, json_limits: JsonLimits | None, *, counts: bool) -> None:
        self._receive, self._limits = receive, limits
        self._json_limits, self._json = json_limits, JsonCount()
        self._seen = 0
        self._done = not counts
        self._begun_s = time.monotonic()
        self.broken = ""

    async def receive(self) -> Event:
        """The next event; a body over its limits looks like a client that left."""
        if self._done:
            return await self._receive()
        try:
            left_s = self._begun_s + self._limits.time_s(self._seen) - time.monotonic()
            async with asyncio.timeout(max(0.1, left_s)):  # `wait_for` of this Python makes a task, also of what is here already
                event = await self._receive()
        except TimeoutError:
            return self._break(f"The request body took longer than {self._limits.time_s(self._seen):.0f} s.")
        if event["type"] == "http.request":
            piece = event.get("body", b"")
            self._seen += len(piece)
            self._done = not event.get("more_body", False)
            if self._seen > self._limits.size_bytes:
                return self._break(f"The request body is larger than {self._limits.size_bytes} bytes.")
            if self._json_limits is not None:
                self._json.add(piece)
                if too_much := self._json.beyond(self._json_limits):
                    return self._break(too_much)
        return event

    def _break(self, reason: str) -> Event:
        self.broken, self._done = reason, True
        return {"type": "http.disconnect"}


class _Headers:
    """Adds the security headers and takes foreign CORS headers away."""

    def __init__(self, send: Send, cors: list[tuple[bytes, bytes]], body: _BoundedBody) -> None:
        self._send, self._cors, self._body = send, cors, body
        self.started = False

    async def send(self, event: Event) -> None:
        """Pass an event on; the start of a response gets its headers."""
        if self._body.broken and not self.started:
            return  # what the application says of a body that broke off; the guard's own sentence is better
        if event["type"] == "http.response.start":
            self.started = True
            kept = [(k, v) for k, v in event.get("headers", []) if not k.lower().startswith(b"access-control-")]
            event = {**event, "headers": [*kept, *self._cors, *SECURITY_HEADERS]}
        await self._send(event)


async def _refuse(scope: Scope, send: Send, refusal: Refusal) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": refusal.message[:120]})
        return
    error = {"message": refusal.message, "type": "invalid_request_error", "param": None, "code": str(refusal.status)}
    body = json.dumps({"error": error}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), (b"connection", b"close"), *SECURITY_HEADERS]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
