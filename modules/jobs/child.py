"""A worker's process as the server sees it: started in a session of its own, or found again by its lock after a restart.

Knows processes and one job's directory; knows no order and no lanes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from modules.core.process import child_environment
from modules.core.settings import PROJECT_ROOT
from modules.jobs.lock import holder
from modules.jobs.record import LOG_NAME
from modules.jobs.worker import Header

LEAVING_S = 1.0  # the system closes a process's files, and with them the lock, a moment before its end can be seen


class WorkerProcess:
    """One worker, ours or adopted."""

    def __init__(self, directory: Path, process: subprocess.Popen[bytes] | None) -> None:
        self._directory = directory
        self._process = process

    @classmethod
    def start(cls, command: Sequence[str], directory: Path, header: Header, *, network: bool) -> WorkerProcess:
        """Start the worker of a job. It outlives this process; the secrets go through a pipe.

        Raises:
            OSError: the system starts no more processes, or the disk is full.
        """
        log = os.open(directory / LOG_NAME, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            process = subprocess.Popen(
                [*command, str(directory)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=PROJECT_ROOT,
                env=child_environment(os.environ, network=network),
                start_new_session=True,
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),  # what a session is on Windows
            )
        finally:
            os.close(log)
        assert process.stdin is not None
        with contextlib.suppress(OSError):  # it ended already: seen at the next look
            process.stdin.write(header.to_line())
            process.stdin.flush()
        with contextlib.suppress(OSError):
            process.stdin.close()
        return cls(directory, process)

    @classmethod
    def adopt(cls, directory: Path) -> WorkerProcess:
        """The worker that holds the lock of a job, whoever started it."""
        return cls(directory, None)

    @property
    def pid(self) -> int | None:
        """Its process id, while it is known to live."""
        return self._process.pid if self._process else holder(self._directory) or None

    @property
    def returncode(self) -> int | None:
        """Its exit status; None also when it was not started here."""
        return self._process.returncode if self._process else None

    def ended(self, *, leaving: bool = False) -> bool:
        """Whether it has ended; what it left running is ended then too. One that is leaving, its lock given back, is waited for."""
        if self._process is None:
            return holder(self._directory) is None
        end_s = time.monotonic() + (LEAVING_S if leaving else 0)
        while not self._reaped(self._process):
            if time.monotonic() >= end_s:
                return False
            time.sleep(0.002)
        return True

    def _reaped(self, process: subprocess.Popen[bytes]) -> bool:
        if process.returncode is None and self._is_zombie(process.pid):
            self._signal_group(process.pid)  # its id cannot be another's before it is asked for its status below
        return process.poll() is not None

    def terminate(self) -> None:
        """Ask it to stop; on Windows the stop file alone does."""
        pid = self.pid
        if pid is not None and sys.platform != "win32":
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    def kill(self) -> None:
        """End it and everything it started, at once."""
        pid = self.pid
        if pid is None:
            return
        if sys.platform == "win32":
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGTERM)  # which there ends it at once
            return
        self._signal_group(pid)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def _signal_group(self, pid: int) -> None:
        if sys.platform != "win32":
            with contextlib.suppress(OSError):
                if os.getpgid(pid) == pid:
                    os.killpg(pid, signal.SIGKILL)

    def _is_zombie(self, pid: int) -> bool:
        if sys.platform == "linux":
            with contextlib.suppress(OSError):
                return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        return False
