"""Everything that must not happen on the page while a test runs: foreign requests, errors in the console, failed requests."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import BrowserContext

OWN_SCHEMES = ("data", "blob", "about")
# A stream ends when its page goes elsewhere; downloads end their navigation
ABORTED = "net::ERR_ABORTED"
# Gradio writes both when a page is left or loaded again while one of its events runs; the second without the first is an error
LEFT = re.compile(r"^console: AbortError: signal is aborted")
CUT_BY_LEAVING = re.compile(r"^console: (AbortError: signal is aborted|Unexpected error Connection errored out)")


class ConsoleWatch:
    """Listens to all browser profiles of one test."""

    def __init__(self, host: str) -> None:
        self.complaints: list[str] = []
        self.addresses: list[str] = []
        self._host = host
        self._allowed: list[re.Pattern[str]] = []

    def follow(self, context: BrowserContext) -> None:
        """Listen to a browser profile from now on."""
        for event, listener in self._listeners():
            context.on(event, listener)  # type: ignore[call-overload]

    def leave(self, context: BrowserContext) -> None:
        """Listen to it no longer."""
        for event, listener in self._listeners():
            context.remove_listener(event, listener)

    def allow(self, pattern: str) -> None:
        """Complaints that match are what the test is about."""
        self._allowed.append(re.compile(pattern))

    def _listeners(self) -> tuple[tuple[str, Callable[[Any], None]], ...]:
        return ("request", self._request), ("requestfailed", self._failed), ("console", self._console), ("weberror", self._error)

    def _request(self, request: Any) -> None:
        parts = urlsplit(request.url)
        self.addresses.append(request.url)
        if parts.scheme not in OWN_SCHEMES and parts.netloc != self._host:
            self.complaints.append(f"external request: {request.url}")

    def _failed(self, request: Any) -> None:
        if request.failure != ABORTED:
            self.complaints.append(f"failed request: {request.url} {request.failure}")

    def _console(self, message: Any) -> None:
        if message.type == "error":
            self.complaints.append(f"console: {message.text} ({message.location.get('url', '')})")

    def _error(self, error: Any) -> None:
        self.complaints.append(f"exception: {error.error}")

    def unexpected(self) -> list[str]:
        left = [CUT_BY_LEAVING] if any(map(LEFT.search, self.complaints)) else []
        return [text for text in self.complaints if not any(pattern.search(text) for pattern in [*self._allowed, *left])]
