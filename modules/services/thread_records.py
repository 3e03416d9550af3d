"""What loads measured of models' threads, in one small file: the next load of a model in the same way need not measure again.

Knows keys and values as the loader has them; the engine's processes get and tell both.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from modules.core.files import read_object, write_atomic
from modules.loaders.llama_cpp.thread_notes import KEY_CHARACTERS, MeasuredThreads

log = logging.getLogger(__name__)

FILE = "threads.json"
ROWS_LIMIT = 200
FILE_LIMIT_BYTES = 1 << 20
KEY = re.compile(rf"[0-9a-f]{{{KEY_CHARACTERS}}}")


class ThreadRecords:
    """Reads and writes the file; of a damaged one what can be used counts."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def known(self) -> dict[str, Any]:
        """What was measured, by keys, in plain values, the newest last."""
        return _usable(read_object(self._path, FILE_LIMIT_BYTES))

    def remember(self, new: Mapping[str, Any]) -> None:
        """Store what a load measured, if it measured anything; the oldest goes where there is too much, and what cannot be stored is only logged."""
        found = _usable(new)
        if not found:
            return
        kept = {key: value for key, value in self.known().items() if key not in found} | found
        try:
            write_atomic(self._path, json.dumps(dict(list(kept.items())[-ROWS_LIMIT:])), mode=0o600)
        except OSError as error:
            log.warning("The numbers of threads that were measured could not be stored: %s", error)


def _usable(rows: object) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in rows.items() if isinstance(rows, Mapping) else ():
        if not isinstance(key, str) or not KEY.fullmatch(key):
            continue
        try:
            found[key] = MeasuredThreads.model_validate(value).model_dump(mode="json")
        except ValidationError:  # written by another version, or by no Paddock
            continue
    return found
