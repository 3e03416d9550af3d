"""Server-sent events from bytes in whatever pieces they come. Knows nothing of what the events mean."""

from __future__ import annotations

from collections.abc import Iterator

LINE_LIMIT_BYTES = 4 << 20


class EventError(Exception):
    """A line is longer than any event of a language model."""


class EventParser:
    """Bytes in, the `data` of whole events out."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._data: list[str] = []

    def feed(self, piece: bytes) -> Iterator[str]:
        """The events that this piece completes.

        Raises:
            EventError: a line has more than 4 MiB.
        """
        self._rest += piece
        while (end := self._rest.find(b"\n")) >= 0:
            line = bytes(self._rest[:end]).rstrip(b"\r").decode("utf-8", "replace")
            del self._rest[: end + 1]
            yield from self._take(line)
        if len(self._rest) > LINE_LIMIT_BYTES:
            raise EventError(f"a line of more than {LINE_LIMIT_BYTES >> 20} MiB")

    def end(self) -> Iterator[str]:
        """What stood there without the empty line that should have followed."""
        line = bytes(self._rest).rstrip(b"\r").decode("utf-8", "replace")
        self._rest.clear()
        yield from self._take(line)
        yield from self._take("")

    def _take(self, line: str) -> Iterator[str]:
        if not line:
            if self._data:
                yield "\n".join(self._data)
            self._data.clear()
        elif line.startswith("data:"):
            self._data.append(line.removeprefix("data:").removeprefix(" "))
