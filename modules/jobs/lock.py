"""The lock of a job: held by its worker as long as that process lives, seen by everybody else.

A record lock of the operating system: it goes with the process however that ends, forked helpers do not keep it, and whoever asks learns the
process id without disturbing anybody. Its one trap: a holder that opens and closes the file again loses it, so a worker asks nothing here after
it has taken it. Windows has no such question: there the lock is tried, and the id is written beside it.
"""

from __future__ import annotations

import contextlib
import os
import struct
import sys
import time
from pathlib import Path

LOCK_NAME = "lock"
FLOCK_FORMAT = "qqihh" if sys.platform == "darwin" else "hhqqi"
TRIES = 20
TRY_INTERVAL_S = 0.05
FAR_BYTE = 1 << 30  # on Windows a locked byte cannot be read: one that is not there is locked


class JobLock:
    """The lock, taken. It is given back by the end of the process and in no other way."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def take(cls, directory: Path) -> JobLock | None:
        """Take it for this process; None when another one has it."""
        descriptor = os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)
        if not _try(descriptor):
            os.close(descriptor)
            return None
        with contextlib.suppress(OSError):  # for people, and for Windows; a full disk must not keep anything from running
            os.ftruncate(descriptor, 0)
            os.write(descriptor, str(os.getpid()).encode())
        return cls(descriptor)


def _try(descriptor: int) -> bool:
    if sys.platform == "win32":
        import msvcrt

        for _ in range(TRIES):  # somebody may just be looking
            os.lseek(descriptor, FAR_BYTE, os.SEEK_SET)
            with contextlib.suppress(OSError):
                msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
                os.lseek(descriptor, 0, os.SEEK_SET)
                return True
            time.sleep(TRY_INTERVAL_S)
        return False
    import fcntl

    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def holder(directory: Path) -> int | None:
    """The id of the process that holds a job's lock; None when nobody does. A process does not see its own lock."""
    try:
        descriptor = os.open(directory / LOCK_NAME, os.O_RDWR)
    except OSError:
        return None
    try:
        return _holder(descriptor)
    finally:
        os.close(descriptor)


def _holder(descriptor: int) -> int | None:
    if sys.platform == "win32":
        import msvcrt

        try:
            os.lseek(descriptor, FAR_BYTE, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            os.lseek(descriptor, 0, os.SEEK_SET)
            text = os.read(descriptor, 20)
            return int(text) if text.isdigit() else 0
        os.lseek(descriptor, FAR_BYTE, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)
        return None
    import fcntl

    whole = fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0
    asked = struct.pack(FLOCK_FORMAT, *(whole if FLOCK_FORMAT[0] == "h" else (0, 0, 0, fcntl.F_WRLCK, os.SEEK_SET)))
    answer = struct.unpack_from(FLOCK_FORMAT, fcntl.fcntl(descriptor, fcntl.F_GETLK, asked + bytes(16)))
    kind, pid = (answer[0], answer[4]) if FLOCK_FORMAT[0] == "h" else (answer[3], answer[2])
    return None if kind == fcntl.F_UNLCK else int(pid)
