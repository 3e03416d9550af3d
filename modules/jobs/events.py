"""The events of a job: one JSON object a line, appended by one process at a time, read by any.

A line is written as a whole or taken back, a torn last line is skipped, old progress is thinned out so that the file stays small, and a page
reserved beforehand takes the last words when the disk is full. Knows no meaning of an event but "progress".
"""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path
from typing import Any

from modules.core.files import write_atomic

log = logging.getLogger(__name__)

EVENTS_NAME = "events.jsonl"
RESERVE_NAME = "reserve"
RESERVE_BYTES = 4096
LIMIT_BYTES = 256 * 1024
KEPT_RECENT = 64  # progress events that are never thinned out
KEPT_OTHERS = 500  # events that are no progress: some three for each start
SHORTENED_CHARACTERS = 500

Event = dict[str, Any]


class EventReader:
    """Reads what came since the last time."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / EVENTS_NAME
        self._reserve_path = directory / RESERVE_NAME
        self._inode = self._offset = 0
        self._reserve = b""

    def read(self) -> tuple[bool, list[Event]]:
        """Whether these are all events rather than further ones, and the events in order."""
        reserve = _content(self._reserve_path).rstrip()
        try:
            with self._path.open("rb") as file:
                status = os.fstat(file.fileno())
                whole = status.st_ino != self._inode or status.st_size < self._offset or reserve != self._reserve
                start = 0 if whole else self._offset
                file.seek(start)
                data = file.read()
        except FileNotFoundError:
            return True, _parsed(reserve)
        complete = data[: data.rfind(b"\n") + 1]
        self._inode, self._offset, self._reserve = status.st_ino, start + len(complete), reserve
        return whole, _in_order(complete, reserve) if whole else _parsed(complete)


class EventWriter:
    """Appends. Only who holds the job's lock, or starts its worker, may have one."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / EVENTS_NAME
        self._reserve_path = directory / RESERVE_NAME
        events = EventReader(directory).read()[1]
        self._number = events[-1]["n"] if events else 0
        self._descriptor = self._open()
        self._next_look_bytes = LIMIT_BYTES

    def close(self) -> None:
        """Give the file back."""
        os.close(self._descriptor)

    def append(self, event: str, *, durable: bool = True, **values: Any) -> bool:
        """Write one event; False when it could not be written, and then nothing of it was."""
        if not self._put(self._line(event, values), durable):
            return False
        self._number += 1
        if os.fstat(self._descriptor).st_size > self._next_look_bytes:
            self._compact()
        return True

    def say(self, event: str, **values: Any) -> bool:
        """Write one event that must be known: on a full disk it goes into the reserve, cut down if it must be."""
        if self.append(event, **values):
            return True
        written = self._into_reserve(self._line(event, values)) or self._into_reserve(self._line(event, _shortened(values)))
        self._number += written
        return written

    def tidy(self) -> None:
        """Move what lies in the reserve into the file, if the disk has room by now."""
        reserve = _content(self._reserve_path).rstrip()
        if len(_content(self._reserve_path)) == RESERVE_BYTES and not reserve:
            return
        if self._rewrite(_in_order(_content(self._path), reserve)):
            make_reserve(self._reserve_path.parent)

    # ---- how -------------------------------------------------------------------------------------------------------

    def _open(self) -> int:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o600)
        size = os.fstat(descriptor).st_size
        if size and _last_byte(descriptor, size) != b"\n":  # a writer was killed in the middle of a line
            os.ftruncate(descriptor, _content(self._path).rfind(b"\n") + 1)
        return descriptor

    def _line(self, event: str, values: Event) -> bytes:
        entry = {"n": self._number + 1, "t": round(time.time(), 3), "event": event, **values}
        return json.dumps(entry, default=str).encode() + b"\n"

    def _put(self, line: bytes, durable: bool) -> bool:
        start = os.fstat(self._descriptor).st_size
        try:
            whole = os.write(self._descriptor, line) == len(line)
            if whole and durable:
                os.fsync(self._descriptor)
        except OSError as error:
            log.warning("%s: %s", self._path.name, error)
            whole = False
        if not whole:
            os.ftruncate(self._descriptor, start)
        return whole

    def _into_reserve(self, line: bytes) -> bool:
        """Overwrite blanks with a line: that takes no room on the disk."""
        content = _content(self._reserve_path)
        start = len(content.rstrip(b" "))
        if start + len(line) > len(content):
            return False
        try:
            with self._reserve_path.open("r+b", buffering=0) as file:
                file.seek(start)
                written = file.write(line)
                os.fsync(file.fileno())
        except OSError as error:
            log.warning("%s: %s", self._reserve_path.name, error)
            return False
        return written == len(line)

    def _compact(self) -> None:
        """Thin out old progress until half of the limit is free again; if that fails, it is tried again later."""
        self._rewrite(_thinned(_in_order(_content(self._path), b"")))
        self._next_look_bytes = max(LIMIT_BYTES, os.fstat(self._descriptor).st_size + LIMIT_BYTES // 2)

    def _rewrite(self, events: list[Event]) -> bool:
        try:
            write_atomic(self._path, b"".join(json.dumps(event).encode() + b"\n" for event in events), mode=0o600)
        except OSError as error:
            log.warning("%s could not be rewritten: %s", self._path.name, error)
            return False
        os.close(self._descriptor)
        self._descriptor = self._open()
        return True


def make_reserve(directory: Path) -> None:
    """Take room on the disk for the last words."""
    path = directory / RESERVE_NAME
    try:
        with path.open("r+b" if path.exists() else "wb") as file:  # in place: the room is kept
            file.write(b" " * RESERVE_BYTES)
            file.truncate()
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        log.warning("No room could be reserved in %s: %s", directory, error)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def _last_byte(descriptor: int, size: int) -> bytes:
    os.lseek(descriptor, size - 1, os.SEEK_SET)
    return os.read(descriptor, 1)


def _parsed(data: bytes) -> list[Event]:
    """The lines that are events; what is damaged is passed over."""
    events = []
    for line in data.splitlines():
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(entry, dict) and isinstance(entry.get("n"), int) and isinstance(entry.get("event"), str) and isinstance(entry.get("t"), int | float):
            events.append(entry)
    return events


def _in_order(data: bytes, reserve: bytes) -> list[Event]:
    by_number = {event["n"]: event for event in _parsed(data) + _parsed(reserve)}
    return [by_number[number] for number in sorted(by_number)]


def _shortened(values: Event) -> Event:
    return {name: value[:SHORTENED_CHARACTERS] if isinstance(value, str) else value for name, value in values.items() if not isinstance(value, dict)}


def _thinned(events: list[Event]) -> list[Event]:
    """Every second old progress event less, as often as needed."""
    others = [event for event in events if event["event"] != "progress"][-KEPT_OTHERS:]
    progress = [event for event in events if event["event"] == "progress"]
    old, recent = progress[:-KEPT_RECENT], progress[-KEPT_RECENT:]
    while old and sum(len(json.dumps(event)) + 1 for event in others + old + recent) > LIMIT_BYTES // 2:
        old = old[::2] if len(old) > 1 else []
    return sorted(others + old + recent, key=lambda event: int(event["n"]))
