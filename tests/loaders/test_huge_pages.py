"""Large pages: which pieces of memory get them, and that what stands in them stays."""

from __future__ import annotations

import mmap
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from modules.loaders.llama_cpp import huge_pages
from modules.loaders.llama_cpp.huge_pages import (
    LEAST_BYTES,
    PAGE_BYTES,
    NewMemory,
    full_pieces,
    new_pieces,
    use_huge_pages,
)

MEGABYTE = 1 << 20


def piece(begin: int, size: int, resident: int, rest: str = "rw-p 00000000 00:00 0") -> list[str]:
    return [f"{begin:x}-{begin + size:x} {rest}", f"Size: {size >> 10} kB", f"Rss: {resident >> 10} kB", "VmFlags: rd wr"]


def test_only_large_memory_that_is_in_use_and_no_file_counts() -> None:
    size = 32 * MEGABYTE
    lines = [
        *piece(0x10001000, size, size),
        *piece(0x20000000, size, size // 2),
        *piece(0x30000000, LEAST_BYTES, LEAST_BYTES),
        *piece(0x40000000, size, size, "r--p 00000000 00:00 0"),
        *piece(0x50000000, size, size, "rw-p 00000000 08:01 42 /models/a.gguf"),
        *piece(0x60000000, size, size, "rw-p 00000000 00:00 0 [heap]"),
        *piece(0x70000000, size, size),
    ]
    assert list(full_pieces(lines)) == [(0x10200000, 0x10000000 + size), (0x70000000, 0x70000000 + size)]


@pytest.mark.skipif(sys.platform != "linux", reason="the system's own way")
def test_what_stands_in_memory_stays() -> None:
    memory = mmap.mmap(-1, 64 * MEGABYTE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    numbers = np.frombuffer(memory, np.uint32)
    numbers[:] = np.arange(len(numbers), dtype=np.uint32)
    before = in_huge_pages()
    done = use_huge_pages()
    assert done % PAGE_BYTES == 0
    assert in_huge_pages() - before >= min(done, 60 * MEGABYTE)
    assert np.array_equal(numbers, np.arange(len(numbers), dtype=np.uint32))
    if "[never]" not in huge_pages.SETTING.read_text() and tuple(map(int, re.findall(r"\d+", os.uname().release)[:2])) >= (6, 1):
        assert done >= 60 * MEGABYTE


@pytest.mark.skipif(not huge_pages.has_huge_pages(), reason="the system's own way")
def test_what_is_written_to_new_memory_lies_in_large_pages() -> None:
    old = memory_of(32 * MEGABYTE)
    new, before = NewMemory(), in_huge_pages()
    memory = memory_of(64 * MEGABYTE)
    asked = new.ask()
    assert 60 * MEGABYTE <= asked <= 70 * MEGABYTE  # other threads may take some
    assert new.ask() == 0  # once
    old.fill(1)
    assert in_huge_pages() - before < 8 * MEGABYTE or "[always]" in huge_pages.SETTING.read_text()
    memory.fill(1)
    assert in_huge_pages() - before > 32 * MEGABYTE  # a system that is full has no more


def memory_of(size: int) -> np.ndarray:
    return np.frombuffer(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), np.uint8)


def test_what_touches_older_memory_is_told_from_it() -> None:
    """The system makes one piece of two that lie side by side."""
    size, page = 32 * MEGABYTE, PAGE_BYTES
    old = [(100 * page, 120 * page), (400 * page, 401 * page)]
    assert list(new_pieces(old, old)) == []
    assert list(new_pieces([], [(4096, size)])) == [(page, size)]
    assert list(new_pieces(old, [(60 * page - 4096, 120 * page)])) == [(60 * page, 100 * page)]
    assert list(new_pieces(old, [(100 * page, 140 * page + 4096), (390 * page, 420 * page)])) == [(120 * page, 140 * page), (390 * page, 400 * page), (401 * page, 420 * page)]
    assert list(new_pieces(old, [(110 * page, 123 * page), (0, LEAST_BYTES)])) == []
    assert list(new_pieces(old, [(60 * page, 100 * page), old[0]])) == [(60 * page, 100 * page)]  # beside one that it was not made one with


def in_huge_pages() -> int:
    found = re.search(r"AnonHugePages:\s+(\d+)", Path("/proc/self/smaps_rollup").read_text())
    return int(found[1]) << 10 if found else 0


def test_odd_maps_are_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huge_pages, "has_huge_pages", lambda: True)
    maps = tmp_path / "smaps"
    monkeypatch.setattr(huge_pages, "FULL_MAPS", maps)
    monkeypatch.setattr(huge_pages, "MAPS", maps)
    new = NewMemory()
    assert use_huge_pages() == NewMemory().ask() == 0
    maps.write_text("\n".join([*piece(0x50000000, 32 * MEGABYTE, 32 * MEGABYTE, "rw-p 00000000 08:01 42 /models/a\x0cb\x85c.gguf"), ""]))
    assert use_huge_pages() == new.ask() == 0  # a file's memory is nobody's own


def test_a_system_that_wants_none_gets_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setting = tmp_path / "enabled"
    setting.write_text("always madvise [never]\n")
    monkeypatch.setattr(huge_pages, "SETTING", setting)
    new, memory = NewMemory(), np.ones(16 * MEGABYTE, np.uint8)
    assert use_huge_pages() == new.ask() == 0
    monkeypatch.setattr(huge_pages, "SETTING", tmp_path / "missing")
    assert use_huge_pages() == NewMemory().ask() == 0
    assert memory.all()
