"""One state in a file without a name: written once, read as often as wanted, gone with the process that wrote it.

The system takes a file without a name back as soon as nobody has it open, also after kill -9; nothing else can open it, and only its owner's account
may (0600). How long it is and its checksum are kept in memory alone: what is read counts only if it is byte for byte what was written here, so
nothing of another process, another model or another version can ever be taken for it. Knows bytes; no model.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

PIECE_BYTES = 4 << 20  # between two looks at whether it is still wanted
NAMED_S = 60.0  # a file that has kept its name for longer belongs to nobody

Bytes = NDArray[np.uint8]


class StateFile:
    """The parts of a state, one behind the other. One thread at a time uses it."""

    def __init__(self, file: IO[bytes], sizes: tuple[int, ...], checksum: int) -> None:
        self.file = file
        self.sizes = sizes
        self.checksum = checksum

    @classmethod
    def write(cls, folder: Path, parts: Sequence[Bytes], is_wanted: Callable[[], bool]) -> StateFile | None:
        """Write the parts; None where they were not wanted to the end.

        Raises:
            OSError: the folder or the disk does not take them; nothing is left.
        """
        file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - it stays open: its name is gone already
        checksum = 0
        try:
            for part in parts:
                view = part.data
                for begin in range(0, len(view), PIECE_BYTES):
                    if not is_wanted():
                        file.close()
                        return None
                    piece = view[begin : begin + PIECE_BYTES]
                    checksum = zlib.crc32(piece, checksum)
                    _write_all(file, piece)
        except BaseException:
            file.close()
            raise
        return cls(file, tuple(len(part) for part in parts), checksum)

    def read(self, is_wanted: Callable[[], bool]) -> list[Bytes] | None:
        """The parts as they were written; None where they were not wanted to the end.

        Raises:
            OSError: the disk does not give them back, or not as they were.
        """
        held = os.fstat(self.file.fileno()).st_size
        if held != sum(self.sizes):
            raise OSError(f"a file of {sum(self.sizes)} bytes has {held}")
        self.file.seek(0)
        parts, checksum = [], 0
        for size in self.sizes:
            part = np.empty(size, np.uint8)
            view = part.data
            for begin in range(0, size, PIECE_BYTES):
                if not is_wanted():
                    return None
                piece = view[begin : begin + PIECE_BYTES]
                _read_all(self.file, piece)
                checksum = zlib.crc32(piece, checksum)
            parts.append(part)
        if checksum != self.checksum:
            raise OSError("a file is not as it was written")
        return parts

    def close(self) -> None:
        """Give its place back."""
        with contextlib.suppress(OSError):
            self.file.close()


def empty_folder(path: Path) -> Path:
    """A folder for such files, for its owner alone. Where a system lets them have names for a moment, those of killed processes are deleted.

    Raises:
        OSError: it cannot be made.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if os.name != "nt":
        path.chmod(0o700)
    for left in path.iterdir():
        with contextlib.suppress(OSError):
            if left.stat().st_mtime < time.time() - NAMED_S:
                left.unlink()
    return path


def _write_all(file: IO[bytes], piece: memoryview) -> None:
    while piece:
        piece = piece[file.write(piece) :]


def _read_all(file: IO[bytes], piece: memoryview) -> None:
    while piece:
        count = file.readinto(piece)  # type: ignore[attr-defined]
        if not count:
            raise OSError("a file ends too early")
        piece = piece[count:]
