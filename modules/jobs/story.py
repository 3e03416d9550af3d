"""What the events of a job come to: where it stands, how fast it goes, how it ended. A fold over events; knows no files."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from modules.jobs.events import Event

PACE_WINDOW_S = 15.0
STALL_S = 3.0  # progress older than this is taken for the present standing still
ENDINGS = frozenset({"done", "failed", "cancelled", "interrupted"})


@dataclass(frozen=True, slots=True)
class Progress:
    """One report of how far the work is."""

    at_s: float
    done: float
    total: float | None
    unit: str
    metrics: Mapping[str, float | int | str]


@dataclass
class Story:
    """The fold. `ending` is the last event if nothing can follow it but a new start."""

    queued_s: float = 0.0
    started: bool = False  # since it was last queued
    started_s: float | None = None
    ended_s: float | None = None
    attempts: int = 0
    ending: str = ""
    paused: bool = False
    warning: str = ""
    error: str = ""
    result: Mapping[str, Any] | None = None
    last: Progress | None = None
    recent: deque[Progress] = field(default_factory=lambda: deque(maxlen=128))

    def apply(self, event: Event) -> None:
        """Take one more event in; one that is not known is passed over."""
        name, at_s = event["event"], float(event["t"])
        if name == "progress":
            self._progress(event, at_s)
        elif name == "queued":
            self._begin()
            self.queued_s, self.started = at_s, False
        elif name == "started":
            self._begin()
            self.started, self.started_s, self.attempts = True, at_s, _whole(event.get("attempt"), self.attempts + 1)
        elif name == "warning":
            self.warning = str(event.get("message", ""))
        elif name in ENDINGS:
            self.ending, self.ended_s = name, at_s
            self.error, self.paused = str(event.get("error", "")), bool(event.get("paused"))
            result = event.get("result")
            self.result = result if isinstance(result, dict) else None

    def _begin(self) -> None:
        """A new start: what was said of the old end is void, how far it came stays until it is said anew."""
        self.ending = self.error = self.warning = ""
        self.paused = False
        self.result = self.ended_s = None
        self.recent.clear()

    def _progress(self, event: Event, at_s: float) -> None:
        done, total = _number(event.get("done")), _number(event.get("total"))
        if done is None:
            return
        metrics = event.get("metrics")
        report = Progress(at_s, done, total, str(event.get("unit", "")), metrics if isinstance(metrics, dict) else {})
        last = self.recent[-1] if self.recent else None
        if last and (report.unit != last.unit or report.total != last.total or report.done < last.done or report.at_s < last.at_s):
            self.recent.clear()  # another phase, or another clock: no speed across it
        self.recent.append(report)
        self.last = report

    def pace(self, now_s: float) -> tuple[float | None, float | None]:
        """Units a second of late and the seconds that are left; None while unknown."""
        if not self.recent:
            return None, None
        last = self.recent[-1]
        end_s = now_s if now_s - last.at_s > STALL_S else last.at_s
        first = next(report for report in self.recent if report is last or report.at_s >= end_s - PACE_WINDOW_S)
        if end_s - first.at_s < 0.2:
            return None, None
        speed = (last.done - first.done) / (end_s - first.at_s)
        left = None if last.total is None or speed <= 0 else max(0.0, last.total - last.done) / speed
        return round(speed, 3), left if left is None else round(left, 1)


def _number(value: Any) -> float | None:
    fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return value if fits else None


def _whole(value: Any, otherwise: int) -> int:
    return value if isinstance(value, int) else otherwise
