"""Connections that never finish a request go after the deadline, and none of them is in the way of one that does."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from itertools import pairwise, product
from typing import Any

import httpx
import uvicorn
from uvicorn.server import ServerState

from modules.api.connections import MOST_WAITING, BoundedProtocol, JoinedHead, bounded_protocol
from modules.api.guard import Asgi, Receive, Scope, Send

HALF = b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: "
WHOLE = b"GET /%s HTTP/1.1\r\nHost: localhost\r\n\r\n"
ATTACKERS = 300
DEADLINE_S = 0.3
NEVER_S = 600.0


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    """`/held` writes its head and holds the connection, `/late` waits behind the head until the client is gone, `/told` tells the request, the rest is an answer at once."""
    if scope["path"].startswith("/told"):
        await tell(scope, receive, send)
        return
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


async def tell(scope: Scope, receive: Receive, send: Send) -> None:
    """The request in two pieces of a stream, or with its length for `/told/whole`."""
    body, more = b"", True
    while more:
        event = await receive()
        if event["type"] == "http.disconnect":
            return
        body, more = body + event["body"], event["more_body"]
    headers = sorted((name.decode(), value.decode()) for name, value in scope["headers"])
    told = json.dumps([scope["method"], scope["path"], headers, body.decode()]).encode() + b"\n"
    length = [(b"content-length", b"%d" % len(told))] if scope["path"] == "/told/whole" else []
    await send({"type": "http.response.start", "status": 200, "headers": length})
    await send({"type": "http.response.body", "body": told[:5], "more_body": True})
    await send({"type": "http.response.body", "body": told[5:]})


@contextlib.asynccontextmanager
async def serving(protocol: type[BoundedProtocol], app: Asgi = answer) -> AsyncIterator[int]:
    """Serves an application with a class of connections; gives the port."""
    async with started(protocol, app) as (port, _):
        yield port


@contextlib.asynccontextmanager
async def started(protocol: type[BoundedProtocol], app: Asgi) -> AsyncIterator[tuple[int, uvicorn.Server]]:
    """The same, with what can be told to end."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    server = uvicorn.Server(uvicorn.Config(app, http=protocol, ws="none", lifespan="off", log_level="error", timeout_graceful_shutdown=1, timeout_keep_alive=1))
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign, assignment]
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield int(listener.getsockname()[1]), server
    finally:
        server.should_exit = server.force_exit = True
        await task


async def connect(port: int, stack: AsyncExitStack) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    stack.callback(writer.close)
    return reader, writer


async def ended(reader: asyncio.StreamReader) -> bytes:
    """What came until the other side ended the connection."""
    with contextlib.suppress(ConnectionError):
        return await reader.read()
    return b""


async def test_hundreds_of_half_open_heads_go_and_a_good_request_is_answered_meanwhile() -> None:
    async with serving(bounded_protocol(of_one_address=1000, head_limit_s=DEADLINE_S)) as port, AsyncExitStack() as stack:
        slow = [await connect(port, stack) for _ in range(ATTACKERS)]
        for _, writer in slow:
            writer.write(HALF)
        async with httpx.AsyncClient() as client:
            assert (await client.get(f"http://127.0.0.1:{port}/")).text == "ok"
        assert await asyncio.wait_for(asyncio.gather(*(ended(reader) for reader, _ in slow)), 30) == [b""] * ATTACKERS


async def test_a_later_head_of_the_same_connection_has_a_deadline_too_and_a_reply_has_none() -> None:
    async with serving(bounded_protocol(of_one_address=8, head_limit_s=0.3)) as port, AsyncExitStack() as stack:
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


async def test_one_address_has_a_number_of_connections_and_those_that_wait_make_room() -> None:
    async with serving(bounded_protocol(of_one_address=8, head_limit_s=NEVER_S)) as port, AsyncExitStack() as stack:
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


async def test_answers_come_whole_through_real_connections() -> None:
    async with serving(bounded_protocol(of_one_address=8, head_limit_s=NEVER_S)) as port, AsyncExitStack() as stack:
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


OTHER_PROTOCOL = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\n"
TOLD = b"POST /told/whole HTTP/1.1\r\nHost: localhost\r\n"
CHUNKS = b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nHost: elsewhere\r\nX-Late: 1\r\n\r\n"


async def told(port: int, data: bytes, cuts: Sequence[int] = (), replies: int = 1) -> list[Any]:
    """What the server understood of requests that are sent in pieces."""
    async with AsyncExitStack() as stack:
        reader, writer = await connect(port, stack)
        for begin, end in pairwise((0, *sorted(cuts), len(data))):
            writer.write(data[begin:end])
            await writer.drain()
            await asyncio.sleep(0.001)
        found = []
        for _ in range(replies):
            assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)).startswith(b"HTTP/1.1 200 ")
            found.append(json.loads(await asyncio.wait_for(reader.readline(), 30)))
        return found


async def test_requests_are_read_however_they_are_cut_and_whatever_else_their_client_would_speak() -> None:
    chance = random.Random(5)
    async with serving(bounded_protocol(of_one_address=100, head_limit_s=NEVER_S)) as port:
        for wish in (b"", OTHER_PROTOCOL):
            for rest in (b"Content-Length: 5\r\n\r\nhello", CHUNKS):
                data = TOLD + wish + rest + TOLD + b"Content-Length: 3\r\n\r\ntwo"
                for cuts in [(), *([chance.randrange(1, len(data)) for _ in range(count)] for count in (1, 1, 2, 3, 8, 60))]:
                    first, second = await told(port, data, cuts, replies=2)
                    assert (first[0], first[3], second[3]) == ("POST", "hello", "two")
                    assert [value for name, value in first[2] if name == "host"] == ["localhost"]  # what stands behind the body is not of the head
                    assert not {"x-late", "upgrade"} & {name for name, _ in first[2] + second[2]}


async def test_nobody_is_connected_to_elsewhere() -> None:
    async with serving(bounded_protocol(of_one_address=8, head_limit_s=NEVER_S)) as port, AsyncExitStack() as stack:
        reader, writer = await connect(port, stack)
        writer.write(b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await asyncio.wait_for(ended(reader), 30)).startswith(b"HTTP/1.1 400 ")


async def test_heads_and_what_follows_a_body_have_a_length() -> None:
    async with serving(bounded_protocol(of_one_address=8, head_limit_s=NEVER_S)) as port:
        line = b"X-Long: " + b"a" * 8_000 + b"\r\n"
        for begun in (WHOLE[:-2] % b"", b"GET / HTTP/1.1\r\nX-Long: ", TOLD + CHUNKS[:-2], TOLD + CHUNKS[:-4]):
            async with AsyncExitStack() as stack:
                reader, writer = await connect(port, stack)
                with contextlib.suppress(ConnectionError):
                    writer.write(begun)
                    for _ in range(60):
                        writer.write(line if begun.endswith(b"\n") else line[:-2])
                        await writer.drain()
                        await asyncio.sleep(0.002)
                assert b" 200 " not in await asyncio.wait_for(ended(reader), 30)  # and it ends by itself
        assert (await told(port, TOLD + b"Content-Length: 900000\r\n\r\n" + b"b" * 900_000, [5, 70_000, 500_000]))[0][3] == "b" * 900_000


async def test_who_leaves_is_missed_though_the_next_request_is_here_already() -> None:
    gone = asyncio.Event()

    async def hold(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"o", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass
        gone.set()

    async with serving(bounded_protocol(of_one_address=8, head_limit_s=NEVER_S), hold) as port, AsyncExitStack() as stack:
        for at_once, late in ((WHOLE % b"" * 2, b""), (WHOLE % b"", WHOLE % b""), (WHOLE % b"", b"GARBAGE\r\n\r\n")):
            gone.clear()
            reader, writer = await connect(port, stack)
            writer.write(at_once)
            await reader.readuntil(b"\r\no\r\n")
            writer.write(late)
            await asyncio.sleep(0.05)
            writer.close()
            await asyncio.wait_for(gone.wait(), 10)


async def test_the_body_of_a_request_that_waits_has_a_limit() -> None:
    begun: list[str] = []

    async def busy(scope: Scope, receive: Receive, send: Send) -> None:
        """Asks again and again whether its client is gone, as a whole answer does; each time something more is read."""
        begun.append(scope["path"])
        for _ in range(30):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.01):
                    await receive()
        await answer(scope, receive, send)

    async with serving(bounded_protocol(of_one_address=8, head_limit_s=NEVER_S), busy) as port, AsyncExitStack() as stack:
        reader, writer = await connect(port, stack)
        writer.write(WHOLE % b"" + TOLD.replace(b"/told/whole", b"/second") + b"Content-Length: 3000000\r\n\r\n" + b"b" * 3_000_000)
        assert (await asyncio.wait_for(ended(reader), 30)).count(b" 200 OK") == 1
        assert begun == ["/"]


class EndsLikeTls(Sends):
    """Hands on what came before, while it ends."""

    def __init__(self, protocol: BoundedProtocol) -> None:
        super().__init__()
        self._protocol = protocol

    def close(self) -> None:
        self._protocol.data_received(WHOLE % b"")
        super().close()


async def test_a_refused_connection_is_neither_served_nor_counted() -> None:
    config, state = uvicorn.Config(answer, ws="none", lifespan="off", log_level="error"), ServerState()
    protocol = bounded_protocol(of_one_address=0)(config, state, {})
    transport = EndsLikeTls(protocol)
    protocol.connection_made(transport)
    assert b" 503 " in transport.sent[0]
    assert transport.sent[1:] == [b"end"]
    assert not state.tasks
    assert not state.connections


async def test_an_old_client_gets_no_chunks_it_does_not_know() -> None:
    async with serving(bounded_protocol(of_one_address=8, head_limit_s=NEVER_S)) as port:
        for path in (b"/told", b"/told/whole"):
            async with AsyncExitStack() as stack:
                reader, writer = await connect(port, stack)
                writer.write(b"GET %s HTTP/1.0\r\nHost: localhost\r\n\r\n" % path)
                head, _, body = (await asyncio.wait_for(ended(reader), 30)).partition(b"\r\n\r\n")
                assert (b"chunked" not in head, json.loads(body)) == (True, ["GET", path.decode(), [["host", "localhost"]], ""])
    async with serving(bounded_protocol(of_one_address=8, head_limit_s=NEVER_S)) as port:
        for more in (OTHER_PROTOCOL, b"Expect: 100-continue\r\n"):  # wishes that it cannot have
            async with AsyncExitStack() as stack:
                reader, writer = await connect(port, stack)
                writer.write(b"POST /told HTTP/1.0\r\nHost: localhost\r\nContent-Length: 2\r\n%s\r\nhi" % more)
                head, _, body = (await asyncio.wait_for(ended(reader), 30)).partition(b"\r\n\r\n")
                assert (head[:15], b"chunked" not in head, json.loads(body)[3]) == (b"HTTP/1.1 200 OK", True, "hi")
        async with AsyncExitStack() as stack:
            reader, writer = await connect(port, stack)
            writer.write(b"GET /told HTTP/2.0\r\nHost: localhost\r\n\r\n")
            assert (await asyncio.wait_for(ended(reader), 30)).startswith(b"HTTP/1.1 400 ")


async def test_many_requests_at_once_are_not_kept_in_memory() -> None:
    begun = 0

    async def count(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal begun
        begun += 1
        await asyncio.sleep(0.001)
        await answer(scope, receive, send)

    wish = b"GET / HTTP/1.1\r\nUpgrade: a\r\nConnection: upgrade\r\n\r\n"
    async with serving(bounded_protocol(of_one_address=8, head_limit_s=NEVER_S), count) as port:
        for requests in (WHOLE % b"" * 8_000, wish * 5_000):
            begun = 0
            async with AsyncExitStack() as stack:
                reader, writer = await connect(port, stack)
                writer.write(requests)
                answers = (await asyncio.wait_for(ended(reader), 30)).count(b" 200 OK")
            assert answers == begun == 1 + MOST_WAITING


async def test_what_was_asked_before_something_that_is_no_request_is_answered_whole() -> None:
    async with serving(bounded_protocol(of_one_address=8, head_limit_s=NEVER_S)) as port:
        no_requests = (b"GARBAGE\r\n\r\n", b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n" + WHOLE % b"told", TOLD + b"Transfer-Encoding: chunked\r\n\r\nno size\r\n")
        for asked, rest in product((1, 3), no_requests):
            for pause_s in (0.0, 0.02):
                async with AsyncExitStack() as stack:
                    reader, writer = await connect(port, stack)
                    writer.write(WHOLE % b"told" * asked + (b"" if pause_s else rest))
                    if pause_s:
                        await reader.readuntil(b" 200 OK")
                        writer.write(rest)
                    found = await asyncio.wait_for(ended(reader), 30)
                assert found.count(b"0\r\n\r\n") == asked or (pause_s and found.endswith(b"Invalid HTTP request received."))


async def test_a_body_in_an_unknown_form_is_refused_before_anybody_answers() -> None:
    async with serving(bounded_protocol(of_one_address=8, head_limit_s=NEVER_S)) as port:
        for form in (b"identity", b"gzip, chunked", b"xchunked"):
            async with AsyncExitStack() as stack:
                reader, writer = await connect(port, stack)
                writer.write(b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: %s\r\n\r\n0\r\n\r\n" % form)
                assert (await asyncio.wait_for(ended(reader), 30)).startswith(b"HTTP/1.1 400 ")
        (request,) = await told(port, b"GET /told/whole HTTP/1.1\r\nHost: localhost \t\r\nTransfer-Encoding: Chunked \r\n\r\n0\r\n\r\n")
        assert request[2] == [["host", "localhost"], ["transfer-encoding", "Chunked"]]


async def test_an_end_begins_nothing_that_waits_behind_an_answer() -> None:
    begun: list[str] = []

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        begun.append(scope["path"])
        await asyncio.sleep(0.3)
        await answer(scope, receive, send)

    async with started(bounded_protocol(of_one_address=8, head_limit_s=NEVER_S), slow) as (port, server), AsyncExitStack() as stack:
        reader, writer = await connect(port, stack)
        writer.write(WHOLE % b"" + WHOLE % b"second" + WHOLE % b"third")
        await asyncio.sleep(0.1)
        server.should_exit = True
        assert (await asyncio.wait_for(ended(reader), 30)).count(b" 200 OK") == 1
        assert begun == ["/"]


async def test_an_upload_that_is_answered_early_has_time_to_end() -> None:
    async with serving(bounded_protocol(of_one_address=8, head_limit_s=0.2)) as port, AsyncExitStack() as stack:
        reader, writer = await connect(port, stack)
        writer.write(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 20\r\n\r\n")
        await reader.readuntil(b"\r\n\r\nok")
        for _ in range(20):
            writer.write(b"b")
            await writer.drain()
            await asyncio.sleep(0.03)
        writer.write(WHOLE % b"")
        await asyncio.wait_for(reader.readuntil(b"\r\n\r\nok"), 30)
