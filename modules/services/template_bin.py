"""Deleted prompt templates, kept for thirty days: one small file each in the state folder."""

from __future__ import annotations

import re
import secrets
import time
from pathlib import Path

from pydantic import BaseModel, ValidationError

from modules.core.errors import NotFound
from modules.core.files import write_atomic

KEPT_S = 30 * 24 * 3600
ENTRY_ID = re.compile(r"[0-9]{1,12}-[0-9a-f]{8}")
FILE_LIMIT_BYTES = 8 << 20
ENTRIES_LIMIT = 500


class BinnedTemplate(BaseModel, frozen=True, extra="ignore"):
    """A prompt template that was deleted."""

    id: str
    name: str
    deleted_s: float
    text: str  # of its file


class TemplateBin:
    """The folder of deleted prompt templates."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, name: str, text: str) -> BinnedTemplate:
        """Put the file of a template here, before it is deleted."""
        now = time.time()
        entry = BinnedTemplate(id=f"{int(now)}-{secrets.token_hex(4)}", name=name, deleted_s=now, text=text)
        write_atomic(self._path(entry.id), entry.model_dump_json() + "\n", mode=0o600)
        return entry

    def entries(self) -> tuple[BinnedTemplate, ...]:
        """What can be restored, the newest first; what is older than thirty days goes for good."""
        names = sorted((path.stem for path in self._folder.glob("*.json") if ENTRY_ID.fullmatch(path.stem)), reverse=True)
        found = []
        for entry_id in names[:ENTRIES_LIMIT]:
            entry = self._read(entry_id)
            if entry is not None and time.time() - entry.deleted_s >= KEPT_S:
                self._path(entry_id).unlink(missing_ok=True)
            elif entry is not None:
                found.append(entry)
        return tuple(found)

    def find(self, entry_id: str) -> BinnedTemplate:
        """The entry of that id.

        Raises:
            NotFound: there is none.
        """
        entry = self._read(entry_id) if ENTRY_ID.fullmatch(entry_id) else None
        if entry is None:
            raise NotFound("That is no longer in the bin; refresh the list.")
        return entry

    def discard(self, entry_id: str) -> None:
        """Delete for good.

        Raises:
            NotFound: there is none.
        """
        self._path(self.find(entry_id).id).unlink(missing_ok=True)

    def _path(self, entry_id: str) -> Path:
        return self._folder / f"{entry_id}.json"

    def _read(self, entry_id: str) -> BinnedTemplate | None:
        try:
            with self._path(entry_id).open("rb") as file:
                return BinnedTemplate.model_validate_json(file.read(FILE_LIMIT_BYTES)).model_copy(update={"id": entry_id})
        except (OSError, ValidationError):
            return None
