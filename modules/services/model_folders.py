"""Folders of other programs whose models are used where they lie: those of the settings, those that a person added, those that could be added.

Nothing is ever written there. What was added is one small file in the state folder. Knows no model.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from modules.core.errors import AppError, Conflict, InvalidRequest, NotFound
from modules.core.files import dump_yaml, read_yaml, write_atomic
from modules.core.settings import Settings
from modules.loaders.model_paths import ENTRY_LIMIT, holds_too_much
from modules.loaders.other_folders import KINDS, OtherFolder, recognised, usual_folders

log = logging.getLogger(__name__)

FILE = "model_folders.yaml"
FOLDERS_LIMIT = 32
TAG_LENGTH = 24
RESERVED_TAGS = frozenset({"remote", *(kind.name for kind in KINDS)})


@dataclass(frozen=True)
class FolderRow:
    """A folder as the page shows it."""

    tag: str  # empty: it is only offered
    title: str
    path: str
    is_setting: bool = False  # from --model-folder: it is taken out there
    problem: str = ""


class ModelFolders:
    """The list of folders. One event loop changes it; threads may read it."""

    def __init__(self, settings: Settings, environ: Mapping[str, str] = os.environ, home: Path | None = None) -> None:
        self._own = (settings.models_dir, settings.loras_dir)
        self._path = settings.state_dir / FILE
        self._environ = environ
        self._home = home or Path.home()
        self._added = self._stored()
        self._set: tuple[OtherFolder, ...] = ()
        for path in settings.model_folders:
            try:
                self._set = (*self._set, self._made(path))
            except AppError as error:
                log.warning("--model-folder: %s", error.message)
                if not _is_readable(path):  # the page says so, and its disk may come back
                    self._set = (*self._set, OtherFolder(self._free_tag("folder", path), "folder", path))

    def all(self) -> tuple[OtherFolder, ...]:
        """Every folder that is in use."""
        return (*self._set, *self._added)

    async def rows(self) -> tuple[FolderRow, ...]:
        """Those in use, then those of other programs on this machine that could be added."""
        return await asyncio.to_thread(self._rows)

    def _rows(self) -> tuple[FolderRow, ...]:
        used = [
            FolderRow(folder.tag, folder.title, str(folder.path), folder in self._set, "" if _is_readable(folder.path) else f"{folder.path} cannot be read; is its disk there?")
            for folder in self.all()
        ]
        known = {folder.path.resolve() for folder in self.all()}
        return (*used, *(FolderRow("", kind.title, str(path)) for kind, path in usual_folders(self._environ, self._home) if path not in known))

    async def add(self, path: str) -> FolderRow:
        """Use the models of a folder where they lie.

        Raises:
            InvalidRequest: there is no such folder, or it is one of Paddock's own.
            Conflict: it is in the list already.
        """
        folder = await asyncio.to_thread(self._made, _typed(path))
        if len(self.all()) >= FOLDERS_LIMIT:
            raise InvalidRequest(f"There are {FOLDERS_LIMIT} folders already, the most there can be; remove one first.", field="path")
        self._keep((*self._added, folder))
        return FolderRow(folder.tag, folder.title, str(folder.path))

    async def remove(self, tag: str) -> None:
        """Take a folder out of the list; nothing in it changes.

        Raises:
            NotFound: no such folder.
            InvalidRequest: it comes from the settings.
        """
        if any(folder.tag == tag for folder in self._set):
            raise InvalidRequest("This folder comes from the settings; take it out of --model-folder there.", field="tag")
        left = tuple(folder for folder in self._added if folder.tag != tag)
        if left == self._added:
            raise NotFound("That folder is not in the list any more; refresh it.")
        self._keep(left)

    def _made(self, path: Path) -> OtherFolder:
        if not path.is_absolute():
            raise InvalidRequest(f"“{str(path)[:200]}” is not a whole path; write it from the root on, or with ~ for your home.", field="path")
        kind, place = recognised(path)
        if not _is_readable(place):
            raise InvalidRequest(f"There is no folder {str(path)[:200]} that can be read; check the path and its permissions.", field="path")
        place = place.resolve()
        own = next((folder for folder in self._own if place.is_relative_to(folder)), None)
        if own is not None:
            raise InvalidRequest(f"{place} is Paddock's own {own.name}/; what lies there is in the list already.", field="path")
        if any(folder.path.resolve() == place for folder in self.all()):
            raise Conflict(f"{place} is in the list already.")
        if kind.name == "folder" and holds_too_much(place):
            raise InvalidRequest(f"{place} holds more than {ENTRY_LIMIT:,} files and folders, the most that are looked through; name the folder in it where the models lie.", field="path")
        return OtherFolder(self._free_tag(kind.name, place), kind.name, place)

    def _free_tag(self, kind: str, path: Path) -> str:
        """What the names of its models begin with: the program, or the folder's name; numbered where that is taken."""
        base = kind
        if kind == "folder":
            base = re.sub(r"[^a-z0-9]+", "-", path.name.lower()).strip("-")[:TAG_LENGTH] or kind
        taken = {folder.tag for folder in self.all()} | (RESERVED_TAGS - {kind})
        return next(tag for tag in (base, *(f"{base}-{number}" for number in range(2, FOLDERS_LIMIT + 100))) if tag not in taken)

    def _stored(self) -> tuple[OtherFolder, ...]:
        try:
            rows = read_yaml(self._path.read_text(encoding="utf-8"), self._path.name)["folders"]
            found = [OtherFolder(str(row["tag"]), str(row["kind"]), Path(str(row["path"]))) for row in rows[:FOLDERS_LIMIT]]
        except (OSError, InvalidRequest, UnicodeDecodeError, KeyError, TypeError):
            return ()
        return tuple(folder for folder in found if re.fullmatch(r"[a-z0-9-]+", folder.tag) and folder.path.is_absolute())

    def _keep(self, folders: Collection[OtherFolder]) -> None:
        rows = [{"tag": folder.tag, "kind": folder.kind, "path": str(folder.path)} for folder in folders]
        write_atomic(self._path, dump_yaml({"folders": rows}), mode=0o600)
        self._added = tuple(folders)


def _typed(path: str) -> Path:
    try:
        return Path(path.strip().replace("\0", "�")).expanduser()
    except RuntimeError:  # the home of somebody whom this machine does not know
        return Path(path)


def _is_readable(path: Path) -> bool:
    try:
        return path.is_dir() and next(path.iterdir(), path) is not None
    except OSError:
        return False
