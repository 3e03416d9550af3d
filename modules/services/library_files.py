"""Which files and folders a model or an adapter consists of: what is read to verify it, what is moved when it is deleted or renamed.

A place is a path below their folder, written as their names are. Reads the disk and changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from modules.hub.choices import OWN_RECORD

PART = re.compile(r"(?P<stem>.+)-\d{5}-of-(?P<total>\d{5})\.gguf", re.IGNORECASE)


class LibraryFiles:
    """Answers for one folder of models or adapters."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def place_of(self, path: Path) -> str:
        """A path as names are written: below the folder."""
        return path.relative_to(self._folder).as_posix()

    def files(self, path: Path) -> tuple[Path, ...]:
        """All files of a model or adapter: a GGUF file, its parts, or what lies in its folder beside others."""
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.is_file() and not _is_hidden(file.relative_to(path)))
            return tuple(file for file in files if file.suffix.lower() != ".gguf" and file.name != OWN_RECORD)
        match = PART.fullmatch(path.name)
        if match is None:
            return (path,)
        others = [(file, PART.fullmatch(file.name)) for file in sorted(path.parent.iterdir())]
        return tuple(file for file, part in others if part and (part["stem"], part["total"]) == (match["stem"], match["total"]))

    def places(self, path: Path) -> tuple[str, ...]:
        """What is moved when it is deleted: its folder, where nothing else lies in it."""
        if path.is_dir() and not path.is_symlink():
            return (self.place_of(path),)
        files = self.files(path) if not path.is_dir() else (path,)
        if path.parent != self._folder:
            beside = {file.name for file in path.parent.iterdir() if not file.name.startswith(".")} - {OWN_RECORD}
            if beside == {file.name for file in files}:
                return (self.place_of(path.parent),)
        return tuple(self.place_of(file) for file in files)

    def renamed_place(self, path: Path) -> str:
        """What a rename moves: the file or folder; the folder of a model in parts, whose names belong together. Empty if there is none."""
        if path.is_dir() or PART.fullmatch(path.name) is None:
            return self.place_of(path)
        return "" if path.parent == self._folder else self.place_of(path.parent)


def names_in(places: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """Those at or below some places."""
    return tuple(name for name in names if any(name == place or name.startswith(place + "/") for place in places))


def is_part(name: str) -> bool:
    """Whether a file name is that of a part of a larger model."""
    return PART.fullmatch(name) is not None


def _is_hidden(inner: Path) -> bool:
    return any(part.startswith(".") for part in inner.parts)
