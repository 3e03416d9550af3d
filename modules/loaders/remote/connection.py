"""Connections to other servers: the name is resolved once, the addresses are looked at, and the one that was looked at is connected to.

A person may name any server of the internet or of a private network, this machine included. What no model server has is refused: the addresses
at which clouds give out credentials, and those that are no single host's. No proxy of the environment and no redirect is followed.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from functools import partial

import httpx2

from modules.core.addresses import meant

REFUSED_ADDRESSES = tuple(
    map(ipaddress.ip_address, ("100.100.100.200", "fd00:ec2::254", "168.63.129.16"))
)  # credentials of clouds
AT_ONCE = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
)  # else a body waits 40 ms for the acknowledgement of its head
NOT_A_SERVER = "this address gives out credentials of a cloud, or is no single host's"


class AddressError(Exception):
    """The host leads to an address that is not connected to."""


def is_refused(address: str) -> bool:
    """Whether an address is never connected to: link-local, multicast, unspecified, or known to give out credentials."""
    found = meant(address)
    return found.is_link_local or found.is_multicast or found.is_unspecified or found in REFUSED_ADDRESSES


class PinnedTransport(httpx2.AsyncBaseTransport):
    """Resolves, checks and connects to what it has checked; tries all addresses of a name in their order."""

    def __init__(self, inner: httpx2.AsyncBaseTransport) -> None:
        self._inner = inner

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request to the first address of its host that can be connected to.

        Raises:
            AddressError: one of the addresses is not connected to.
            httpx2.TransportError: no connection, or it broke.
        """
        host = request.url.host
        addresses = await _addresses(host, request)
        for address in addresses[:-1]:
            try:
                return await self._inner.handle_async_request(_pinned(request, address, host))
            except (httpx2.ConnectError, httpx2.ConnectTimeout):  # nothing was sent
                continue
        return await self._inner.handle_async_request(_pinned(request, addresses[-1], host))

    async def aclose(self) -> None:
        """Close all connections."""
        await self._inner.aclose()


async def _addresses(host: str, request: httpx2.Request) -> list[str]:
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise httpx2.ConnectError("its name is not known", request=request) from error
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    if any(map(is_refused, addresses)):
        raise AddressError(NOT_A_SERVER)
    return addresses


def _pinned(request: httpx2.Request, address: str, host: str) -> httpx2.Request:
    """The same request to an address; its Host header and the name of its certificate stay the host's."""
    extensions = {**request.extensions, **({"sni_hostname": host} if request.url.scheme == "https" else {})}
    make = partial(
        httpx2.Request, request.method, request.url.copy_with(host=address), headers=request.headers
    )
    return make(stream=request.stream, extensions=extensions)


async def open_client(url: str, connect_s: float, silence_s: float) -> httpx2.AsyncClient:
    """A client for one address. Only https reads the certificates of this machine, which takes tens of milliseconds."""
    trust: ssl.SSLContext | bool = (
        await asyncio.to_thread(httpx2.create_ssl_context) if url.startswith("https:") else False
    )
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=32)
    inner = httpx2.AsyncHTTPTransport(verify=trust, trust_env=False, limits=limits, socket_options=AT_ONCE)
    timeout = httpx2.Timeout(silence_s, connect=connect_s, pool=None)
    headers = {"user-agent": "paddock", "accept-encoding": "identity"}
    return httpx2.AsyncClient(
        transport=PinnedTransport(inner),
        timeout=timeout,
        headers=headers,
        follow_redirects=False,
        trust_env=False,
    )
