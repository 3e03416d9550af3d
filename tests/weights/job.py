"""A job as a work function sees it: a folder, and what was said. `stop_after` progress reports the person wants it to stop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from modules.core.job import Cancelled


@dataclass
class Job:
    directory: Path
    secrets: Mapping[str, str] = field(default_factory=dict)
    stop_after: int = 1_000_000
    said: list[tuple[float, float | None, str]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def progress(self, done: float, total: float | None, unit: str, **metrics: float | int | str) -> None:
        self.said.append((done, total, unit))
        if len(self.said) > self.stop_after:
            raise Cancelled("The job was asked to stop.")

    def log(self, line: str) -> None:
        self.lines.append(line)


def leftovers(root: Path) -> list[str]:
    """What lies below `.partial`."""
    return sorted(path.relative_to(root).as_posix() for path in (root / ".partial").rglob("*"))
