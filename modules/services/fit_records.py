"""What was predicted and what models really took, one row for each model and loader, in one small file; and the correction that follows.

Knows no formula.
"""

from __future__ import annotations

import json
import logging
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path

from modules.core.files import write_atomic

log = logging.getLogger(__name__)

ROWS_LIMIT = 200
FILE_LIMIT_BYTES = 1 << 20
ALIKE_FACTOR = 4.0  # what a small model takes beside its weights says nothing of a large one
LEAST_RATIO, MOST_RATIO = 0.9, 2.0  # right after a load not every buffer has been touched, so little is taken off


@dataclass(frozen=True, slots=True)
class FitRecord:
    """One model as it was last loaded."""

    name: str
    loader: str
    predicted_bytes: int
    real_bytes: int

    @property
    def ratio(self) -> float:
        """Real by predicted."""
        return self.real_bytes / self.predicted_bytes


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
        """Store a record in the place of the earlier one; one that cannot be stored is only logged."""
        others = [row for row in self.rows() if (row.name, row.loader) != (record.name, record.loader)]
        try:
            write_atomic(self._path, json.dumps([asdict(row) for row in [*others, record][-ROWS_LIMIT:]]), mode=0o600)
        except OSError as error:
            log.warning("What a model took could not be stored: %s", error)

    def ratio(self, loader: str, predicted_bytes: int, name: str = "") -> float:
        """By how much to correct a prediction: by this model's own record, else by the median of those of a like size; 1 without any."""
        rows = [row for row in self.rows() if row.loader == loader]
        own = [row for row in rows if row.name == name]
        alike = [row for row in rows if 1 / ALIKE_FACTOR <= row.predicted_bytes / max(1, predicted_bytes) <= ALIKE_FACTOR]
        ratios = [row.ratio for row in own or alike]
        return min(MOST_RATIO, max(LEAST_RATIO, statistics.median(ratios))) if ratios else 1.0
