"""Connections that hold the server up: heads of requests that never end, and more connections than one address needs.

uvicorn waits for ever for the rest of a head; here it has some seconds, at the first request of a connection and at every later one. An address
has a number of connections; beyond it the one goes that waited longest without a whole request, and where all are in use the new one is refused.
And uvicorn sends the head of an answer by itself, for which the other side wakes up though nothing can be done with it yet; here it goes with what follows.
Bodies have limits of their own (see guard.py). Knows h11 as uvicorn uses it; knows no route.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_LIMIT_S = 10.0
HANDSHAKE_LIMIT_S = 10.0  # of TLS, before which nothing of a connection is seen here
REFUSAL = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 5\r\ncontent-type: text/plain\r\ncontent-length: 0\r\n\r\n"

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


class BoundedProtocol(H11Protocol):
    """One connection, with a deadline for each head and a number for each address."""

    head_limit_s: ClassVar[float] = HEAD_LIMIT_S
    of_one_address: ClassVar[int] = 256
    _deadline: asyncio.TimerHandle | None = None
    _waits_since_s = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request, or end where the address has too many connections."""
        super().connection_made(transport)
        self.transport = JoinedHead(transport, self.loop)  # type: ignore[assignment]
        if self._has_room():
            self._wait()
        else:
            transport.write(REFUSAL)
            transport.close()

    def data_received(self, data: bytes) -> None:
        """Pass bytes on; with them a head may have become whole, or a new one begun."""
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        """Go on with what came meanwhile: it may be a part of a head."""
        super().on_response_complete()
        if self.conn.trailing_data[0]:
            self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the deadline."""
        self._wait_no_more()
        super().connection_lost(exc)

    def _look(self) -> None:
        if self.conn.their_state is not h11.IDLE:
            self._wait_no_more()
        elif self._deadline is None:
            self._wait()

    def _wait(self) -> None:
        self._waits_since_s = self.loop.time()
        self._deadline = self.loop.call_later(self.head_limit_s, self._give_up)

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
