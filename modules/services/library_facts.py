"""What is kept of a model or adapter beside its files: the person's note, what the last verification found, what engines told. Small files.

They are known by its exact name. Knows no folder of models.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, Field, ValidationError

from modules.core.errors import InvalidRequest
from modules.core.files import write_atomic
from modules.hub.verify import Verification, read_verification

NOTE_LIMIT = 2000
FILE_LIMIT_BYTES = 64 << 10
DOUBTS_LIMIT = 20

Kept = TypeVar("Kept", "Note", "Learned")


class Note(BaseModel, frozen=True):
    """The content of a note's file."""

    name: str
    note: str


class TemplateCheck(BaseModel, frozen=True):
    """What was found about the template in force on a model."""

    name: str = ""  # of the prompt template chosen for it; empty is none
    doubts: tuple[str, ...] = Field((), max_length=DOUBTS_LIMIT)  # each with the cure; empty: it fits
    notes: tuple[str, ...] = Field((), max_length=DOUBTS_LIMIT + 1)
    reply_ended: bool | None = None  # whether the model ended a short reply by itself; None: not known


class Learned(BaseModel, frozen=True):
    """What engines told: when it was used, whether its chat template fits it."""

    name: str
    used_s: float = 0.0  # when it was last put into use, seconds since 1970; 0 if never. Models have it where their options are kept
    examined_s: float = 0.0  # when its chat template was examined; 0 if never
    template_doubts: tuple[str, ...] = Field((), max_length=DOUBTS_LIMIT)  # about its own template, empty: it fits
    template_check: TemplateCheck | None = None  # of the template in force, once that was looked at


class Facts(BaseModel, frozen=True):
    """All that is kept of one, to travel with it."""

    name: str
    note: str = ""
    verification: Verification | None = None
    learned: Learned | None = None


class FactStore:
    """Reads and writes the files; a broken one counts as absent."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def verification_path(self, name: str) -> Path:
        """Where the verification of a model is kept: the job writes it."""
        return self._path(name, "verified")

    def _path(self, name: str, kind: str) -> Path:
        return self._folder / f"{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}.{kind}.json"

    def read(self, name: str) -> Facts:
        """What is known of one."""
        found = read_verification(self.verification_path(name))
        note = self._kept(name, "note", Note)
        return Facts(
            name=name,
            note=note.note[:NOTE_LIMIT] if note else "",
            verification=found if found is not None and found.name == name else None,
            learned=self.learned(name),
        )

    def learned(self, name: str) -> Learned | None:
        """What engines told of one."""
        return self._kept(name, "learned", Learned)

    def _kept(self, name: str, kind: str, of: type[Kept]) -> Kept | None:
        try:
            with self._path(name, kind).open("rb") as file:
                kept = of.model_validate_json(file.read(FILE_LIMIT_BYTES))
        except (OSError, ValidationError):
            return None
        return kept if kept.name == name else None

    def _keep(self, name: str, kind: str, value: BaseModel | None) -> None:
        path = self._path(name, kind)
        if value is None:
            path.unlink(missing_ok=True)
        else:
            write_atomic(path, value.model_dump_json() + "\n", mode=0o600)

    def set_note(self, name: str, note: str) -> str:
        """Keep a note; an empty one is forgotten. Returns it as kept.

        Raises:
            InvalidRequest: too long.
        """
        text = note.strip()
        if len(text) > NOTE_LIMIT:
            raise InvalidRequest(f"A note has at most {NOTE_LIMIT} characters, this has {len(text)}; shorten it.", field="note")
        self._keep(name, "note", Note(name=name, note=text) if text else None)
        return text

    def learn(self, learned: Learned) -> None:
        """Keep what engines told of one."""
        self._keep(learned.name, "learned", learned)

    def put(self, facts: Facts) -> None:
        """Know exactly this of one."""
        self.set_note(facts.name, facts.note[:NOTE_LIMIT])
        self._keep(facts.name, "verified", facts.verification)
        self._keep(facts.name, "learned", facts.learned)

    def drop(self, name: str) -> None:
        """Know nothing of one."""
        self.put(Facts(name=name))


def renamed(facts: Facts, name: str, old: str, new: str) -> Facts:
    """The facts of one that has another name since what lay at `old` lies at `new`, below the folder."""

    def moved(path: str) -> str:
        return new + path.removeprefix(old) if path == old or path.startswith(old + "/") else path

    found = facts.verification
    if found is not None:
        files = tuple(file.model_copy(update={"path": moved(file.path)}) for file in found.files)
        found = found.model_copy(update={"name": name, "files": files})
    learned = facts.learned.model_copy(update={"name": name}) if facts.learned else None
    return Facts(name=name, note=facts.note, verification=found, learned=learned)
