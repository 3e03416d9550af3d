"""What is kept of a model beside its files: the person's note, and what the last verification found. Two small files for each model.

They are known by the exact name of the model. Knows no model folder.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from pydantic import BaseModel, ValidationError

from modules.core.errors import InvalidRequest
from modules.core.files import write_atomic
from modules.hub.verify import Verification, read_verification

NOTE_LIMIT = 2000
FILE_LIMIT_BYTES = 64 << 10


class ModelNote(BaseModel, frozen=True):
    """The content of a note's file."""

    name: str
    note: str


class ModelFacts(BaseModel, frozen=True):
    """All that is kept of one model, to travel with it."""

    name: str
    note: str = ""
    verification: Verification | None = None


class FactStore:
    """Reads and writes the files; a broken one counts as absent."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def verification_path(self, name: str) -> Path:
        """Where the verification of a model is kept: the job writes it."""
        return self._path(name, "verified")

    def _path(self, name: str, kind: str) -> Path:
        return self._folder / f"{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}.{kind}.json"

    def read(self, name: str) -> ModelFacts:
        """What is known of a model."""
        found = read_verification(self.verification_path(name))
        return ModelFacts(name=name, note=self._note(name), verification=found if found is not None and found.name == name else None)

    def _note(self, name: str) -> str:
        try:
            with self._path(name, "note").open("rb") as file:
                kept = ModelNote.model_validate_json(file.read(FILE_LIMIT_BYTES))
        except (OSError, ValidationError):
            return ""
        return kept.note[:NOTE_LIMIT] if kept.name == name else ""

    def set_note(self, name: str, note: str) -> str:
        """Keep a note; an empty one is forgotten. Returns it as kept.

        Raises:
            InvalidRequest: too long.
        """
        text = note.strip()
        if len(text) > NOTE_LIMIT:
            raise InvalidRequest(f"A note has at most {NOTE_LIMIT} characters, this has {len(text)}; shorten it.", field="note")
        path = self._path(name, "note")
        if text:
            write_atomic(path, ModelNote(name=name, note=text).model_dump_json() + "\n", mode=0o600)
        else:
            path.unlink(missing_ok=True)
        return text

    def put(self, facts: ModelFacts) -> None:
        """Know exactly this of a model."""
        self.set_note(facts.name, facts.note[:NOTE_LIMIT])
        path = self.verification_path(facts.name)
        if facts.verification is None:
            path.unlink(missing_ok=True)
        else:
            write_atomic(path, facts.verification.model_dump_json() + "\n", mode=0o600)

    def drop(self, name: str) -> None:
        """Know nothing of a model."""
        self.put(ModelFacts(name=name))


def renamed(facts: ModelFacts, name: str, old: str, new: str) -> ModelFacts:
    """The facts of a model that has another name since what lay at `old` lies at `new`, below the models folder."""

    def moved(path: str) -> str:
        return new + path.removeprefix(old) if path == old or path.startswith(old + "/") else path

    found = facts.verification
    if found is not None:
        files = tuple(file.model_copy(update={"path": moved(file.path)}) for file in found.files)
        found = found.model_copy(update={"name": name, "files": files})
    return ModelFacts(name=name, note=facts.note, verification=found)
