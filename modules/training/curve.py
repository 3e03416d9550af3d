"""What a run writes down as it goes: rows of its curve and sample texts, one JSON object a line.

At a resume both files are cut back to what the checkpoint knew of them, so that no step stands there twice. A full disk costs rows, never the run.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from pathlib import Path
from typing import Any


class Lines:
    """One such file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def size_bytes(self) -> int:
        """How far it reaches."""
        try:
            return self._path.stat().st_size
        except OSError:
            return 0

    def append(self, **values: Any) -> None:
        """Write a line, whole or not at all; numbers that are none (nan) and what is None are left out."""
        plain = {name: value for name, value in values.items() if value is not None and not (isinstance(value, float) and not math.isfinite(value))}
        line = json.dumps({name: round(value, 8) if isinstance(value, float) else value for name, value in plain.items()}, ensure_ascii=False) + "\n"
        data = line.encode("utf-8", "replace")
        with contextlib.suppress(OSError):
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o600)
            try:
                start = os.fstat(descriptor).st_size
                self._write(descriptor, data, start)
            finally:
                os.close(descriptor)

    @staticmethod
    def _write(descriptor: int, data: bytes, start: int) -> None:
        try:
            whole = os.write(descriptor, data) == len(data)
        except OSError:
            whole = False
        if not whole:
            os.ftruncate(descriptor, start)

    def cut(self, size_bytes: int) -> None:
        """Forget what was written after so many bytes."""
        with contextlib.suppress(FileNotFoundError), self._path.open("r+b") as file:
            file.truncate(min(size_bytes, self.size_bytes))
            os.fsync(file.fileno())
