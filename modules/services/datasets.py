"""Data sets on this machine: the files and folders of datasets/, how they are brought in, looked at and deleted.

What is in them is understood in `modules/training`; everything that reads them runs in a thread. Knows no runs and no routes.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import time
from collections.abc import AsyncIterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from modules.core.errors import AppError, Conflict, InvalidRequest
from modules.core.files import checked_name, relative_below, sync_folder
from modules.services.dataset_views import Look, Preview, look_at, preview_of
from modules.services.training_recipes import SUFFIX as RECIPE_SUFFIX
from modules.training.columns import checked_columns
from modules.training.rows import data_files, is_readable, known_kinds, printable
from modules.training.samples import (
    FORMAT_TITLES,
    MEANINGS,
    NEEDED,
    DatasetSpec,
)

NAME = "data set"  # in sentences
RESERVE_BYTES = 1 << 30  # of the disk, kept back
PIECE_BYTES = 1 << 20
LOOK_EVERY_BYTES = 64 << 20  # between two looks at the disk
STALE_S = 86_400.0  # an upload that nobody has written to for so long was cut off with its server
RECOGNISE_S = 5.0  # how long a list looks into what it has not seen yet; the rest is recognised another time
PARTS_LISTED = 16  # a folder of more files is listed as a whole only
ENTRIES_LIMIT = 2000


@dataclass(frozen=True)
class DatasetRow:
    """A data set as lists have it."""

    name: str
    bytes: int
    files: int
    changed_s: float
    format: str = ""
    problem: str = ""


@dataclass(frozen=True)
class FormatChoice:
    """A format, and what its columns can and must mean."""

    value: str
    title: str
    meanings: tuple[str, ...]
    needed: tuple[str, ...]


class _Stamp(NamedTuple):
    """What changes when a data set does."""

    bytes: int
    files: int
    changed_s: float


class DatasetService:
    """The folder of data sets. One event loop changes it; threads may read it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._arriving: set[str] = set()
        self._known: dict[str, tuple[_Stamp, str, str]] = {}  # name → when looked at, format, problem

    async def rows(self) -> tuple[DatasetRow, ...]:
        """All data sets by name: files, folders, and the files of small folders."""
        return await asyncio.to_thread(self._rows)

    def _rows(self) -> tuple[DatasetRow, ...]:
        deadline_s = time.monotonic() + RECOGNISE_S
        rows = [row for path in self._entries() for row in self._rows_of(path, deadline_s)]
        known = self._known  # another thread may put a newer one in its place
        self._known = {row.name: known[row.name] for row in rows if row.name in known}
        return tuple(rows)

    def _entries(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        found = sorted(self.folder.iterdir(), key=lambda path: path.name.casefold())
        return [path for path in found if not path.name.startswith(".") and path.stem.lower() != "readme" and not path.name.endswith(RECIPE_SUFFIX) and (path.exists() or path.is_symlink())][:ENTRIES_LIMIT]

    def _rows_of(self, path: Path, deadline_s: float) -> Iterator[DatasetRow]:
        row = self._row(path, path.name, deadline_s)
        yield row
        if path.is_dir() and 1 < row.files <= PARTS_LISTED:
            for file, name in data_files(path):
                yield self._row(file, name, deadline_s)

    def _row(self, path: Path, name: str, deadline_s: float) -> DatasetRow:
        try:
            self._path(name)
            files = [file for file, _ in data_files(path)]
            facts = [file.stat() for file in files]
            stamp = _Stamp(sum(fact.st_size for fact in facts), len(files), max(fact.st_mtime for fact in facts))
        except AppError as error:
            return DatasetRow(printable(name), 0, 0, 0, problem=printable(error.message))
        except OSError as error:
            return DatasetRow(printable(name), 0, 0, 0, problem=f"{printable(name)} cannot be read: {error.strerror or error}.")
        known = self._known.get(name)
        if (known is None or known[0] != stamp) and time.monotonic() < deadline_s:
            known = self._known[name] = (stamp, *self._recognised(path, name))
        is_known = known is not None and known[0] == stamp
        return DatasetRow(name, stamp.bytes, stamp.files, stamp.changed_s, *(known[1:] if known and is_known else ("", "")))

    def _recognised(self, path: Path, name: str) -> tuple[str, str]:
        try:
            look = look_at(path, name)
        except AppError as error:
            return "", error.message
        return look.format, look.problem

    def _path(self, name: str) -> Path:
        """Where a data set lies.

        Raises:
            InvalidRequest: the name is none, or a link leads out of the folder.
            NotFound: there is no such data set.
        """
        path = relative_below(self.folder, name, NAME)
        if path.is_symlink() or not path.resolve().is_relative_to(self.folder.resolve()):
            raise InvalidRequest(f"“{name[:60]}” is a link that leads elsewhere; copy the file into {self.folder.name}/ instead.", field="name")
        return path

    def new_path(self, name: str) -> Path:
        """The path of a file to be made.

        Raises:
            InvalidRequest: the name cannot be that of a data file.
            Conflict: there is one of that name.
        """
        path = self.folder / checked_name(name, NAME, field="name")
        if not is_readable(path):
            raise InvalidRequest(f"“{path.name[:60]}” is of no kind that can be read. {known_kinds()}", field="name")
        taken = {each.name.casefold() for each in self.folder.iterdir()} if self.folder.is_dir() else set()
        if path.name.casefold() in taken | self._arriving:
            raise Conflict(f"There is a data set “{path.name}” already; delete it first, or give the file another name.", field="name")
        return path

    def spec(self, name: str, format: str, columns: Mapping[str, str]) -> DatasetSpec:
        """A data set as a job names it; without columns those that the format usually has are taken.

        Raises:
            NotFound: there is no such data set.
            InvalidRequest: no such format or meaning, or one that is needed has no column.
        """
        checked = checked_columns(format, columns)
        return DatasetSpec.model_validate({"path": self._path(name), "name": name, "format": format, "columns": checked})

    async def upload(self, name: str, pieces: AsyncIterable[bytes], *, limit_bytes: int, length: int | None = None) -> str:
        """Take in a file as it arrives; it is there as a whole or not at all. Its name.

        Raises:
            InvalidRequest: the name is none, the file is empty or too large, or the disk too full.
            Conflict: there is one of that name.
        """
        target = await asyncio.to_thread(self.new_path, name)
        temporary = self.folder / f".{secrets.token_hex(8)}.part"
        key = target.name.casefold()
        self._arriving.add(key)
        try:
            await asyncio.to_thread(self._prepare, min(length or 0, limit_bytes))
            await self._write(temporary, pieces, limit_bytes)
            await asyncio.to_thread(_publish, temporary, target)
        finally:
            self._arriving.discard(key)
            temporary.unlink(missing_ok=True)
        return target.name

    def _prepare(self, needed_bytes: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for left in self.folder.glob(".*.part"):
            if time.time() - left.stat().st_mtime > STALE_S:
                left.unlink(missing_ok=True)
        self._check_space(needed_bytes)

    def _check_space(self, needed_bytes: int) -> None:
        free = shutil.disk_usage(self.folder).free
        if free < needed_bytes + RESERVE_BYTES:
            raise InvalidRequest(
                f"The disk of {self.folder.name}/ has {free / 1e9:.1f} GB free, of which {RESERVE_BYTES / 1e9:.1f} GB are kept back; "
                f"the file needs {needed_bytes / 1e9:.1f} GB. Free some space, then upload it again."
            )

    async def _write(self, path: Path, pieces: AsyncIterable[bytes], limit_bytes: int) -> None:
        total = looked = 0
        held = bytearray()
        file = await asyncio.to_thread(path.open, "xb")
        try:
            async for piece in pieces:
                total += len(piece)
                if total > limit_bytes:
                    raise InvalidRequest(f"The file is larger than {limit_bytes / 1e9:.1f} GB, the most that is uploaded; copy it into {self.folder.name}/ instead.")
                held += piece
                if len(held) >= PIECE_BYTES:
                    await asyncio.to_thread(file.write, bytes(held))
                    held.clear()
                if total - looked >= LOOK_EVERY_BYTES:
                    looked = total
                    await asyncio.to_thread(self._check_space, 0)
            if not total:
                raise InvalidRequest("The file is empty; choose one with rows.")
            await asyncio.to_thread(_finish, file, bytes(held))
        finally:
            file.close()

    async def look(self, name: str) -> Look:
        """The first rows, and what they seem to be.

        Raises:
            NotFound: there is no such data set.
        """
        return await asyncio.to_thread(self._look, name)

    def _look(self, name: str) -> Look:
        return look_at(self._path(name), name)

    async def preview(self, name: str, format: str, columns: Mapping[str, str]) -> Preview:
        """The first samples, how many there are, and the first thing that is wrong.

        Raises:
            NotFound: there is no such data set.
            InvalidRequest: no such format or meaning.
        """
        return await asyncio.to_thread(self._preview, name, format, columns)

    def _preview(self, name: str, format: str, columns: Mapping[str, str]) -> Preview:
        return preview_of(self.spec(name, format, columns))

    async def delete(self, name: str) -> None:
        """Delete a file or a folder for good.

        Raises:
            NotFound: there is no such data set.
        """
        await asyncio.to_thread(self._delete, name)

    def _delete(self, name: str) -> None:
        path = self._path(name)
        if not path.is_dir():
            path.unlink()
            return
        gone = path.with_name(f".{secrets.token_hex(8)}.deleted")
        path.rename(gone)  # gone at once, however long it takes
        shutil.rmtree(gone)


def format_choices() -> tuple[FormatChoice, ...]:
    """All formats that a person can choose."""
    return tuple(FormatChoice(value, title, MEANINGS[value], NEEDED[value]) for value, title in FORMAT_TITLES.items())


def _finish(file: Any, rest: bytes) -> None:
    file.write(rest)
    file.flush()
    os.fsync(file.fileno())


def _publish(temporary: Path, target: Path) -> None:
    if target.exists():
        raise Conflict(f"There is a data set “{target.name}” already; delete it first, or give the file another name.", field="name")
    temporary.rename(target)
    sync_folder(target.parent)
