"""Large pages for weights that lie in memory of the process's own: the processor reads through them with fewer look-ups.

Every token reads all weights from their beginning to their end, and with pages of 4 kB the processor's reading ahead ends at each of them (figures:
docs/lab-notes.md). The system's allocator does not ask for large ones by itself. Knows the maps of this process and what Linux can do with them; knows no model.

Source: madvise(2), `MADV_HUGEPAGE` and `MADV_COLLAPSE` (since Linux 6.1); proc_pid_maps(5), proc_pid_smaps(5).
"""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

MAPS, FULL_MAPS = Path("/proc/self/maps"), Path("/proc/self/smaps")
SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")
PAGE_BYTES = 2 << 20
LEAST_BYTES = 8 << 20  # of one piece of memory; the stack of a thread has no more
RESIDENT_SHARE = 0.95  # what is not in use yet must not be brought in
PIECE_BYTES = 16 * PAGE_BYTES  # between two looks at the clock
LIMIT_S = 2.0  # copying them makes a load longer, where memory is slow
HUGEPAGE, COLLAPSE = 14, 25
Piece = tuple[int, int]  # where it begins and ends


def has_huge_pages() -> bool:
    """Whether this system gives large pages to who asks."""
    try:
        return sys.platform == "linux" and "[never]" not in SETTING.read_text(encoding="ascii")
    except OSError:
        return False


class NewMemory:
    """Large memory that is taken from now on and belongs to no file: for it large pages can be asked before anything stands there."""

    def __init__(self) -> None:
        self._before = tuple(_own_pieces(_lines(MAPS)))
        self._is_asked = not has_huge_pages()

    def ask(self) -> int:
        """Ask, the first time; for how many bytes. What is written there from now on lies in large pages, as far as the system has some."""
        if self._is_asked:
            return 0
        self._is_asked, advise = True, _advise()
        pieces = new_pieces(self._before, _own_pieces(_lines(MAPS)))
        return sum(end - begin for begin, end in pieces if not advise(begin, end - begin, HUGEPAGE))


def use_huge_pages() -> int:
    """Have all large pieces of memory that are in use in large pages, as far as the system allows and the time goes; how many bytes now are."""
    if not has_huge_pages():
        return 0
    advise, done, end_s = _advise(), 0, time.monotonic() + LIMIT_S
    for begin, end in full_pieces(_lines(FULL_MAPS)):
        if advise(begin, end - begin, HUGEPAGE):  # the system also does some later by itself
            continue
        for place in range(begin, end, PIECE_BYTES):
            size = min(PIECE_BYTES, end - place)
            if time.monotonic() > end_s or advise(place, size, COLLAPSE):
                break
            done += size
    return done


def _advise() -> Callable[[int, int, int], int]:
    function = ctypes.CDLL(None, use_errno=True).madvise
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return function


def _lines(maps: Path) -> Sequence[str]:
    try:
        return maps.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:  # not every kernel has it
        return ()


def full_pieces(lines: Iterable[str]) -> Iterator[Piece]:
    """Where large pieces of memory begin and end that belong to no file and are in use, cut to whole large pages."""
    piece: Piece | None = None
    for line in lines:
        first, *rest = line.split() or (":",)
        if not first.endswith(":"):
            piece = _own_piece(first, rest)
        elif first == "Rss:" and piece is not None:
            begin, end = piece
            if int(rest[0]) << 10 >= RESIDENT_SHARE * (end - begin) and end - begin > LEAST_BYTES:
                yield _whole_pages(begin, end)


def new_pieces(before: Sequence[Piece], now: Iterable[Piece]) -> Iterator[Piece]:
    """The large parts of pieces that were no part of those before, cut to whole large pages. The system makes one piece of two that touch."""
    for begin, end in now:
        for old_begin, old_end in before:  # in the order of their places
            if old_begin < end and old_begin - begin > LEAST_BYTES:
                yield _whole_pages(begin, old_begin)
            if old_begin < end:
                begin = max(begin, old_end)
        if end - begin > LEAST_BYTES:
            yield _whole_pages(begin, end)


def _own_pieces(lines: Iterable[str]) -> Iterator[Piece]:
    for line in lines:
        first, *rest = line.split() or (":",)
        piece = _own_piece(first, rest)
        if piece is not None:
            yield piece


def _own_piece(place: str, rest: Sequence[str]) -> Piece | None:
    """What a line of maps tells of, if it is memory that can be written to and is no file's: 7f9656b51000-7f966abb3000 rw-p 00000000 00:00 0 [name]."""
    if len(rest) != 4 or rest[0] != "rw-p" or rest[3] != "0":
        return None
    begin, end = (int(number, 16) for number in place.split("-"))
    return begin, end


def _whole_pages(begin: int, end: int) -> Piece:
    return -(-begin // PAGE_BYTES) * PAGE_BYTES, end // PAGE_BYTES * PAGE_BYTES
