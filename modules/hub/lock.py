"""A lock that ends with its process: a file that one holder at a time has locked. Knows nothing of what it protects."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

TRIES = 100


class FileLock:
    """Try, then hold; also kill -9 lets go. The file is removed on release, which a waiting process notices."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """Take the lock if nobody has it."""
        descriptor = self._opened()
        if _lock(descriptor) and self._is_current(descriptor):
            self._descriptor = descriptor
            return True
        os.close(descriptor)
        return False

    def _opened(self) -> int:
        for _ in range(TRIES):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            try:
                return os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
            except FileNotFoundError:  # its folder was empty, and the last who worked there removed it just now
                continue
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self._path))

    def _is_current(self, descriptor: int) -> bool:
        """Whether the locked file is still the one at the path: its last holder may have removed it meanwhile."""
        try:
            return os.path.samestat(os.fstat(descriptor), self._path.stat())
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Let go; without effect if not held."""
        if self._descriptor is None:
            return
        if sys.platform != "win32":  # Windows removes no open file; it stays, empty
            self._path.unlink(missing_ok=True)
        os.close(self._descriptor)
        self._descriptor = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()


def _lock(descriptor: int) -> bool:
    if sys.platform == "win32":
        import msvcrt

        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
