"""Cuts what comes through a pipe, in pieces of any size, into the messages that were sent. Knows frames; knows no pipe and no command."""

from __future__ import annotations

import logging
from collections.abc import Callable

from modules.engine.wire import HEADER_BYTES, Message, body_length, from_body

log = logging.getLogger(__name__)


class Frames:
    """Hands on each message as soon as it is whole; before anybody listens they are kept."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._failed = False
        self._take: Callable[[Message], None] | None = None
        self._fail: Callable[[Exception], None] | None = None

    def listen(self, take: Callable[[Message], None], fail: Callable[[Exception], None]) -> None:
        """From now on `take` gets the messages. `fail` is told once of what is no frame, or no message that `take` knows; nothing is taken after that."""
        self._take, self._fail = take, fail
        self.feed(b"")

    def feed(self, data: bytes) -> None:
        """The next piece."""
        if self._failed:
            return
        held = self._held
        held += data
        while self._take is not None and len(held) >= HEADER_BYTES:
            try:
                end = HEADER_BYTES + body_length(held[:HEADER_BYTES])
                if len(held) < end:
                    return
                body = bytes(held[HEADER_BYTES:end])
                del held[:end]
                self._take(from_body(body))
            except Exception as error:  # whatever it was: what follows makes no sense any more
                self._failed, self._take = True, None
                held.clear()
                log.exception("What came through a pipe was not understood")
                if self._fail is not None:
                    self._fail(error)
