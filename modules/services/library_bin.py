"""Deleted models and adapters on their way out: `.bin` in their folder, on the same disk, so that deleting and restoring are renames.

Every entry is a folder: `entry.json` says what it was and where it lay, `files/` holds it. The entry is written before anything moves, and
whoever is killed in between leaves something that is either deleted or there; `recover` finishes what has several files. Knows no page.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from pydantic import BaseModel, Field, ValidationError

from modules.core.errors import AppError, InvalidRequest, NotFound
from modules.core.files import write_atomic
from modules.hub.inventory import Provenance
from modules.services.library_facts import Facts

log = logging.getLogger(__name__)

BIN_FOLDER = ".bin"
ENTRY_FILE = "entry.json"
ENTRY_LIMIT_BYTES = 32 << 20
KEPT_S = 30 * 24 * 3600.0
ENTRY_ID = re.compile(r"\d{1,12}-[0-9a-f]{8}")
ENTRIES_LIMIT = 1000


class BinEntry(BaseModel, frozen=True):
    """A deleted model or adapter and what is needed to bring it back."""

    id: str
    name: str
    places: tuple[str, ...] = Field(min_length=1)  # what was moved, below the folder: one file or folder, or the parts of a model
    deleted_s: float
    size_bytes: int = 0
    restoring: bool = False
    facts: tuple[Facts, ...] = ()  # of all that lies in it
    origin: Provenance | None = None  # where the record of it did not move along


def is_there(path: Path) -> bool:
    """Whether there is anything at a path, a link to nowhere too."""
    return path.exists() or path.is_symlink()


def reach(root: Path, place: str) -> Path:
    """The path of something in a folder of models or adapters that may be moved.

    Raises:
        InvalidRequest: it lies, or would lie, outside.
    """
    parts = PurePosixPath(place).parts
    if not parts or any(part in ("", ".", "..") or part.startswith(".") for part in parts) or PurePosixPath(place).is_absolute() or "\\" in place:
        raise InvalidRequest(f"“{place[:100]}” is no place in {root.name}/; names begin with a letter or digit.", field="name")
    folder = root
    for part in parts[:-1]:
        folder = folder / part
        if folder.is_symlink():
            inner = folder.relative_to(root).as_posix()
            raise InvalidRequest(f"“{place[:100]}” lies behind the link “{inner}”, outside of {root.name}/; change it where it lies.", field="name")
    return root.joinpath(*parts)


class LibraryBin:
    """All work on the bin of one folder. Moving is quick and happens in the caller's thread; `discard` takes a while for large models."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folder = root / BIN_FOLDER

    def prepare(self, name: str, places: Sequence[str], size_bytes: int, facts: Sequence[Facts], origin: Provenance | None) -> BinEntry:
        """Write down what is about to be deleted."""
        for place in places:
            reach(self._root, place)
        now = time.time()
        entry = BinEntry(
            id=f"{int(now)}-{secrets.token_hex(4)}", name=name, places=tuple(places), deleted_s=now, size_bytes=size_bytes, facts=tuple(facts), origin=origin
        )
        self._write(entry)
        (self._folder / entry.id / "files").mkdir()
        return entry

    def _write(self, entry: BinEntry) -> None:
        write_atomic(self._folder / entry.id / ENTRY_FILE, entry.model_dump_json() + "\n", mode=0o600)

    def _pairs(self, entry: BinEntry) -> list[tuple[Path, Path]]:
        """Where each thing lay, and where it lies in the bin; the first part of a model comes first."""
        return [(reach(self._root, place), self._folder / entry.id / "files" / str(number)) for number, place in enumerate(entry.places)]

    def take(self, entry: BinEntry) -> None:
        """Move it into the bin; what cannot be moved stays as a whole."""
        moved: list[tuple[Path, Path]] = []
        try:
            for place, kept in self._pairs(entry):
                place.rename(kept)
                moved.append((place, kept))
        except OSError as error:
            for place, kept in reversed(moved):
                kept.rename(place)
            self._remove(entry.id)
            raise AppError(f"{entry.name} cannot be deleted: {error.strerror or error}. Close what uses it, or delete it in {self._root}.") from error

    def find(self, entry_id: str) -> BinEntry:
        """The entry of that id.

        Raises:
            NotFound: there is none.
        """
        entry = self._read(entry_id) if ENTRY_ID.fullmatch(entry_id) else None
        if entry is None or not any(is_there(kept) for _, kept in self._pairs(entry)):
            raise NotFound("That is no longer in the bin; refresh the list.")
        return entry

    def entries(self) -> tuple[BinEntry, ...]:
        """All that can be restored, the newest first."""
        found = [entry for entry in self._all() if any(is_there(kept) for _, kept in self._pairs(entry))]
        return tuple(sorted(found, key=lambda entry: -entry.deleted_s))

    def _all(self) -> list[BinEntry]:
        return [entry for entry_id in self._ids() if (entry := self._read(entry_id)) is not None]

    def _ids(self) -> list[str]:
        try:
            with os.scandir(self._folder) as rows:
                return sorted(row.name for row in rows if ENTRY_ID.fullmatch(row.name) and row.is_dir(follow_symlinks=False))[-ENTRIES_LIMIT:]
        except OSError:
            return []

    def _read(self, entry_id: str) -> BinEntry | None:
        try:
            with (self._folder / entry_id / ENTRY_FILE).open("rb") as file:
                entry = BinEntry.model_validate_json(file.read(ENTRY_LIMIT_BYTES)).model_copy(update={"id": entry_id})
            self._pairs(entry)
        except (OSError, ValidationError, InvalidRequest):
            return None
        return entry

    def check_free(self, entry: BinEntry) -> None:
        """Refuse to restore over something else.

        Raises:
            InvalidRequest: a place is taken.
        """
        for place, kept in self._pairs(entry):
            if is_there(kept) and is_there(place):
                where = place.relative_to(self._root).as_posix()
                raise InvalidRequest(f"There is another “{where}” in {self._root.name}/ now; rename or delete that one first.", field="name")

    def give_back(self, entry: BinEntry) -> None:
        """Move it to where it lay.

        Raises:
            InvalidRequest: a place is taken; then nothing was moved.
        """
        self.check_free(entry)
        if len(entry.places) > 1:
            self._write(entry.model_copy(update={"restoring": True}))
        for place, kept in reversed(self._pairs(entry)):
            if is_there(kept):
                place.parent.mkdir(parents=True, exist_ok=True)
                kept.rename(place)
        self._remove(entry.id)

    def discard(self, entry_id: str) -> None:
        """Delete for good. A link goes, never what it leads to."""
        entry = self.find(entry_id)
        try:
            self._remove(entry_id)
        except OSError as error:
            raise AppError(f"{entry.name} cannot be deleted: {error.strerror or error}. Delete it in {self._folder / entry_id}.") from error

    def _remove(self, entry_id: str) -> None:
        folder = self._folder / entry_id
        (folder / ENTRY_FILE).unlink(missing_ok=True)  # first: what is half deleted must not be offered
        shutil.rmtree(folder, ignore_errors=True)

    def empty_old(self) -> None:
        """Delete for good what was deleted thirty days ago."""
        for entry in self._all():
            if time.time() - entry.deleted_s >= KEPT_S:
                with self._tolerant(entry.name):
                    self._remove(entry.id)

    def recover(self) -> None:
        """Finish what a killed server left half done. Only while nobody deletes or restores."""
        for entry_id in self._ids():
            entry = self._read(entry_id)
            with self._tolerant(entry.name if entry else entry_id):
                if entry is not None:
                    self._finish(entry)
                elif not is_there(self._folder / entry_id / ENTRY_FILE):
                    self._remove(entry_id)

    @contextmanager
    def _tolerant(self, what: str) -> Iterator[None]:
        """A bin that cannot be tidied up, on a disk that is read-only, say, must not keep a server from starting."""
        try:
            yield
        except OSError as error:
            log.warning("The bin could not finish with %s: %s", what, error)

    def _finish(self, entry: BinEntry) -> None:
        pairs = self._pairs(entry)
        inside = [pair for pair in pairs if is_there(pair[1])]
        if not inside:
            self._remove(entry.id)
        elif entry.restoring:
            if not any(is_there(place) for place, _ in inside):
                self.give_back(entry)
        else:
            for place, kept in pairs:
                if is_there(place) and not is_there(kept):
                    place.rename(kept)
