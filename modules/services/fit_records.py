"""What was predicted and what models really took, one row for each model and loader, in one small file; and the corrections that follow.

Knows no formula.
"""

from __future__ import annotations

import json
import logging
import statistics
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from modules.core.files import write_atomic

log = logging.getLogger(__name__)

ROWS_LIMIT = 200
FILE_LIMIT_BYTES = 1 << 20
ALIKE_FACTOR = 4.0  # what a small model takes beside its weights says nothing of a large one
LEAST_RATIO, MOST_RATIO = 0.9, 2.0  # right after a load not every buffer has been touched, so little is taken off
LEAST_USED_RATIO = 0.5
LEAST_SPEED_RATIO, MOST_SPEED_RATIO = 0.2, 4.0


@dataclass(frozen=True, slots=True)
class FitRecord:
    """One model as it was last loaded: the peak of its process, and the speed of its replies when they were written one at a time."""

    name: str
    loader: str
    predicted_bytes: int
    real_bytes: int
    used: bool = False  # replies were written; else the peak is that of the load
    predicted_tokens_per_s: float = 0.0  # for the replies that were measured; 0 if it was not known
    real_tokens_per_s: float = 0.0  # their median; 0 without any

    @property
    def ratio(self) -> float:
        """Real by predicted memory."""
        ratio = self.real_bytes / self.predicted_bytes
        return min(MOST_RATIO, max(LEAST_USED_RATIO if self.used else LEAST_RATIO, ratio))

    @property
    def speed_ratio(self) -> float:
        """Real by predicted speed; 0 if one is not known."""
        if self.predicted_tokens_per_s <= 0 or self.real_tokens_per_s <= 0:
            return 0.0
        return min(MOST_SPEED_RATIO, max(LEAST_SPEED_RATIO, self.real_tokens_per_s / self.predicted_tokens_per_s))


class FitRecords:
    """Reads and writes the file; a broken one counts as empty."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def rows(self) -> tuple[FitRecord, ...]:
        """All records, the newest last."""
        try:
            if self._path.stat().st_size > FILE_LIMIT_BYTES:
                return ()
            rows = (FitRecord(**row) for row in json.loads(self._path.read_text(encoding="utf-8")))
            return tuple(row for row in rows if row.predicted_bytes > 0 and row.real_bytes > 0)
        except (OSError, ValueError, TypeError):
            return ()

    def remember(self, record: FitRecord) -> None:
        """Store a record in the place of the earlier one, whose speed stays while there is no newer; one that cannot be stored is only logged."""
        rows = self.rows()
        others = [row for row in rows if (row.name, row.loader) != (record.name, record.loader)]
        earlier = next((row for row in rows if row not in others), None)
        if earlier is not None and not record.speed_ratio:
            record = replace(record, predicted_tokens_per_s=earlier.predicted_tokens_per_s, real_tokens_per_s=earlier.real_tokens_per_s)
        try:
            write_atomic(self._path, json.dumps([asdict(row) for row in [*others, record][-ROWS_LIMIT:]]), mode=0o600)
        except OSError as error:
            log.warning("What a model took could not be stored: %s", error)

    def of(self, name: str, loader: str) -> FitRecord | None:
        """The record of a model."""
        return next((row for row in self.rows() if (row.name, row.loader) == (name, loader)), None)

    def ratio(self, loader: str, predicted_bytes: int, name: str = "") -> float:
        """By how much to correct the memory: by this model's own record, else by the median of those of a like size; 1 without any."""
        rows = [row for row in self.rows() if row.loader == loader]
        own = [row for row in rows if row.name == name]
        found = [row.ratio for row in own or _alike(rows, predicted_bytes)]
        return statistics.median(found) if found else 1.0

    def speed_ratio(self, loader: str, predicted_bytes: int, name: str = "") -> float:
        """The same for the speed."""
        rows = [row for row in self.rows() if row.loader == loader and row.speed_ratio]
        own = [row for row in rows if row.name == name]
        found = [row.speed_ratio for row in own or _alike(rows, predicted_bytes)]
        return statistics.median(found) if found else 1.0


def _alike(rows: list[FitRecord], predicted_bytes: int) -> list[FitRecord]:
    return [row for row in rows if 1 / ALIKE_FACTOR <= row.predicted_bytes / max(1, predicted_bytes) <= ALIKE_FACTOR]
