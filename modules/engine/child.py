"""A child process with a log: started with a clean environment, watched for its end, asked for its last words.

Knows processes; knows no command and no model.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from modules.core.process import child_environment

ROOT = Path(__file__).resolve().parents[2]
LOG_LIMIT_BYTES = 1 << 20
TAIL_BYTES = 4096
TAIL_LINES = 3
INPUT, OUTPUT = 0, 1  # descriptors of a process


class _Ends(asyncio.SubprocessProtocol):
    """Notes when a process and its output have ended, and hands on what it says at its very beginning."""

    def __init__(self, take: Callable[[bytes], None]) -> None:
        loop = asyncio.get_running_loop()
        self.take = take
        self.exited: asyncio.Future[None] = loop.create_future()
        self.silent: asyncio.Future[None] = loop.create_future()

    def pipe_data_received(self, fd: int, data: bytes) -> None:  # before the pipe's own protocol is changed
        self.take(data)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if fd == OUTPUT and not self.silent.done():
            self.silent.set_result(None)

    def process_exited(self) -> None:
        if not self.exited.done():
            self.exited.set_result(None)


class _Output(asyncio.Protocol):
    """What a process says, handed on as it is read: through the protocol of the process it would take one turn of the event loop more."""

    def __init__(self, take: Callable[[bytes], None], before: asyncio.BaseProtocol) -> None:
        self._take = take
        self._before = before

    def data_received(self, data: bytes) -> None:
        self._take(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._before.connection_lost(exc)


class Child:
    """A started process, its pipes and its log."""

    def __init__(self, transport: asyncio.SubprocessTransport, ends: _Ends, log: IO[bytes]) -> None:
        self._transport = transport
        self._ends = ends
        self._log = log
        self._log_start = log.tell()
        self.pid = transport.get_pid()
        self._input = transport.get_pipe_transport(INPUT)
        output = transport.get_pipe_transport(OUTPUT)
        if isinstance(output, asyncio.ReadTransport):
            output.set_protocol(_Output(ends.take, output.get_protocol()))

    @classmethod
    async def start(cls, command: Sequence[str], log_path: Path | None, take: Callable[[bytes], None]) -> Child:
        """Start a command in the project's folder; `take` gets what it says, its errors and whatever libraries print go to the log."""
        log = _open_log(log_path)
        try:
            transport, ends = await asyncio.get_running_loop().subprocess_exec(
                lambda: _Ends(take),
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
        return cls(transport, ends, log)

    @property
    def returncode(self) -> int | None:
        """How it ended; None while it runs, as far as is known."""
        return self._transport.get_returncode()

    @property
    def alive(self) -> bool:
        """Whether it has not ended, as far as is known."""
        return self.returncode is None

    def write(self, data: bytes) -> None:
        """Say something to it, if it still listens."""
        if self.alive and isinstance(self._input, asyncio.WriteTransport) and not self._input.is_closing():
            self._input.write(data)

    async def ended(self, drain_s: float) -> int:
        """Wait for its end, and so long at most for its last words; how it ended."""
        await asyncio.shield(self._ends.exited)
        await asyncio.wait((self._ends.silent,), timeout=drain_s)
        return self.returncode or 0

    def kill(self) -> None:
        """End it at once."""
        if self.alive:
            try:
                self._transport.kill()
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
        self._transport.close()
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
