"""Connections that hold the server up: heads of requests that never end, and more connections than one address needs.

uvicorn waits for ever for the rest of a head, however long it is; here it has some seconds, at the first request of a connection and at every later one,
and a length. An address has a number of connections; beyond it the one goes that waited longest without a whole request, and where all are in use the new one is refused.
And uvicorn sends the head of an answer by itself, for which the other side wakes up though nothing can be done with it yet; here it goes with what follows.
Bodies have limits of their own (see guard.py). Knows httptools as uvicorn uses it; knows no route. Source: RFC 9112.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, ClassVar

import httptools
from uvicorn.protocols.http.httptools_impl import ASGI3Application, HttpToolsProtocol, RequestResponseCycle

HEAD_LIMIT_S = 10.0
HEAD_LIMIT_BYTES = 64 << 10  # beyond the piece of the system's with which it began, which has four times as many at most
BODY_REST_LIMIT_S = 30.0  # for what is left of a body when the answer is there already
MOST_WAITING, MOST_WAITING_BYTES = 64, 1 << 20  # requests of one connection, sent without waiting for answers, and their bodies
OLD_VERSION = "1.0"
VERSIONS = frozenset({OLD_VERSION, "1.1"})
HANDSHAKE_LIMIT_S = 10.0  # of TLS, before which nothing of a connection is seen here
REFUSAL = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 5\r\ncontent-type: text/plain\r\ncontent-length: 0\r\n\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n"

log = logging.getLogger(__name__)


class JoinedHead:
    """A transport that keeps the head of an answer back until what follows is written, or the event loop comes to something else."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop, self._head = transport, loop, b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send it, after what was kept back."""
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(b"HTTP/1.1 ") and data[9:10] != b"1":  # who asks whether to go on waits for an answer that nothing follows
            self._head = data
            self._loop.call_soon(self._flush)
            return
        self._transport.write(data)

    def close(self) -> None:
        """End the connection once all is sent."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._head:
            head, self._head = self._head, b""
            self._transport.write(head)


class Unchunked:
    """A transport for who speaks HTTP/1.0, which knows no chunks: an answer of unknown length lasts until the connection ends."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._has_begun = self._is_chunked = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send it, as uvicorn puts it together: a head, then a chunk each time, the last with the end or the end alone."""
        if not self._has_begun:
            self._has_begun, self._is_chunked = True, CHUNKED in data
            data = data.replace(CHUNKED, b"")
        elif self._is_chunked:
            size, _, rest = data.partition(b"\r\n")
            data = rest[: int(size or b"0", 16)]
        self._transport.write(data)


class BoundedProtocol(HttpToolsProtocol):
    """One connection, with a deadline for each head and a number for each address."""

    head_limit_s: ClassVar[float] = HEAD_LIMIT_S
    of_one_address: ClassVar[int] = 256
    _deadline: asyncio.TimerHandle | None = None
    _waits_since_s = 0.0
    _in_head = _in_body = False  # of a request that has begun and is not whole
    _quiet_bytes = 0  # with which neither a head was whole nor a body went on
    _is_over = False  # something came that is no request: nothing is read any more
    _answered: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request, or end where the address has too many connections."""
        super().connection_made(transport)
        self.transport = JoinedHead(transport, self.loop)  # type: ignore[assignment]
        if self._has_room():
            self._wait(self.head_limit_s)
        else:
            self._is_over = True  # its request may be here already: TLS hands it on while it ends
            self.connections.discard(self)  # and may take its time with that
            transport.write(REFUSAL)
            transport.close()

    def data_received(self, data: bytes) -> None:
        """Pass bytes on; with them a head may have become whole, or a new one begun."""
        if self._is_over:
            return
        self._unset_keepalive_if_required()
        self._quiet_bytes += len(data)
        try:
            self._read(memoryview(data))
        except httptools.HttpParserError:
            self._read_no_more("Invalid HTTP request received.")
        if self._quiet_bytes > HEAD_LIMIT_BYTES and not self._is_over:
            self._read_no_more(f"The head of the request is longer than {HEAD_LIMIT_BYTES} bytes.")
        if self._is_answering():
            self._wait_no_more()
        elif self._deadline is None:
            self._wait(BODY_REST_LIMIT_S if self._in_body else self.head_limit_s)  # of a body that was answered before it was whole

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._in_head = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a line of the head; those behind a body are nobody's, and would come into what was looked at already.

        Raises:
            HttpParserError: the body comes in a form that is not known (RFC 9112, 6.1), which the parser would say only when it is being answered.
        """
        if not self._in_head:
            return
        name, value = name.lower(), value.rstrip(b" \t")
        if name == b"transfer-encoding" and value.lower() != b"chunked":
            raise httptools.HttpParserError("an unknown transfer encoding")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is whole.

        Raises:
            HttpParserError: it is of a version that is not spoken here, or waits behind more others than is good.
        """
        if self.parser.should_upgrade():
            return
        if self.parser.get_http_version() not in VERSIONS or len(self.pipeline) >= MOST_WAITING:
            raise httptools.HttpParserError("an unknown version, or too many requests at once")
        self._in_head, self._in_body, self._quiet_bytes = False, True, 0
        super().on_headers_complete()
        if 0 < len(self.pipeline) < MOST_WAITING // 2:
            self.flow.resume_reading()  # uvicorn would see no end of the connection until its turn comes

    def on_body(self, body: bytes) -> None:
        """A piece of the body.

        Raises:
            HttpParserError: of one that waits, and with it there are more bytes than is good; nobody else counts them before its turn.
        """
        self._quiet_bytes = 0
        super().on_body(body)
        if self.pipeline and sum(len(cycle.body) for cycle, _ in self.pipeline) > MOST_WAITING_BYTES:
            raise httptools.HttpParserError("too much waits")

    def on_message_complete(self) -> None:
        """The whole request is here."""
        if not self.parser.should_upgrade():
            self._in_body, self._quiet_bytes = False, 0
            super().on_message_complete()

    def shutdown(self) -> None:
        """End after the answer that is being written, whatever waits behind it."""
        if self._answered is not None and not self._answered.response_complete:
            self._answered.keep_alive = False
        else:
            super().shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the deadline. Whose answer is being written is told, also where the next request is here already: uvicorn tells the last one alone."""
        self._wait_no_more()
        super().connection_lost(exc)
        if self._answered is not None and not self._answered.response_complete:
            self._answered.disconnected = True
            self._answered.message_event.set()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answered = cycle
        if cycle.scope["http_version"] == OLD_VERSION:
            cycle.transport = Unchunked(cycle.transport)  # type: ignore[assignment]
            cycle.waiting_for_100_continue = False  # who says so knows not what it means (RFC 9110, 10.1.1)
        super()._start_asgi_task(cycle, app)

    def _read(self, data: memoryview) -> None:
        """Parse it. Who would rather speak another protocol, as Java's client does with each first request, is answered in this one (RFC 9110, 7.8).

        Raises:
            HttpParserError: it is no request.
        """
        while data:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as wish:
                if self.parser.get_method() == b"CONNECT":
                    raise httptools.HttpParserError("nothing is reached through this server") from wish
                data = data[wish.args[0] :]
                self._say_again()

    def _say_again(self) -> None:
        """The parser thinks that what follows is of the other protocol, so another one gets the head, without the wish."""
        first = b"%s %s HTTP/%s\r\n" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        lines = [b"%s: %s\r\n" % line for line in self.headers if line[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does: else an answer would break off for what follows it
        self.parser.feed_data(b"".join((first, *lines, b"\r\n")))

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _read_no_more(self, why: str) -> None:
        """Something is no request: whose requests were whole before are answered, and then it ends."""
        self._is_over, answered = True, self._answered
        if answered is None or answered.response_complete or (answered.more_body and not answered.response_started):
            log.debug("What came from %s is no request.", self.client)
            self.send_400_response(why)
        elif answered.more_body:
            self.transport.abort()
        else:
            if self.cycle.more_body:  # it waits, and will never be whole
                self.pipeline.popleft()
                self.cycle = self.pipeline[0][0] if self.pipeline else answered
            self.cycle.keep_alive = False

    def _wait(self, limit_s: float) -> None:
        self._waits_since_s = self.loop.time()
        self._deadline = self.loop.call_later(limit_s, self._give_up)

    def _wait_no_more(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        self._deadline = None
        log.debug("A connection from %s was given up: no whole request came.", self.client)
        holds = self.scheme == "https" or self.transport.get_write_buffer_size()  # its end would wait for the other side
        (self.transport.abort if holds else self.transport.close)()  # browsers open connections beforehand: those end like any other

    def _has_room(self) -> bool:
        """Whether this connection can stay; one of the same address that only waits makes room."""
        address = self.client[0] if self.client else ""
        same = [other for other in self.connections if isinstance(other, BoundedProtocol) and (other.client[0] if other.client else "") == address]
        if len(same) <= self.of_one_address:
            return True
        waiting = [other for other in same if other._deadline is not None]
        if waiting:
            min(waiting, key=lambda other: other._waits_since_s)._leave()
        return bool(waiting)

    def _leave(self) -> None:
        self._wait_no_more()
        self.connections.discard(self)  # counted no more, though its end comes a moment later
        self.transport.abort()


def bounded_protocol(of_one_address: int, head_limit_s: float = HEAD_LIMIT_S) -> type[BoundedProtocol]:
    """The class of all connections of a server with these limits."""
    return type("BoundedConnection", (BoundedProtocol,), {"of_one_address": of_one_address, "head_limit_s": head_limit_s})
