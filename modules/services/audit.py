"""The audit log: who did what to this server and when, one JSON object a line, in files that only grow and then make room for the next one.

What is written is names of things and of people, ids of keys, addresses and outcomes; never a prompt, a reply, a password, a key or a token. Knows no HTTP: a front end says
where a request comes from (`coming_from`), and calls `note` for what it does; services call it for what they do whoever asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, Protocol

from modules.core.person import Person, asking

log = logging.getLogger(__name__)

FILE_NAME = "audit.jsonl"
FILE_BYTES = 4 << 20
KEPT_FILES = 8  # beside the present one
FIELD_CHARACTERS = 300  # most of any field
PAGE_ENTRIES = 100
FIELDS = ("time", "person", "name", "key", "address", "action", "object", "outcome", "why")
Outcome = Literal["done", "refused", "failed"]

_ADDRESS: ContextVar[str] = ContextVar("address", default="")


class Note(Protocol):
    """How services tell what was done."""

    def __call__(self, action: str, object: str = "", outcome: Outcome = "done", why: str = "") -> None:
        """Something was done to `object`, or was not, and why not."""
        ...


def unnoted(action: str, object: str = "", outcome: Outcome = "done", why: str = "") -> None:
    """For services that nobody keeps an eye on."""


@contextmanager
def coming_from(address: str) -> Iterator[None]:
    """Until this ends, what is noted was asked for from this address."""
    token = _ADDRESS.set(address)
    try:
        yield
    finally:
        _ADDRESS.reset(token)


class AuditLog:
    """The files of one server."""

    def __init__(self, state_dir: Path, *, file_bytes: int = FILE_BYTES, kept_files: int = KEPT_FILES) -> None:
        self._path = state_dir / FILE_NAME
        self._file_bytes = file_bytes
        self._kept_files = kept_files
        self._writing = threading.Lock()
        self._last = ""  # time of the last entry: no two have the same

    def note(self, action: str, object: str = "", outcome: Outcome = "done", why: str = "", *, person: Person | None = None) -> None:
        """Write one entry; `person` where that is not who asks. A disk that refuses stops nothing: the server's own log says it."""
        who = person or asking()
        entry = {
            "person": who.id if who else "", "name": who.name if who else "", "key": who.key_id if who else "", "address": _ADDRESS.get(),
            "action": action, "object": object, "outcome": outcome, "why": why,
        }  # fmt: skip
        kept = {name: _short(text) for name, text in entry.items() if text}
        with self._writing:
            self._last = self._now()
            line = json.dumps({"time": self._last, **kept}, ensure_ascii=False) + "\n"
            try:
                self._append(line.encode("utf-8", "replace"))
            except OSError as error:
                log.error("The audit log could not be written (%s): %s %s", error.strerror, action, outcome)

    @property
    def address(self) -> str:
        """Where the present request comes from."""
        return _ADDRESS.get()

    async def read(self, *, before: str = "", text: str = "", count: int = PAGE_ENTRIES) -> list[dict[str, str]]:
        """The newest entries, of those before a time and with a text in any field, the newest first."""
        return await asyncio.to_thread(self._read, before, text.casefold(), count)

    def whole(self) -> Iterator[bytes]:
        """All files, the oldest first."""
        for path in reversed(self._paths()):
            try:
                yield path.read_bytes()
            except FileNotFoundError:  # it has just made room
                continue

    # ---- files -----------------------------------------------------------------------------------------------------

    def _now(self) -> str:
        now = datetime.now(UTC)
        if self._last and (last := datetime.fromisoformat(self._last)) >= now:
            now = last + timedelta(microseconds=1)
        return now.isoformat(timespec="microseconds")

    def _append(self, line: bytes) -> None:
        with contextlib.suppress(FileNotFoundError):
            if self._path.stat().st_size + len(line) > self._file_bytes:
                self._rotate()
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, line)
        finally:
            os.close(descriptor)

    def _rotate(self) -> None:
        for number in range(self._kept_files, 0, -1):
            source = self._numbered(number - 1)
            if source.exists():
                source.replace(self._numbered(number))

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"audit.{number}.jsonl") if number else self._path

    def _paths(self) -> list[Path]:
        """Those there are, the newest first."""
        return [path for number in range(self._kept_files + 1) if (path := self._numbered(number)).exists()]

    def _read(self, before: str, text: str, count: int) -> list[dict[str, str]]:
        found: list[dict[str, str]] = []
        for path in self._paths():
            try:
                lines = path.read_text(encoding="utf-8", errors="replace").split("\n")  # other ends of lines stand as they are in what is told of
            except FileNotFoundError:
                continue
            for line in reversed(lines):
                entry = _entry(line)
                if entry is None or (before and entry["time"] >= before) or (text and not _has(entry, text)):
                    continue
                found.append(entry)
                if len(found) >= count:
                    return found
        return found


def _short(text: str) -> str:
    return text if len(text) <= FIELD_CHARACTERS else text[: FIELD_CHARACTERS - 1] + "…"


def _entry(line: str) -> dict[str, str] | None:
    """The entry of a line; None where it is none, as when the machine lost its power while it was written."""
    try:
        entry: Any = json.loads(line)
    except ValueError:
        return None
    if not isinstance(entry, dict) or "time" not in entry:
        return None
    return {name: str(entry.get(name, "")) for name in FIELDS}


def _has(entry: Mapping[str, str], text: str) -> bool:
    return any(text in value.casefold() for value in entry.values())
