"""A child process with a log: started with a clean environment, watched for its end, asked for its last words.

Knows processes; knows no command and no model.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from modules.core.process import child_environment

ROOT = Path(__file__).resolve().parents[2]
LOG_LIMIT_BYTES = 1 << 20
TAIL_BYTES = 4096
TAIL_LINES = 3


class Child:
    """A started process, its pipes and its log."""

    def __init__(self, process: asyncio.subprocess.Process, log: IO[bytes], log_start: int) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.process = process
        self.input = process.stdin
        self.output = process.stdout
        self._log = log
        self._log_start = log_start

    @classmethod
    async def start(cls, command: Sequence[str], log_path: Path | None) -> Child:
        """Start a command in the project's folder; its errors and whatever libraries print go to the log."""
        log = _open_log(log_path)
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                cwd=ROOT,
                env=child_environment(os.environ),
            )
        except BaseException:
            log.close()
            raise
        return cls(process, log, log.tell())

    @property
    def alive(self) -> bool:
        """Whether it has not ended, as far as is known."""
        return self.process.returncode is None

    def kill(self) -> None:
        """End it at once."""
        if self.alive:
            try:
                self.process.kill()
            except ProcessLookupError:  # it ended by itself just now
                return

    def last_words(self) -> str:
        """The end of what it wrote to its log, as a sentence; empty if it wrote nothing."""
        try:
            self._log.flush()
            size = self._log.seek(0, os.SEEK_END)
            self._log.seek(max(self._log_start, size - TAIL_BYTES))
            lines = [line.strip() for line in self._log.read().decode("utf-8", "replace").splitlines() if line.strip()]
        except (OSError, ValueError):
            return ""
        return f" Its last words: “{' · '.join(lines[-TAIL_LINES:])[-600:]}”." if lines else ""

    def close(self) -> None:
        """Close pipes and log of a process that has ended."""
        self.input.close()
        self._log.close()


def _open_log(path: Path | None) -> IO[bytes]:
    """The log for appending, the old one set aside when it is long; without a path a file nobody else sees."""
    if path is None:
        return tempfile.TemporaryFile("w+b")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file() and path.stat().st_size > LOG_LIMIT_BYTES:
        path.replace(path.with_suffix(path.suffix + ".1"))
    log = path.open("a+b")
    log.seek(0, os.SEEK_END)
    return log
