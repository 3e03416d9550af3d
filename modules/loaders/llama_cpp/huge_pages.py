"""Large pages for weights that llama.cpp has rewritten into memory of its own: the processor reads through them with fewer look-ups.

Every token reads all weights from their beginning to their end, and with pages of 4 kB the processor's reading ahead ends at each of them (figures:
docs/lab-notes.md). The system's allocator does not ask for large ones by itself. Knows the maps of this process and what Linux can do with them; knows no model.

Source: madvise(2), `MADV_HUGEPAGE` and `MADV_COLLAPSE` (since Linux 6.1); proc_pid_smaps(5).
"""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

MAPS = Path("/proc/self/smaps")
SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")
PAGE_BYTES = 2 << 20
LEAST_BYTES = 8 << 20  # of one piece of memory
RESIDENT_SHARE = 0.95  # what is not in use yet must not be brought in
PIECE_BYTES = 16 * PAGE_BYTES  # between two looks at the clock
LIMIT_S = 2.0  # copying them makes a load longer, where memory is slow
HUGEPAGE, COLLAPSE = 14, 25


def use_huge_pages() -> int:
    """Have all large pieces of memory that are in use in large pages, as far as the system allows and the time goes; how many bytes now are."""
    if sys.platform != "linux" or not _allowed():
        return 0
    advise = ctypes.CDLL(None, use_errno=True).madvise
    advise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    try:
        lines = MAPS.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:  # not every kernel has it
        return 0
    done, end_s = 0, time.monotonic() + LIMIT_S
    for begin, end in full_pieces(lines):
        if advise(begin, end - begin, HUGEPAGE):  # the system also does some later by itself
            continue
        for place in range(begin, end, PIECE_BYTES):
            size = min(PIECE_BYTES, end - place)
            if time.monotonic() > end_s or advise(place, size, COLLAPSE):
                break
            done += size
    return done


def _allowed() -> bool:
    try:
        return "[never]" not in SETTING.read_text(encoding="ascii")
    except OSError:
        return False


def full_pieces(lines: Iterable[str]) -> Iterator[tuple[int, int]]:
    """Where large pieces of memory begin and end that belong to no file and are in use, cut to whole large pages."""
    piece: tuple[int, int] | None = None
    for line in lines:
        first, *rest = line.split() or (":",)
        if not first.endswith(":"):  # 7f9656b51000-7f966abb3000 rw-p 00000000 00:00 0 [name]
            begin, end = (int(place, 16) for place in first.split("-"))
            is_own = rest[0] == "rw-p" and rest[3] == "0" and len(rest) == 4
            piece = (begin, end) if is_own and end - begin >= LEAST_BYTES else None
        elif first == "Rss:" and piece is not None:
            begin, end = piece
            if int(rest[0]) << 10 >= RESIDENT_SHARE * (end - begin):
                yield -(-begin // PAGE_BYTES) * PAGE_BYTES, end // PAGE_BYTES * PAGE_BYTES
