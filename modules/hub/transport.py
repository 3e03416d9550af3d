"""The wire to the hub: who is asked, who gets the token, which redirects are followed, how long and how much is read.

Requests are made here and not by huggingface_hub's own session, which waits without a limit, follows `Retry-After` of any length, reads
answers of any size and hands its token to whatever host a link of the hub names. Knows HTTP; knows nothing of models.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import urllib.request
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from http.cookiejar import DefaultCookiePolicy
from typing import Any, Self

import httpx2
from pydantic import SecretStr

from modules.core.addresses import is_public
from modules.core.errors import HubError, InvalidRequest
from modules.hub.names import OFFICIAL_ENDPOINT, OFFICIAL_HOSTS
from modules.hub.pinning import InsideError, PinnedTransport, addresses_of

REDIRECTS = frozenset({301, 302, 303, 307, 308})
DEFAULT_PORTS: Mapping[str, int] = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Access:
    """Which hub is asked and with which token; made for each use, so that a change of the settings acts at once."""

    endpoint: str = OFFICIAL_ENDPOINT
    token: SecretStr | None = field(default=None, repr=False)
    token_to_mirror: bool = False  # the person trusts this mirror with the token
    offline: bool = False

    def __post_init__(self) -> None:
        """Refuse an endpoint or a token that could not be sent as meant."""
        object.__setattr__(self, "endpoint", _checked_endpoint(self.endpoint))
        secret = self.token.get_secret_value() if self.token else ""
        if not all("!" <= letter <= "~" for letter in secret):
            raise InvalidRequest("The hub token holds a space, a line break or a letter that no token has; copy it again.", field="hf_token")

    @property
    def host(self) -> str:
        """Name of the hub, for sentences."""
        return self.endpoint.partition("://")[2]

    @property
    def is_official(self) -> bool:
        """Whether this is huggingface.co itself."""
        return httpx2.URL(self.endpoint).host in OFFICIAL_HOSTS

    @property
    def sends_token(self) -> bool:
        """Whether requests to the endpoint carry the token."""
        return bool(self.token and self.token.get_secret_value()) and (self.is_official or self.token_to_mirror)

    @property
    def holds_token_back(self) -> bool:
        """Whether there is a token that this mirror does not get."""
        return bool(self.token and self.token.get_secret_value()) and not self.sends_token


@dataclass(frozen=True)
class Limits:
    """How long and how much one request may take."""

    connect_s: float = 10
    silence_s: float = 30  # no byte for so long: the connection is dead
    answer_s: float = 30  # for a whole answer of the API
    answer_bytes: int = 16 << 20
    redirects: int = 5
    pages: int = 20  # of a long list of files


def _checked_endpoint(endpoint: str) -> str:
    try:
        url = httpx2.URL(endpoint.rstrip("/"))
    except httpx2.InvalidURL:
        url = httpx2.URL("")
    if url.scheme not in DEFAULT_PORTS or not url.host or url.userinfo or url.query or url.fragment:
        raise InvalidRequest(f"The hub's address “{endpoint[:80]}” is not one: give it like {OFFICIAL_ENDPOINT}, without a user name.", field="endpoint")
    if url.host in OFFICIAL_HOSTS and url.scheme != "https":
        raise InvalidRequest(f"{url.host} is only asked over https; give {OFFICIAL_ENDPOINT}.", field="endpoint")
    return str(url).rstrip("/")


def origin(url: httpx2.URL) -> tuple[str, str, int]:
    """Scheme, host and port: who is spoken to."""
    return url.scheme, url.host.lower(), url.port or DEFAULT_PORTS.get(url.scheme, 0)


class Transport:
    """An open client for one access; used with `async with`, from one event loop. `trust` saves reading the certificates again."""

    def __init__(self, access: Access, limits: Limits | None = None, trust: ssl.SSLContext | None = None) -> None:
        self.access = access
        self.limits = limits or Limits()
        self._trust = trust
        self._private: bool | None = None

    async def __aenter__(self) -> Self:
        limits = self.limits
        timeout = httpx2.Timeout(limits.silence_s, connect=limits.connect_s, pool=limits.connect_s)
        trust = self._trust or await read_trust()
        pinned = None if urllib.request.getproxies() else PinnedTransport(httpx2.AsyncHTTPTransport(verify=trust), self._may_be_inside)
        self._client = httpx2.AsyncClient(timeout=timeout, follow_redirects=False, auth=None, verify=trust, transport=pinned)  # a proxy resolves names itself
        self._client.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=[]))  # a hub is never told what it said before
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._client.aclose()

    @asynccontextmanager
    async def open(self, url: str, params: Sequence[tuple[str, str]] = (), start: int = 0, end: int | None = None) -> AsyncIterator[httpx2.Response]:
        """The answer to a GET, after redirects, unread and of any status. `start` and `end` (inclusive) ask for a range.

        Raises:
            HubError: offline mode, or a redirect that is not followed.
            httpx2.TransportError: the connection failed; trying again may help.
        """
        if self.access.offline:
            raise HubError("Offline mode is on, so nothing is asked of the hub; turn it off to search or download.", reason="offline")
        target = httpx2.URL(url, params=list(params)) if params else httpx2.URL(url)
        for _ in range(self.limits.redirects + 1):
            request = self._client.build_request("GET", target, headers=self._headers(target, start, end))
            try:
                response = await self._client.send(request, stream=True)
            except InsideError as error:
                raise _inside(self.access.host, error.host) from None
            try:
                if response.status_code not in REDIRECTS or "location" not in response.headers:
                    yield response
                    return
                target = await self._redirected(target, response.headers["location"])
            finally:
                await response.aclose()
        raise HubError(
            f"{self.access.host} redirected more than {self.limits.redirects} times; the address of the hub may be wrong.", reason="redirect"
        )

    async def get_json(self, url: str, params: Sequence[tuple[str, str]] = ()) -> tuple[Any, httpx2.Response]:
        """A JSON value and the answer it came with; an answer that is no success comes back with None.

        Raises:
            HubError: too large, too slow, or not JSON.
            httpx2.TransportError: the connection failed.
        """
        async with self.open(url, params) as response:
            if response.status_code != 200:
                return None, response
            raw = await self.read(response, self.limits.answer_bytes)
        try:
            return json.loads(raw), response
        except (ValueError, RecursionError):
            raise HubError(
                f"{self.access.host} answered something that is no JSON; a proxy or a login page may be in between: open the address in a browser.",
                reason="malformed",
            ) from None

    async def read(self, response: httpx2.Response, limit: int) -> bytes:
        """The body, if it is no longer than `limit`.

        Raises:
            HubError: longer.
        """
        raw = bytearray()
        async with aclosing(response.aiter_raw()) as pieces:
            async for piece in pieces:
                raw += piece
                if len(raw) > limit:
                    raise HubError(f"{self.access.host} sent more than the {limit} bytes that were allowed; the hub may be faulty.", reason="size")
        return bytes(raw)

    def _headers(self, url: httpx2.URL, start: int, end: int | None) -> dict[str, str]:
        headers = {"user-agent": "paddock", "accept-encoding": "identity"}
        if start or end is not None:
            headers["range"] = f"bytes={start}-{'' if end is None else end}"
        if self.access.sends_token and self.access.token and self.is_hub(url):
            headers["authorization"] = "Bearer " + self.access.token.get_secret_value()
        return headers

    def is_hub(self, url: httpx2.URL) -> bool:
        """Whether the url belongs to the hub that was asked; its CDN does not."""
        official = self.access.is_official and url.scheme == "https" and url.host in OFFICIAL_HOSTS and origin(url)[2] == 443
        return official or origin(url) == origin(httpx2.URL(self.access.endpoint))

    async def _redirected(self, source: httpx2.URL, location: str) -> httpx2.URL:
        try:
            target = source.join(location)
        except httpx2.InvalidURL:
            target = httpx2.URL("")
        if target.scheme not in DEFAULT_PORTS or not target.host or target.userinfo:
            raise HubError(f"{source.host} redirected to something that is no web address; it is not followed.", reason="redirect")
        if source.scheme == "https" and target.scheme == "http":
            raise HubError(f"{source.host} redirected from https to http ({target.host}), which anybody could read; it is not followed.", reason="redirect")
        if await is_private(target.host) and not await self._may_be_inside(target):
            raise _inside(source.host, target.host)
        return target

    async def _may_be_inside(self, url: httpx2.URL) -> bool:
        """Whether an address of this machine or its network is meant: that of a hub that is there itself."""
        return self.is_hub(url) or await self._is_private_hub()

    async def _is_private_hub(self) -> bool:
        if self._private is None:
            self._private = await is_private(httpx2.URL(self.access.endpoint).host)
        return self._private


async def read_trust() -> ssl.SSLContext:
    """The certificates this machine trusts (`SSL_CERT_FILE` names others): tens of milliseconds, so not in the event loop."""
    return await asyncio.to_thread(httpx2.create_ssl_context)


def _inside(source: str, host: str) -> HubError:
    return HubError(f"{source} redirected into this machine or its network ({host}); it is not followed.", reason="redirect")


async def is_private(host: str) -> bool:
    """Whether a name leads to an address that is not of the public internet; unknown names do not."""
    return not all(map(is_public, await addresses_of(host)))
