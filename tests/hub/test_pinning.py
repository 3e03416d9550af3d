"""Names that lead outside when they are looked at and inside when they are connected to: resolved once, they cannot."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx2
import pytest

from modules.core.errors import HubError
from modules.hub.pinning import InsideError, PinnedTransport
from modules.hub.transport import Access, Transport
from tests.certificates import write_certificate

OUTSIDE, INSIDE = "93.184.215.14", "127.0.0.1"


class Recorded(httpx2.AsyncBaseTransport):
    """Answers everything and remembers where it was sent; a first address of two can be dead."""

    def __init__(self, *dead: str) -> None:
        self.seen: list[tuple[str, str, str]] = []
        self._dead = dead

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.seen.append((request.url.host, request.headers["host"], request.extensions.get("sni_hostname", "")))
        if request.url.host in self._dead:
            raise httpx2.ConnectError("nobody there", request=request)
        return httpx2.Response(200)


class Resolver:
    """Names and what they lead to, one list after another."""

    def __init__(self) -> None:
        self.answers: dict[str, Iterator[list[str]]] = {}
        self.asked: list[str] = []

    async def getaddrinfo(self, host: str, port: object, **_: object) -> list[tuple[object, ...]]:
        self.asked.append(host)
        return [(0, 0, 0, "", (address, 0)) for address in next(self.answers[host])]


@pytest.fixture
async def resolver(monkeypatch: pytest.MonkeyPatch) -> Resolver:
    made = Resolver()
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", made.getaddrinfo)
    return made


async def no(_: httpx2.URL) -> bool:
    return False


async def test_what_was_looked_at_is_connected_to(resolver: Resolver) -> None:
    resolver.answers["cdn.example"] = iter([[OUTSIDE], [INSIDE]])
    inner = Recorded()
    async with httpx2.AsyncClient(transport=PinnedTransport(inner, no)) as client:
        await client.get("https://cdn.example/file")
        assert inner.seen == [(OUTSIDE, "cdn.example", "cdn.example")]
        assert resolver.asked == ["cdn.example"]
        with pytest.raises(InsideError):  # it leads inside by now
            await client.get("https://cdn.example/file")
    assert len(inner.seen) == 1


async def test_one_address_inside_among_others_is_enough(resolver: Resolver) -> None:
    resolver.answers["cdn.example"] = iter([[OUTSIDE, INSIDE], [OUTSIDE, "93.184.215.15"], []])
    inner = Recorded(OUTSIDE)
    async with httpx2.AsyncClient(transport=PinnedTransport(inner, no)) as client:
        with pytest.raises(InsideError):
            await client.get("https://cdn.example/file")
        assert (await client.get("https://cdn.example/file")).status_code == 200
        assert [host for host, _, _ in inner.seen] == [OUTSIDE, "93.184.215.15"]
        with pytest.raises(httpx2.ConnectError, match="is not known"):
            await client.get("https://cdn.example/file")


async def test_a_hub_of_the_internet_that_resolves_inside_after_a_redirect_was_checked_is_told(resolver: Resolver, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check before a redirect saw an address outside; the connection would go inside."""
    monkeypatch.setattr("urllib.request.getproxies", dict)
    resolver.answers["evil.example"] = iter([[INSIDE]])
    resolver.answers["huggingface.co"] = iter([[OUTSIDE]])
    async with Transport(Access("https://huggingface.co"), trust=ssl.create_default_context()) as wire:
        with pytest.raises(HubError, match=r"into this machine or its network \(evil.example\); it is not followed"):
            async with wire.open("https://evil.example/file"):
                pass


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """A site on this machine over https, whose certificate is for the name localhost; the port, and what to trust."""
    certificate, key = write_certificate(tmp_path)

    class Site(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1], certificate
    server.shutdown()
    server.server_close()


async def test_the_certificate_is_looked_at_for_the_name_not_for_the_address(secure: tuple[int, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("urllib.request.getproxies", dict)
    port, certificate = secure
    trust = ssl.create_default_context(cafile=str(certificate))
    async with Transport(Access(f"https://localhost:{port}"), trust=trust) as wire, wire.open(f"https://localhost:{port}/file") as response:
        assert (response.status_code, await wire.read(response, 10)) == (200, b"ok")
    for host, trusted in (("127.0.0.1", trust), ("localhost", ssl.create_default_context())):
        async with Transport(Access(f"https://{host}:{port}"), trust=trusted) as wire:
            with pytest.raises(httpx2.TransportError, match="(?i)certificate"):
                async with wire.open(f"https://{host}:{port}/file"):
                    pass
