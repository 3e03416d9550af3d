"""A clock for streams of an OpenAI-compatible API: sends requests, writes down when which bytes came, and reads them only afterwards.

One thread and plain sockets: a client that takes a core of its own would be part of what is measured.
"""

from __future__ import annotations

import bisect
import json
import selectors
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any

SILENCE_LIMIT_S = 900.0
READ_BYTES = 1 << 16


class RefusalError(RuntimeError):
    """A server answered with an error; its status and its words."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(f"{status}: {words[:300]}")
        self.status = status


@dataclass(frozen=True)
class Reply:
    """A stream that has ended."""

    sent_s: float
    events: tuple[tuple[float, dict[str, Any]], ...]  # when it was there, and what it says
    asked: int = 0  # tokens at most

    @cached_property
    def pieces(self) -> tuple[tuple[float, str], ...]:
        """Text with its time."""
        found = ((at_s, _text(event)) for at_s, event in self.events)
        return tuple((at_s, text) for at_s, text in found if text)

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(text for _, text in self.pieces)

    @property
    def first_s(self) -> float:
        """From the request to the first text.

        Raises:
            ValueError: there was none.
        """
        if not self.pieces:
            raise ValueError("a reply without text cannot be timed; ask for more tokens")
        return self.pieces[0][0] - self.sent_s

    @property
    def whole_s(self) -> float:
        """From the request to the end of the reply."""
        return self.events[-1][0] - self.sent_s

    @property
    def usage(self) -> dict[str, Any]:
        """What the server counted; empty where it does not say."""
        return next((event["usage"] for _, event in reversed(self.events) if event.get("usage")), {})

    @property
    def tokens(self) -> int:
        """Tokens that were written; where the server does not count, all that were asked for, or its pieces of text."""
        ends = (choice.get("finish_reason") for _, event in self.events for choice in event.get("choices") or ())
        return int(self.usage.get("completion_tokens") or (self.asked if "length" in ends else len(self.pieces)))

    @property
    def cached_tokens(self) -> int:
        """Tokens of the prompt that needed no computing."""
        return int((self.usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0)

    @property
    def tokens_per_s(self) -> float:
        """Speed of writing: after the first token, until the last."""
        return (self.tokens - 1) / max(1e-9, self.whole_s - self.first_s)

    def longest_gap_s(self, begin_s: float, end_s: float) -> float:
        """Longest time without news for who reads along, of what ended in a span of the clock."""
        times = [at_s for at_s, _ in self.pieces]
        gaps = [after - before for before, after in pairwise(times) if after > begin_s and before < end_s]
        return max(gaps, default=0.0)


def _text(event: dict[str, Any]) -> str:
    for choice in event.get("choices") or ():
        return str(choice.get("text") or (choice.get("delta") or {}).get("content") or "")
    return ""


class Stream:
    """One request: connected when it is made, timed from `send` on."""

    def __init__(self, port: int, path: str, body: dict[str, Any]) -> None:
        self._asked = int(body.get("max_tokens") or 0)
        data = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\nConnection: close\r\n\r\n"
        self._request = head.encode() + data
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sent_s = 0.0
        self.reads: list[tuple[float, bytes]] = []
        self.done = False

    def send(self) -> Stream:
        """Start the clock."""
        self.sent_s = time.perf_counter()
        self.socket.sendall(self._request)
        return self

    def read(self) -> bool:
        """Take what is there; False at the end."""
        data = self.socket.recv(READ_BYTES)
        self.reads.append((time.perf_counter(), data))
        return bool(data)

    def close(self) -> None:
        """Go away, whether or not it has ended."""
        self.done = True
        self.socket.close()

    def reply(self) -> Reply:
        """What came.

        Raises:
            RefusalError: an error, as an answer or in the stream.
        """
        raw = b"".join(data for _, data in self.reads)
        head, _, rest = raw.partition(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1]) if head.startswith(b"HTTP/") else 0
        if status != 200:
            raise RefusalError(status, rest.decode(errors="replace"))
        ends = list(accumulate(len(data) for _, data in self.reads))
        events = []
        for place, line in _lines(raw, len(head) + 4, b"transfer-encoding: chunked" in head.lower()):
            if line.startswith(b"data:") and not line.endswith(b"[DONE]"):
                event = json.loads(line[5:])
                if "error" in event:
                    raise RefusalError(status, json.dumps(event["error"]))
                events.append((self.reads[bisect.bisect_left(ends, place)][0], event))
        return Reply(self.sent_s, tuple(events), self._asked)


def _lines(raw: bytes, start: int, chunked: bool) -> Iterator[tuple[int, bytes]]:
    """The lines of a body, each with how many bytes had to come for it."""
    line = bytearray()
    for begin, end in _chunks(raw, start) if chunked else [(start, len(raw))]:
        place = begin
        while (newline := raw.find(b"\n", place, end)) >= 0:
            line += raw[place:newline]
            yield newline + 1, bytes(line.rstrip(b"\r"))
            line.clear()
            place = newline + 1
        line += raw[place:end]


def _chunks(raw: bytes, start: int) -> Iterator[tuple[int, int]]:
    """Where the data of the chunks of a body stand; the last may be cut off."""
    place = start
    while (newline := raw.find(b"\r\n", place)) >= 0:
        size = int(raw[place:newline].split(b";")[0], 16)
        if not size:
            return
        yield newline + 2, min(newline + 2 + size, len(raw))
        place = newline + 4 + size


def follow(streams: Sequence[Stream], until: Callable[[], bool] = lambda: False) -> None:
    """Read all until they have ended, or until something is so.

    Raises:
        TimeoutError: no server says anything any more.
    """
    with selectors.DefaultSelector() as selector:
        for stream in streams:
            if not stream.done:
                selector.register(stream.socket, selectors.EVENT_READ, stream)
        while selector.get_map() and not until():
            ready = selector.select(SILENCE_LIMIT_S)
            if not ready:
                raise TimeoutError(f"no server said anything for {SILENCE_LIMIT_S:.0f} s")
            for key, _ in ready:
                if not key.data.read():
                    selector.unregister(key.fileobj)
                    key.data.close()
