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
from modules.loaders.llama_cpp.huge_pages import LEAST_BYTES, PAGE_BYTES, full_pieces, use_huge_pages

MEGABYTE = 1 << 20


def piece(begin: int, size: int, resident: int, rest: str = "rw-p 00000000 00:00 0") -> list[str]:
    return [f"{begin:x}-{begin + size:x} {rest}", f"Size: {size >> 10} kB", f"Rss: {resident >> 10} kB", "VmFlags: rd wr"]


def test_only_large_memory_that_is_in_use_and_no_file_counts() -> None:
    size = 32 * MEGABYTE
    lines = [
        *piece(0x10001000, size, size),
        *piece(0x20000000, size, size // 2),
        *piece(0x30000000, LEAST_BYTES - 4096, LEAST_BYTES - 4096),
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


def in_huge_pages() -> int:
    found = re.search(r"AnonHugePages:\s+(\d+)", Path("/proc/self/smaps_rollup").read_text())
    return int(found[1]) << 10 if found else 0


def test_odd_maps_are_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huge_pages, "_allowed", lambda: True)
    maps = tmp_path / "smaps"
    monkeypatch.setattr(huge_pages, "MAPS", maps)
    assert use_huge_pages() == 0
    maps.write_text("\n".join([*piece(0x50000000, 32 * MEGABYTE, 32 * MEGABYTE, "rw-p 00000000 08:01 42 /models/a\x0cb\x85c.gguf"), ""]))
    assert use_huge_pages() == 0


def test_a_system_that_wants_none_gets_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setting = tmp_path / "enabled"
    setting.write_text("always madvise [never]\n")
    monkeypatch.setattr(huge_pages, "SETTING", setting)
    memory = np.ones(16 * MEGABYTE, np.uint8)
    assert use_huge_pages() == 0
    monkeypatch.setattr(huge_pages, "SETTING", tmp_path / "missing")
    assert use_huge_pages() == 0
    assert memory.all()
