"""Connections to where a hub sends: the name is resolved once, the addresses are looked at, and the one that was looked at is connected to.

A name that led outside when it was looked at and inside when it is connected to leads nowhere so. Knows addresses; knows nothing of hubs.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

import httpx2

from modules.core.addresses import is_public


class InsideError(Exception):
    """A host leads into this machine or its network."""

    def __init__(self, host: str) -> None:
        super().__init__(host)
        self.host = host


async def addresses_of(host: str) -> list[str]:
    """Where a name leads now; nowhere if it is not known."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class PinnedTransport(httpx2.AsyncBaseTransport):
    """Resolves, checks and connects to what it has checked; tries all addresses of a name in their order."""

    def __init__(self, inner: httpx2.AsyncBaseTransport, may_be_inside: Callable[[httpx2.URL], Awaitable[bool]]) -> None:
        self._inner = inner
        self._may_be_inside = may_be_inside

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request to the first address of its host that can be connected to.

        Raises:
            InsideError: one of the addresses is not of the public internet, and this may not be.
            httpx2.TransportError: no connection, or it broke.
        """
        host = request.url.host
        addresses = await addresses_of(host)
        if not addresses:
            raise httpx2.ConnectError(f"the name {host} is not known", request=request)
        if not all(map(is_public, addresses)) and not await self._may_be_inside(request.url):
            raise InsideError(host)
        for address in addresses[:-1]:
            try:
                return await self._inner.handle_async_request(_pinned(request, address))
            except (httpx2.ConnectError, httpx2.ConnectTimeout):  # nothing was sent
                continue
        return await self._inner.handle_async_request(_pinned(request, addresses[-1]))

    async def aclose(self) -> None:
        """Close all connections."""
        await self._inner.aclose()


def _pinned(request: httpx2.Request, address: str) -> httpx2.Request:
    """The same request to an address; its Host header and the name of its certificate stay the host's."""
    extensions = {**request.extensions, **({"sni_hostname": request.url.host} if request.url.scheme == "https" else {})}
    return httpx2.Request(request.method, request.url.copy_with(host=address), headers=request.headers, stream=request.stream, extensions=extensions)
