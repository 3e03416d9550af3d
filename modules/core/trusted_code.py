"""The permission to run the Python files of one model folder: how it is written on the command line, and how it reaches the child that loads the model.

Knows no record, no loader and no library. A permission names every file with its hash, so that nothing else can be run under it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from pydantic import BaseModel

FLAG = "--trust-code"
FILE_LIMIT_BYTES = 4 << 20
FILES_LIMIT = 200
PIN = re.compile(r"[0-9a-f]{40}|sha256:[0-9a-f]{64}")


class TrustedCode(BaseModel, frozen=True, extra="forbid"):
    """What one child may run."""

    folder: str  # of the model, as it will be loaded
    pin: str  # the commit, or the sum over the files
    room: str  # where the child makes its own copy of the files
    files: dict[str, str]  # name below the folder → SHA-256

    @property
    def copy_folder(self) -> Path:
        """The copy of this process."""
        return Path(self.room) / str(os.getpid())


def split_trust(text: str) -> tuple[str, str]:
    """`NAME@COMMIT` → name and commit.

    Raises:
        ValueError: it is written in another way.
    """
    name, _, pin = text.rpartition("@")
    if not name or not PIN.fullmatch(pin):
        raise ValueError(f"{FLAG} takes NAME@COMMIT: the name of a model as the list has it, and all 40 letters and digits of one commit, or sha256: and the sum of its files")
    return name, pin


def read_code(folder: Path) -> dict[str, bytes]:
    """The Python files of a folder and of those in it, by name.

    Raises:
        ValueError: there are too many, or one is too large.
        OSError: one cannot be read.
    """
    found = sorted(path for path in folder.rglob("*.py") if path.is_file())
    if len(found) > FILES_LIMIT:
        raise ValueError(f"{folder.name} has {len(found)} Python files, {FILES_LIMIT} are looked at")
    return {path.relative_to(folder).as_posix(): read_code_file(path) for path in found}


def read_code_file(path: Path) -> bytes:
    """One Python file.

    Raises:
        ValueError: it is too large.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        content = file.read(FILE_LIMIT_BYTES + 1)
    if len(content) > FILE_LIMIT_BYTES:
        raise ValueError(f"{path.name} of {path.parent.name} is larger than the {FILE_LIMIT_BYTES >> 20} MiB that a Python file may have")
    return content
