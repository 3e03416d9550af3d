"""Measured perplexities as a table in one small file: the newest first, each with a comment that can be changed, and as CSV.

A file that cannot be read is put aside, never written over. Knows no jobs.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, TypeAdapter

from modules.core.errors import NotFound
from modules.core.files import write_atomic

log = logging.getLogger(__name__)

ROWS_LIMIT = 2000
COMMENT_CHARACTERS = 500
FORMULA_BEGINNINGS = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet would compute


class UsedAdapter(BaseModel, frozen=True, extra="ignore"):
    """An adapter that was in use."""

    name: str
    scale: float
    version: str = ""


class PerplexityRow(BaseModel, frozen=True, extra="ignore"):
    """One measurement: what was measured, how, and what came out."""

    id: str
    owner: str
    created_s: float
    model: str
    version: str = ""  # of the model's files
    size_bytes: int = 0
    loader: str = ""
    options: dict[str, Any] = Field(default_factory=dict)  # of the load, where other than usual
    adapters: tuple[UsedAdapter, ...] = ()
    text: str
    text_sha256: str
    window: int
    stride: int
    asked_window: int = 0
    asked_stride: int = 0
    perplexity: float
    deviation: float = 0.0
    bits_per_byte: float = 0.0
    tokens: int = 0
    bytes: int = 0
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    comment: str = ""

    @property
    def subject(self) -> tuple[Any, ...]:
        """What was measured, but for the windows."""
        adapters = tuple((adapter.name, adapter.scale, adapter.version) for adapter in self.adapters)
        return (self.owner, self.version, self.loader, json.dumps(self.options, sort_keys=True), adapters, self.text_sha256)

    def was_asked(self, window: int, stride: int) -> bool:
        """Whether these windows were asked for, or come to the same ones."""
        return window in (self.asked_window, self.window) and stride in (self.asked_stride, self.stride)


class PerplexityTable:
    """Reads and writes the file. One thread at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def rows(self, owner: str) -> tuple[PerplexityRow, ...]:
        """All rows of an owner, the newest first."""
        return tuple(row for row in self._rows() if row.owner == owner)

    def _rows(self) -> tuple[PerplexityRow, ...]:
        try:
            return TypeAdapter(tuple[PerplexityRow, ...]).validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return ()
        except ValueError as error:
            aside = self._path.with_name(f"{self._path.name}.{int(time.time())}.broken")
            self._path.replace(aside)
            log.warning("The table of perplexities cannot be read (%s); it is kept as %s.", str(error).splitlines()[0], aside.name)
            return ()

    def _write(self, rows: Sequence[PerplexityRow]) -> None:
        newest = sorted(rows, key=lambda row: row.created_s, reverse=True)[:ROWS_LIMIT]
        write_atomic(self._path, json.dumps([row.model_dump() for row in newest]), mode=0o600)

    def add(self, row: PerplexityRow) -> None:
        """A new row; one of the same id is there once."""
        rows = self._rows()
        if all(other.id != row.id for other in rows):
            self._write([row, *rows])

    def comment(self, owner: str, row_id: str, text: str) -> None:
        """Replace a comment.

        Raises:
            NotFound: no such row.
        """
        self._change(owner, row_id, lambda row: row.model_copy(update={"comment": text}))

    def delete(self, owner: str, row_id: str) -> None:
        """Take a row out.

        Raises:
            NotFound: no such row.
        """
        self._change(owner, row_id, lambda _: None)

    def _change(self, owner: str, row_id: str, change: Callable[[PerplexityRow], PerplexityRow | None]) -> None:
        rows = self._rows()
        found = next((row for row in rows if (row.owner, row.id) == (owner, row_id)), None)
        if found is None:
            raise NotFound("There is no such row any more; refresh the table.")
        changed = ((change(row) if row is found else row) for row in rows)
        self._write([row for row in changed if row is not None])


def as_csv(rows: Sequence[PerplexityRow]) -> str:
    """The table for a spreadsheet; no cell is one that it would compute."""
    text = io.StringIO()
    writer = csv.writer(text)
    columns = _columns()
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_safe(value(row)) for value in columns.values()])
    return text.getvalue()


def _columns() -> dict[str, Callable[[PerplexityRow], Any]]:
    return {
        "Model": lambda row: row.model,
        "Adapters": lambda row: "; ".join(f"{adapter.name} × {adapter.scale:g}" for adapter in row.adapters),
        "Text": lambda row: row.text,
        "Perplexity": lambda row: row.perplexity if math.isfinite(row.perplexity) else "",
        "Standard error": lambda row: row.deviation,
        "Bits per byte": lambda row: row.bits_per_byte,
        "Window": lambda row: row.window,
        "Stride": lambda row: row.stride,
        "Tokens": lambda row: row.tokens,
        "Bytes": lambda row: row.bytes,
        "Seconds": lambda row: row.seconds,
        "Loader": lambda row: row.loader,
        "Options": lambda row: "; ".join(f"{name}={value}" for name, value in row.options.items()),
        "Date": lambda row: time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row.created_s)),
        "Comment": lambda row: row.comment,
        "Text SHA-256": lambda row: row.text_sha256,
        "Model bytes": lambda row: row.size_bytes,
        "Model version": lambda row: row.version,
    }


def _safe(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA_BEGINNINGS) else value
