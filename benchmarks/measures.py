"""Rows of the table of benchmarks/engine.py: what was measured of both sides, in pairs, and the bar it has to reach.

Knows figures and how contestants take turns; knows no server.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

SETTLED_SHARE, SETTLE_STEP_S, SETTLE_LIMIT_S = 0.05, 0.1, 10.0
IDLE_SHARE, IDLE_S = 0.03, 0.05  # of one core, that all who are not measured may take together; less time in all is not worth a word


class Contestant(Protocol):
    """Whoever can be measured and must be idle while another is."""

    name: str

    def cpu_s(self) -> float:
        """Processor time used so far."""
        ...


AnyContestant = TypeVar("AnyContestant", bound=Contestant)


@dataclass
class Row:
    """One measure: values in pairs, one pair a repeat."""

    part: str
    model: str
    measure: str
    unit: str
    against: str = "llama-server"
    bar: float | None = None
    moonshot: float | None = None
    lower: bool = False  # less is better
    absolute: bool = False  # the bar is for our value, not for the ratio
    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)
    note: str = ""

    @property
    def ratios(self) -> list[float]:
        """Ours by theirs, repeat by repeat."""
        return [own / other for own, other in zip(self.ours, self.theirs, strict=False) if other]

    @property
    def reached(self) -> str:
        """In a word; empty where there is no bar or nothing to compare."""
        values = self.ours if self.absolute else self.ratios
        if self.bar is None or not values:
            return ""
        middle = statistics.median(values)

        def good(limit: float | None) -> bool:
            return limit is not None and (middle <= limit if self.lower else middle >= limit)

        return "moonshot" if good(self.moonshot) else "yes" if good(self.bar) else "no"

    def cells(self) -> tuple[str, ...]:
        """As the table shows it."""
        sign = "≤" if self.lower else "≥"
        bars = ["" if limit is None else f"{sign} {limit:g}{' ' + self.unit if self.absolute else ' ×'}" for limit in (self.bar, self.moonshot)]
        spread = f"{statistics.median(self.ratios):.2f} ({min(self.ratios):.2f} .. {max(self.ratios):.2f})" if self.ratios else ""
        return (
            self.model, self.measure + (f" ({self.note})" if self.note else ""), f"{_figure(self.ours)} {self.unit}", _figure(self.theirs),
            self.against, spread, *bars, self.reached,
        )  # fmt: skip

    def record(self) -> dict[str, Any]:
        """Everything, for a file."""
        return {
            "part": self.part, "model": self.model, "measure": self.measure, "unit": self.unit, "against": self.against, "ours": self.ours,
            "theirs": self.theirs, "ratio": statistics.median(self.ratios) if self.ratios else None, "bar": self.bar, "moonshot": self.moonshot,
            "lower": self.lower, "absolute": self.absolute, "reached": self.reached, "note": self.note,
        }  # fmt: skip


HEAD = ("model", "measure", "ours", "theirs", "against", "ratio (least .. most)", "bar", "moonshot", "reached")


def line(cells: Iterable[str]) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join(cells) + " |"


def _figure(values: Sequence[float]) -> str:
    if not values:
        return "–"
    middle = statistics.median(values)
    return f"{middle:.0f}" if middle >= 1000 else f"{middle:.4g}"


class Turns:
    """Contestants in turn, each repeat in the other order; one uncounted turn before the first, and nobody else at work meanwhile."""

    def __init__(self, repeats: int) -> None:
        self.repeats = repeats

    def take(self, contestants: Sequence[AnyContestant], measure: Callable[[AnyContestant, int], list[float]]) -> list[list[list[float]]]:
        """What `measure` gave, by contestant, repeat and measure; it is told the number of the repeat, -1 for the uncounted one."""
        found: list[list[list[float]]] = [[] for _ in contestants]
        for number in range(-1, self.repeats):
            for place in range(len(contestants)) if number % 2 == 0 else reversed(range(len(contestants))):
                settle(contestants)
                own = contestants[place]
                others = [other for other in contestants if other is not own]
                busy_s, begun_s = sum(other.cpu_s() for other in others), time.perf_counter()
                values = measure(own, number)
                busy_s = sum(other.cpu_s() for other in others) - busy_s
                share = busy_s / max(1e-3, time.perf_counter() - begun_s)
                if number >= 0:
                    found[place].append(values)
                    if share > IDLE_SHARE and busy_s > IDLE_S:
                        sys.stderr.write(f"while {own.name} was measured, the others took {share:.0%} of a core\n")
            sys.stderr.write(f"  repeat {number + 1} of {self.repeats}\n" if number >= 0 else "")
        return found

    def fill(self, rows: Sequence[Row], contestants: Sequence[AnyContestant], measure: Callable[[AnyContestant, int], list[float]]) -> list[Row]:
        """Rows of two contestants, ours first: `measure` gives a value for each row."""
        ours, theirs = self.take(contestants, measure)
        for place, row in enumerate(rows):
            row.ours, row.theirs = [values[place] for values in ours], [values[place] for values in theirs]
        return list(rows)


def settle(contestants: Sequence[Contestant]) -> None:
    """Wait until what was asked before is really over."""
    end_s = time.monotonic() + SETTLE_LIMIT_S
    before_s = sum(contestant.cpu_s() for contestant in contestants)
    while time.monotonic() < end_s:
        time.sleep(SETTLE_STEP_S)
        now_s = sum(contestant.cpu_s() for contestant in contestants)
        if now_s - before_s <= SETTLED_SHARE * SETTLE_STEP_S:
            return
        before_s = now_s
