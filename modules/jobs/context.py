"""The worker's side of a job: what a work function may say and when it learns that it is to stop.

Progress may come thousands of times a second; a few times a second the newest is written. Knows no kind of work.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modules.core.job import Cancelled
from modules.jobs.events import EventWriter
from modules.jobs.record import LOG_NAME, StopReason, stop_reason

PROGRESS_INTERVAL_S = 0.25
LOG_LIMIT_BYTES = 1 << 20
LOG_LINE_CHARACTERS = 2000
METRICS_LIMIT = 32
METRIC_CHARACTERS = 200
SECRET_CHARACTERS = 6  # what is shorter is no secret, and would blot out half of the log
DISK_FULL = "The disk is full: progress cannot be written down. Free some space; the work goes on."


class StopFlag:
    """Whether this process was asked to stop: by a signal, or by the file that also says why."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.asked = False

    def listen(self) -> None:
        """From now on a signal sets the flag rather than ends the process; a closed terminal is no reason to stop."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._take)
        if sys.platform != "win32":
            signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def _take(self, _number: int, _frame: object) -> None:
        self.asked = True

    def look(self) -> None:
        """See whether the file is there."""
        if self.reason() is not None:
            self.asked = True

    def reason(self) -> StopReason | None:
        """Why, if somebody wrote it down."""
        return stop_reason(self._directory)


class WorkerContext:
    """The `JobContext` of a running worker."""

    def __init__(self, directory: Path, events: EventWriter, stop: StopFlag, secrets: Mapping[str, str]) -> None:
        self.directory = directory
        self.secrets = secrets
        self.told = False  # the work function knows that it is to stop: whatever it raises now is its way to do so
        self._events = events
        self._stop = stop
        self._lock = threading.Lock()
        self._newest: dict[str, Any] | None = None
        self._written_s = -math.inf
        self._full = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._attend, name="job-context", daemon=True)
        self._thread.start()

    def progress(self, done: float, total: float | None, unit: str, **metrics: float | int | str) -> None:
        """See `JobContext`."""
        if math.isfinite(done):
            known = total is not None and math.isfinite(total) and total > 0
            newest: dict[str, Any] = {"done": _plain(done), "total": _plain(total) if known else None, "unit": self.redacted(unit)[:METRIC_CHARACTERS]}
            if metrics:
                newest["metrics"] = {name: self._metric(value) for name, value in list(metrics.items())[:METRICS_LIMIT]}
            with self._lock:
                self._newest = newest
                if time.monotonic() - self._written_s >= PROGRESS_INTERVAL_S:
                    self._write()
        if self._stop.asked:
            self.told = True
            raise Cancelled("The job was asked to stop.")

    def log(self, line: str) -> None:
        """See `JobContext`."""
        text = " ".join(self.redacted(str(line)).splitlines())[:LOG_LINE_CHARACTERS]
        data = f"{time.strftime('%H:%M:%S')} {text}\n".encode("utf-8", "replace")
        with contextlib.suppress(OSError):  # a full disk: the log is the first thing to do without
            os.write(2, data)

    def redacted(self, text: str) -> str:
        """A text without the secrets of this job."""
        for value in self.secrets.values():
            if len(value) >= SECRET_CHARACTERS:
                text = text.replace(value, "•••")
        return text

    def close(self) -> None:
        """Write the last progress; nothing is written after this."""
        self._closing.set()
        self._thread.join()
        with self._lock:
            self._write()

    def _metric(self, value: Any) -> float | int | str:
        if isinstance(value, str):
            return self.redacted(value)[:METRIC_CHARACTERS]
        plain = _plain(value)
        return plain if math.isfinite(plain) else str(plain)

    def _write(self) -> None:
        """Write what is newest. With the lock held."""
        if self._newest is None:
            return
        self._written_s = time.monotonic()
        if self._events.append("progress", durable=False, **self._newest):
            self._newest = None
            if self._full:
                self._full = not self._events.say("warning", message="")
        elif not self._full:
            self._full = self._events.say("warning", message=DISK_FULL)

    def _attend(self) -> None:
        """Write progress that nothing follows, see the file that asks to stop, keep the log short."""
        while not self._closing.wait(PROGRESS_INTERVAL_S):
            self._stop.look()
            with self._lock:
                if time.monotonic() - self._written_s >= PROGRESS_INTERVAL_S:
                    self._write()
            with contextlib.suppress(OSError):
                shorten_log(self.directory / LOG_NAME)


def _plain(value: Any) -> float | int:
    """A number as Python's own: libraries hand over theirs."""
    return value if type(value) in (int, float) else float(value)


def shorten_log(path: Path) -> None:
    """Set a long log aside and begin a new one, where this process prints to it."""
    status = os.fstat(2)
    if status.st_size <= LOG_LIMIT_BYTES or not os.path.samestat(status, path.stat()) or sys.platform == "win32":
        return
    path.replace(path.with_suffix(".1.txt"))
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
