"""The child's end of the connection to its parent, and what makes a process a well-behaved child.

Standard input and output carry frames; whatever a library prints goes to standard error, the log. Knows descriptors and the operating
system; knows no command and no model.
"""

from __future__ import annotations

import ctypes
import logging
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable

from modules.core.errors import AppError
from modules.core.process import be_expendable, name_thread
from modules.engine.wire import (
    HEADER_BYTES,
    FrameError,
    Message,
    body_length,
    error_to_wire,
    from_body,
    to_frame,
)

log = logging.getLogger(__name__)

PR_SET_PDEATHSIG = 1
SWITCH_S = 0.0005  # how long a thread that computes in Python may keep the one with the model waiting; the default is ten times that
OOM_SCORE = 800  # of 1000: when memory runs out, the system ends an engine rather than the server

Outgoing = Message | Callable[[], Message | None]


class Channel:
    """Frames in and out over two descriptors. Any thread may send; one thread receives."""

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self._input = os.fdopen(read_fd, "rb")
        self._write_fd = write_fd
        self._outgoing: queue.SimpleQueue[Outgoing | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write, name="writer", daemon=True)
        self._writer.start()

    def receive(self) -> Message | None:
        """The next message; None when the parent is gone."""
        try:
            header = self._input.read(HEADER_BYTES)
            if len(header) < HEADER_BYTES:
                return None
            length = body_length(header)
            body = self._input.read(length)
            return from_body(body) if len(body) == length else None
        except (OSError, FrameError) as error:
            log.error("The connection to the parent broke: %s", error)
            return None

    def send(self, message: Outgoing) -> None:
        """Send soon, in order. A callable is asked for its message on the writing thread, which spares the caller's time."""
        self._outgoing.put(message)

    def close(self, timeout_s: float = 2.0) -> None:
        """Wait until everything is written."""
        self._outgoing.put(None)
        self._writer.join(timeout_s)

    def _write(self) -> None:
        name_thread()
        while (message := self._outgoing.get()) is not None:
            made = message() if callable(message) else message
            if made is None:
                continue
            try:
                data = memoryview(to_frame(made))
            except FrameError as error:
                told = AppError(f"The answer is too large to be handed over: {error} Ask for less at once.")
                data = memoryview(to_frame({"re": made.get("re"), "error": error_to_wire(told)}))
            try:
                while data:
                    data = data[os.write(self._write_fd, data) :]
            except OSError:
                return  # the parent is gone; the reading side notices too


def take_stdio() -> Channel:
    """Keep standard input and output for frames, and point descriptors 0 and 1 where a library can do no harm."""
    read_fd, write_fd = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    if sys.platform == "win32":
        import msvcrt

        for descriptor in (read_fd, write_fd):
            msvcrt.setmode(descriptor, os.O_BINARY)
    return Channel(read_fd, write_fd)


def guard_process() -> None:
    """End with the parent, leave no core dump, be the first to go when memory runs out, leave Ctrl-C to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.setswitchinterval(SWITCH_S)
    be_expendable(OOM_SCORE)
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:  # it ended before the line above
            os._exit(0)
