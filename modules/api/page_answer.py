"""The page as it is sent, finished and compressed, and how long browsers keep the files that it is made of.

Only the page itself is compressed here. Who can have somebody's browser ask for it, and sees how long the answers are, can guess at a secret that is compressed together
with something of the asker's (BREACH). In this answer there is neither: it is the same for everybody, whatever the address and the cookies are. Gradio compresses its files
itself; JSON, which is about somebody, and event streams are sent as they are.
"""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from modules.api.auth import headers_of
from modules.api.guard import Asgi, Event, Receive, Scope, Send, route_path

PAGE = "/"
WHOLE = frozenset({PAGE, "/theme.css"})  # short answers that are made anew for each request: a browser that has them is told so
# What Gradio's build names after its content, and what it does not. Not the icon: browsers ask for that by themselves, also where nobody is logged in any more
KEPT = re.compile(r"/assets/[^/]+-[\w-]{8}\d*\.\w+")
ASKED_AFTER = re.compile(r"/(assets|static|svelte)/.+|/(theme\.css|manifest\.json)")
FOREVER = (b"cache-control", b"public, max-age=31536000, immutable")
ASK_AGAIN = (b"cache-control", b"no-cache")
FOUND = frozenset({200, 206, 304})
FORMS_KEPT = 4  # the page differs only by the address under which the server is reached
LEVEL = 6  # 26 kB in 5 ms, once


class _Packed(NamedTuple):
    """A text as it is sent, and its name for browsers that have it."""

    plain: bytes
    gzipped: bytes
    tag: str


class PageAnswer:
    """ASGI middleware: finishes and compresses the page, and says of its files how long they are kept."""

    def __init__(self, app: Asgi, *, finish: Callable[[bytes], bytes]) -> None:
        """`finish` makes of the page's HTML what is sent."""
        self._app = app
        self._packed = lru_cache(FORMS_KEPT)(lambda html: _pack(finish(html)))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and change its answer where it is the page or a file of it."""
        path = route_path(scope) if scope["type"] == "http" and scope["method"] in ("GET", "HEAD") else ""
        if path in WHOLE:
            pack = self._packed if path == PAGE else _pack
            await self._app(scope, receive, _Whole(send, headers_of(scope), pack).send)
        elif ASKED_AFTER.fullmatch(path):
            await self._app(scope, receive, _kept(send, FOREVER if KEPT.fullmatch(path) else ASK_AGAIN))
        else:
            await self._app(scope, receive, send)


def _pack(plain: bytes) -> _Packed:
    return _Packed(plain, gzip.compress(plain, LEVEL, mtime=0), f'W/"{hashlib.sha256(plain).hexdigest()[:32]}"')


def _kept(send: Send, how: tuple[bytes, bytes]) -> Send:
    async def sent(event: Event) -> None:
        if event["type"] == "http.response.start" and event["status"] in FOUND:
            event = {**event, "headers": [*_without(event, b"cache-control"), how]}
        await send(event)

    return sent


def _without(event: Event, *names: bytes) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, value in event.get("headers", []) if name.lower() not in names]


class _Whole:
    """Gathers one answer, and sends it once it is whole."""

    def __init__(self, send: Send, asked: dict[str, str], pack: Callable[[bytes], _Packed]) -> None:
        self._send, self._asked, self._pack = send, asked, pack
        self._start: Event = {}
        self._parts: list[bytes] = []

    async def send(self, event: Event) -> None:
        """Keep what comes until its end."""
        if event["type"] == "http.response.start":
            self._start = event
            return
        self._parts.append(event.get("body", b""))
        if event.get("more_body", False):
            return
        body = b"".join(self._parts)
        if self._start["status"] == 200:
            body = self._changed(body)
        await self._send(self._start)
        await self._send({"type": "http.response.body", "body": body})

    def _changed(self, body: bytes) -> bytes:
        is_encoded = any(name.lower() == b"content-encoding" for name, _ in self._start["headers"])
        packed = self._pack(body)
        headers = [*_without(self._start, b"content-length", b"cache-control", b"etag"), (b"etag", packed.tag.encode()), ASK_AGAIN]
        status, body = 200, packed.plain
        if packed.tag in self._asked.get("if-none-match", ""):
            status, body = 304, b""
        elif not is_encoded and takes_gzip(self._asked.get("accept-encoding", "")):
            body = packed.gzipped
            headers.append((b"content-encoding", b"gzip"))
        if not is_encoded:
            headers.append((b"vary", b"Accept-Encoding"))
        if status == 200:
            headers.append((b"content-length", str(len(body)).encode()))
        self._start = {**self._start, "status": status, "headers": headers}
        return body


def takes_gzip(accepted: str) -> bool:
    """Whether a browser that says this of itself can read gzip."""
    for offer in accepted.lower().split(","):
        name, _, quality = offer.partition(";")
        if name.strip() == "gzip":
            return not re.fullmatch(r"\s*q\s*=\s*0(\.0*)?\s*", quality)
    return False
