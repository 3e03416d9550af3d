"""Limits of containers and services, as their files say them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from modules.loaders import container, machine

Groups = Callable[[str, Mapping[str, str]], None]
PLENTY = 1 << 50


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Groups:
    """Writes what a process sees: the groups it is in, and their files."""
    monkeypatch.setattr(container, "ROOT", tmp_path / "root")
    monkeypatch.setattr(container, "OWN", tmp_path / "own")

    def write(own: str, files: Mapping[str, str]) -> None:
        (tmp_path / "own").write_text(own)
        for name, text in files.items():
            path = tmp_path / "root" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    return write


@pytest.mark.parametrize(("own", "files", "expected"), [
    ("0::/\n", {"memory.max": "1000\n", "memory.current": "600\n", "memory.stat": "anon 300\nactive_file 100\ninactive_file 200\nfile_dirty 30\nfile_writeback 20\n"}, 650),
    ("0::/a/b\n", {"a/b/memory.max": "max\n", "a/b/memory.current": "5\n", "a/memory.max": "1000\n", "a/memory.current": "900\n"}, 100),
    ("0::/a/b\n", {"a/b/memory.max": "500\n", "a/b/memory.current": "100\n", "a/memory.max": "1000\n", "a/memory.current": "900\n"}, 100),
    ("4:memory:/x\n1:cpu:/\n", {"memory/x/memory.limit_in_bytes": "1000", "memory/x/memory.usage_in_bytes": "100"}, 900),
    ("4:memory:/host/path\n", {"memory/memory.limit_in_bytes": "1000", "memory/memory.usage_in_bytes": "1100"}, 0),
    ("4:memory:/\n", {"memory/memory.limit_in_bytes": str((1 << 63) - 4096), "memory/memory.usage_in_bytes": "100"}, None),
    ("0::/\n", {"memory.max": "nonsense", "memory.current": ""}, None),
    ("broken", {}, None),
])  # fmt: skip
def test_memory_that_is_left(groups: Groups, own: str, files: Mapping[str, str], expected: int | None) -> None:
    groups(own, files)
    assert container.memory_left() == expected
    assert machine.available_bytes() <= (PLENTY if expected is None else expected)


@pytest.mark.parametrize(("own", "files", "expected"), [
    ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
    ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),
    ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "250000 100000\n", "cpu.max": "900000 100000"}, 3),
    ("3:cpu,cpuacct:/x\n", {"cpu/x/cpu.cfs_quota_us": "300000\n", "cpu/x/cpu.cfs_period_us": "100000\n"}, 3),
    ("3:cpu,cpuacct:/x\n", {"cpu/x/cpu.cfs_quota_us": "-1\n", "cpu/x/cpu.cfs_period_us": "100000\n"}, None),
    ("0::/\n", {"cpu.max": "nonsense"}, None),
])  # fmt: skip
def test_time_of_processors(groups: Groups, monkeypatch: pytest.MonkeyPatch, own: str, files: Mapping[str, str], expected: int | None) -> None:
    groups(own, files)
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    monkeypatch.setattr(machine.psutil, "cpu_count", lambda logical=True: 64)
    assert container.cores() == expected
    assert machine.usable_cores() == (expected or 64)


def test_where_there_are_no_groups_there_is_no_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "OWN", tmp_path / "none")
    assert (container.memory_left(), container.cores()) == (None, None)
