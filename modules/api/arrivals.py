"""Notes every request for the page, so that a reload is not taken for a closed tab: the browser asks for the new page before the old one leaves."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import parse_qs

from modules.api.guard import Asgi, Receive, Scope, Send, route_path


class PageArrivals:
    """ASGI middleware: tells which conversation a requested page will show; an empty id where the address names none."""

    def __init__(self, app: Asgi, *, expect: Callable[[str], None]) -> None:
        self._app, self._expect = app, expect

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take note and pass the request on."""
        if scope["type"] == "http" and scope["method"] == "GET" and route_path(scope) == "/":
            self._expect(parse_qs(scope["query_string"].decode("latin-1")).get("c", [""])[0])
        await self._app(scope, receive, send)
