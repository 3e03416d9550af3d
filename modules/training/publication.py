"""How an adapter comes into the folder of adapters: as a whole, by one rename, and never over another one.

What a run has published it knows again by the hash of the weights, noted before the rename: a run that is killed in between finds its own adapter there.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

from modules.core.errors import JobConflict
from modules.core.files import path_below, sync_folder, write_atomic
from modules.training.spec import TrainArgs

NOTE = "published.json"
WEIGHTS = "adapter_model.safetensors"


class Publication:
    """One run's place among the adapters."""

    def __init__(self, args: TrainArgs, directory: Path) -> None:
        self._root = args.loras_dir
        self._note = directory / NOTE
        self.folder = path_below(args.loras_dir, args.name, what="name of the adapter")
        self._part = args.loras_dir / f".{args.name}.part-{directory.name}"

    def is_there(self) -> bool:
        """Whether this run's adapter was published already.

        Raises:
            JobConflict: another one of this name is there.
        """
        if not self.folder.exists():
            return False
        try:
            noted = json.loads(self._note.read_text(encoding="utf-8"))["sha256"]
            mine = noted == _hash(self.folder / WEIGHTS)
        except (OSError, ValueError, KeyError):
            mine = False
        if not mine:
            raise JobConflict(
                f"There is an adapter “{self.folder.name}” already, and it is not this run's. Delete or rename that one, then retry: what was learned is kept.",
                field="name",
            )
        return True

    def publish(self, write: Callable[[Path], None]) -> Path:
        """Let `write` fill a folder, and give it its name.

        Raises:
            JobConflict: another one of this name came in between.
            OSError: for example a full disk; nothing is left of it then.
        """
        self.tidy()
        try:
            self._part.mkdir(parents=True)
            write(self._part)
            write_atomic(self._note, json.dumps({"sha256": _hash(self._part / WEIGHTS)}))
            if not self.is_there():
                self._part.rename(self.folder)
                sync_folder(self._root)
        finally:
            self.tidy()
        return self.folder

    def tidy(self) -> None:
        """Delete what a killed process left half done."""
        shutil.rmtree(self._part, ignore_errors=True)

    def withdraw(self) -> None:
        """The run is given up: nothing of it stays."""
        self.tidy()
        try:
            if self.is_there():
                shutil.rmtree(self.folder, ignore_errors=True)
        except JobConflict:
            return  # another's stays
        self._note.unlink(missing_ok=True)


def _hash(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
