"""Connections that never finish a request go after the deadline, and none of them is in the way of one that does."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest_asyncio
import uvicorn

from modules.api.connections import BoundedProtocol, JoinedHead, bounded_protocol
from modules.api.guard import Receive, Scope, Send

HALF = b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: "
WHOLE = b"GET /%s HTTP/1.1\r\nHost: localhost\r\n\r\n"
ATTACKERS = 300
DEADLINE_S = 0.3
NEVER_S = 600.0


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    """`/held` writes its head and holds the connection, `/late` waits behind the head until the client is gone; everything else is an answer at once."""
    if scope["path"] == "/asked":
        await receive()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    if scope["path"] == "/late":
        await receive()
        await receive()
    if scope["path"] == "/held":
        await send({"type": "http.response.body", "body": b"o", "more_body": True})
        await receive()
        await receive()  # until the client is gone
    await send({"type": "http.response.body", "body": b"ok"})


@pytest_asyncio.fixture
async def start() -> AsyncIterator[Callable[[type[BoundedProtocol]], int]]:
    """Serves with a class of connections; gives the port."""
    running: list[tuple[uvicorn.Server, asyncio.Task[None]]] = []

    def begin(protocol: type[BoundedProtocol]) -> int:
        listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        server = uvicorn.Server(uvicorn.Config(answer, http=protocol, ws="none", lifespan="off", log_level="error", timeout_graceful_shutdown=1))
        server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign, assignment]
        running.append((server, asyncio.create_task(server.serve(sockets=[listener]))))
        return int(listener.getsockname()[1])

    yield begin
    for server, task in running:
        server.should_exit = server.force_exit = True
        await task


async def connect(port: int, stack: AsyncExitStack) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    stack.callback(writer.close)
    return reader, writer


async def ended(reader: asyncio.StreamReader) -> bytes:
    """What came until the other side ended the connection."""
    with contextlib.suppress(ConnectionError):
        return await reader.read()
    return b""


async def test_hundreds_of_half_open_heads_go_and_a_good_request_is_answered_meanwhile(start: Callable[[type[BoundedProtocol]], int]) -> None:
    port = start(bounded_protocol(of_one_address=1000, head_limit_s=DEADLINE_S))
    async with AsyncExitStack() as stack:
        slow = [await connect(port, stack) for _ in range(ATTACKERS)]
        for _, writer in slow:
            writer.write(HALF)
        async with httpx.AsyncClient() as client:
            assert (await client.get(f"http://127.0.0.1:{port}/")).text == "ok"
        assert await asyncio.wait_for(asyncio.gather(*(ended(reader) for reader, _ in slow)), 30) == [b""] * ATTACKERS


async def test_a_later_head_of_the_same_connection_has_a_deadline_too_and_a_reply_has_none(start: Callable[[type[BoundedProtocol]], int]) -> None:
    port = start(bounded_protocol(of_one_address=8, head_limit_s=0.3))
    async with AsyncExitStack() as stack:
        held, writer = await connect(port, stack)
        writer.write(WHOLE % b"held")
        await held.readuntil(b"\r\n\r\no")
        second, writer = await connect(port, stack)
        writer.write(WHOLE % b"")
        await second.readuntil(b"ok")
        writer.write(HALF)
        assert await asyncio.wait_for(ended(second), 30) == b""
        piped, writer = await connect(port, stack)
        writer.write(WHOLE % b"" + HALF)  # in one piece: the rest lies in the buffer when the reply is done
        await piped.readuntil(b"ok")
        assert await asyncio.wait_for(ended(piped), 30) == b""
        assert not held.at_eof()  # it outlived two deadlines


async def test_one_address_has_a_number_of_connections_and_those_that_wait_make_room(start: Callable[[type[BoundedProtocol]], int]) -> None:
    port = start(bounded_protocol(of_one_address=8, head_limit_s=NEVER_S))
    async with AsyncExitStack() as stack:
        slow = [await connect(port, stack) for _ in range(8)]
        for _, writer in slow:
            writer.write(HALF)
        used = []
        for _ in range(8):  # each takes the place of one that only waits
            reader, writer = await connect(port, stack)
            writer.write(WHOLE % b"held")
            await reader.readuntil(b"\r\n\r\no")
            used.append(reader)
        assert await asyncio.wait_for(asyncio.gather(*(ended(reader) for reader, _ in slow)), 30) == [b""] * 8
        reader, _ = await connect(port, stack)
        assert (await asyncio.wait_for(ended(reader), 30)).startswith(b"HTTP/1.1 503 ")
        assert not any(reader.at_eof() for reader in used)


class Sends(asyncio.Transport):
    """Counts what is handed to the system."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[bytes] = []

    def write(self, data: Any) -> None:
        self.sent.append(bytes(data))

    def close(self) -> None:
        self.sent.append(b"end")


async def test_the_head_of_an_answer_goes_with_what_follows_or_alone_where_nothing_does() -> None:
    below = Sends()
    joined = JoinedHead(below, asyncio.get_running_loop())
    joined.write(b"HTTP/1.1 200 OK\r\n\r\n")
    joined.write(b"first")
    joined.write(b"second")
    await asyncio.sleep(0)
    assert below.sent == [b"HTTP/1.1 200 OK\r\n\r\nfirst", b"second"]
    joined.write(b"HTTP/1.1 204 No Content\r\n\r\n")
    await asyncio.sleep(0)
    joined.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert below.sent[2:] == [b"HTTP/1.1 204 No Content\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"]
    joined.write(b"HTTP/1.1 503 Service Unavailable\r\n\r\n")
    joined.close()
    assert below.sent[4:] == [b"HTTP/1.1 503 Service Unavailable\r\n\r\n", b"end"]


async def test_answers_come_whole_through_real_connections(start: Callable[[type[BoundedProtocol]], int]) -> None:
    port = start(bounded_protocol(of_one_address=8, head_limit_s=NEVER_S))
    async with AsyncExitStack() as stack:
        reader, writer = await connect(port, stack)
        for _ in range(3):
            writer.write(WHOLE % b"")
            assert (await asyncio.wait_for(reader.read(10_000), 30)).endswith(b"\r\n\r\nok")
        writer.write(b"POST /asked HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)).startswith(b"HTTP/1.1 100 ")
        writer.write(b"hi")
        assert (await asyncio.wait_for(reader.readuntil(b"ok"), 30)).startswith(b"HTTP/1.1 200 ")
        writer.write(WHOLE % b"late")
        assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)).startswith(b"HTTP/1.1 200 ")
