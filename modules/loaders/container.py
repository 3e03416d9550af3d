"""What a container or a service leaves to this process: memory and processor time, as the control groups of Linux limit them.

Knows their files; knows nothing of the machine around. Source: cgroups(7), the kernel's cgroup-v2.rst and cgroup-v1/memory.rst.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")
NO_LIMIT_BYTES = 1 << 60
MEMORY_FILES = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))  # limit and use, of version 2 and 1
PAGE_CACHE, NOT_YET_WRITTEN = ("active_file", "inactive_file"), ("file_dirty", "file_writeback", "dirty", "writeback")


def memory_left() -> int | None:
    """Bytes that can still be taken, the smallest of all groups around; page cache that can be dropped counts as free. None without a limit."""
    found = []
    for folder in _groups("memory"):
        for limit, used in ((_number(folder / limit), _number(folder / used)) for limit, used in MEMORY_FILES):
            if limit is not None and used is not None and limit < NO_LIMIT_BYTES:
                found.append(max(0, limit - used + _droppable(folder)))
    return min(found, default=None)


def cores() -> int | None:
    """Processors whose time may be used, rounded up: the smallest quota of all groups around. None without one."""
    found = []
    for folder in _groups("cpu"):
        quota, period, *_ = *_words(folder / "cpu.max"), "", ""
        quota, period = quota or "".join(_words(folder / "cpu.cfs_quota_us")), period or "".join(_words(folder / "cpu.cfs_period_us"))
        if quota.isdigit() and period.isdigit() and int(period):
            found.append(max(1, math.ceil(int(quota) / int(period))))
    return min(found, default=None)


def _groups(controller: str) -> Iterator[Path]:
    """The folders of the groups that this process is in, from its own to the outermost that can be seen."""
    try:
        lines = OWN.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        _, names, path = [*line.split(":", 2), "", ""][:3]
        if names and controller not in names.split(","):
            continue
        root = ROOT / controller if names else ROOT
        folder = root / path.strip("/")
        yield folder
        while folder != root and folder != folder.parent:
            folder = folder.parent
            yield folder


def _words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return []


def _number(path: Path) -> int | None:
    """None for what is absent, or no number: “max”."""
    words = _words(path)
    return int(words[0]) if words and words[0].isdigit() else None


def _droppable(folder: Path) -> int:
    words = _words(folder / "memory.stat")
    fields = {name: int(value) for name, value in zip(words[::2], words[1::2], strict=False) if value.isdigit()}
    return max(0, sum(fields.get(name, 0) for name in PAGE_CACHE) - sum(fields.get(name, 0) for name in NOT_YET_WRITTEN))
