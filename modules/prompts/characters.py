"""The folder of characters: `NAME.json` is the card, `NAME.png` its picture; a `NAME.yaml` with name, context and greeting is read as well.

Files are replaced as a whole; deleted ones lie in `.deleted` of the folder until they are put back or 30 days have passed. Knows no prompt.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from modules.core.errors import AppError, Conflict, InvalidRequest, NotFound
from modules.core.files import RESERVED_NAMES, ReadFiles, checked_name, path_below, write_atomic
from modules.prompts.character_card import (
    CARD_LIMIT_BYTES,
    Card,
    CardText,
    card_text,
    edited,
    json_file,
    new_card,
    read_card,
)
from modules.prompts.png_text import FILE_LIMIT_BYTES, checked_png

CARD, TEXT, PICTURE = ".json", ".yaml", ".png"
BIN = ".deleted"
KEPT_S = 30 * 86_400
NAME_TRIES = 1000
NAME_BYTES = 90  # of a new name: at most so many letters too, and with all endings less than file systems allow


@dataclass(frozen=True, slots=True)
class CharacterSummary:
    """A line of the list of characters; `problem` is a sentence when the file cannot be used."""

    name: str  # of the file; a character may call itself otherwise
    title: str = ""
    notes: str = ""
    tags: tuple[str, ...] = ()
    picture: int = 0  # changes with the picture; 0: none
    problem: str = ""


@dataclass(frozen=True, slots=True)
class _Entry:
    card: Card
    text: CardText = field(repr=False)


class CharacterFolder:
    """Cards and pictures in a folder. Files may come, change and go at any time; they are read again when changed."""

    def __init__(self, folder: Path, what: str = "character") -> None:
        self.folder = folder
        self._what = what
        self._read = ReadFiles(_read_entry)

    def list(self) -> tuple[CharacterSummary, ...]:
        """All characters by name, broken ones with their problem."""
        names = {path.stem for suffix in (CARD, TEXT) for path in self.folder.glob(f"*{suffix}") if not path.name.startswith(".")}
        return tuple(self._summary(name) for name in sorted(names, key=str.casefold))

    def card(self, name: str) -> Card:
        """The whole card.

        Raises:
            NotFound: there is none of that name.
            InvalidRequest: the name or the file is not valid.
        """
        return self._entry(name).card

    def text(self, name: str) -> CardText:
        """What the card says; raises as `card` does."""
        return self._entry(name).text

    def picture(self, name: str) -> bytes | None:
        """The picture as a PNG file, if there is one."""
        path = path_below(self.folder, name, PICTURE, self._what)
        try:
            with path.open("rb") as file:
                return file.read(FILE_LIMIT_BYTES)
        except FileNotFoundError:
            return None

    def save(self, text: CardText, name: str = "") -> str:
        """Write what was edited; its name as stored. What else the card of that name holds is kept; without a name it is a new character.

        Raises:
            InvalidRequest: it has no name, or a field is outside its limits.
        """
        if not text.name.strip():
            raise InvalidRequest(f"A {self._what} needs a name.", field="name")
        card = edited(self.card(name), text) if name else new_card(text)
        name = name or self._free_name(text.name)
        self._write(name, card)
        return name

    def add(self, file: bytes) -> str:
        """Take a card that somebody else wrote; its name as stored, with a number if that one is taken."""
        card, picture = read_card(file)
        name = self._free_name(card_text(card).name)
        self._write(name, card)
        if picture is not None:
            self.set_picture(name, picture)
        return name

    def set_picture(self, name: str, picture: bytes | None) -> None:
        """Give a picture, or take it away.

        Raises:
            InvalidRequest: no PNG, damaged or too large.
        """
        path = path_below(self.folder, name, PICTURE, self._what)
        self._path(name)
        if picture is None:
            path.unlink(missing_ok=True)
            return
        checked_png(picture)
        self._put(path, picture)

    def delete(self, name: str) -> str:
        """Move a character into the bin; the mark by which it can be put back."""
        self._path(name)
        self._empty_bin()
        mark = f"{time.time_ns()}"
        target = self.folder / BIN / mark
        target.mkdir(parents=True)
        for suffix in (PICTURE, TEXT, CARD):
            path = path_below(self.folder, name, suffix, self._what)
            if path.is_file():
                path.rename(target / path.name)
            self._read.forget(path)
        return mark

    def restore(self, mark: str) -> str:
        """Put a deleted character back; its name.

        Raises:
            NotFound: it is not in the bin any more.
            Conflict: another character has its name meanwhile.
        """
        source = self.folder / BIN / checked_name(mark, "mark")
        paths = [path for path in source.glob("*") if path.suffix in (CARD, TEXT, PICTURE)] if source.is_dir() else []
        if not paths:
            raise NotFound(f"This {self._what} is not in the bin any more.")
        name = paths[0].stem
        if self._exists(name):
            raise Conflict(f"There is a {self._what} “{name}” again; rename that one first.", field="name")
        for path in paths:
            path.rename(self.folder / path.name)
        source.rmdir()
        return name

    # ---- files -----------------------------------------------------------------------------------------------------

    def _exists(self, name: str) -> bool:
        """Whether a name is taken."""
        return any(path_below(self.folder, name, suffix, self._what).is_file() for suffix in (CARD, TEXT))

    def _path(self, name: str) -> Path:
        """The file of a card: JSON before YAML."""
        for suffix in (CARD, TEXT):
            path = path_below(self.folder, name, suffix, self._what)
            if path.is_file():
                return path
        raise NotFound(f"There is no {self._what} “{checked_name(name, self._what)}”. Choose one from the list.", field=self._what)

    def _entry(self, name: str) -> _Entry:
        path = self._path(name)
        try:
            return self._read.of(path)
        except FileNotFoundError as error:
            raise NotFound(f"The {self._what} “{name}” has just been deleted. Choose another one.") from error
        except InvalidRequest as error:
            raise InvalidRequest(f"{path.name}: {error.message}", **error.details) from error

    def _summary(self, name: str) -> CharacterSummary:
        try:
            text = self._entry(name).text
            return CharacterSummary(name, text.name, " ".join(text.creator_notes.split())[:200], tuple(text.tags[:20]), self._picture_mark(name))
        except (InvalidRequest, NotFound) as error:
            return CharacterSummary(name, problem=error.message)

    def _picture_mark(self, name: str) -> int:
        try:
            return path_below(self.folder, name, PICTURE, self._what).stat().st_mtime_ns // 1_000_000
        except FileNotFoundError:
            return 0

    def _free_name(self, wanted: str) -> str:
        allowed = "".join(letter if letter.isalnum() or letter in " .()+-_" else " " for letter in wanted)
        short = " ".join(allowed.split()).encode()[:NAME_BYTES].decode(errors="ignore")
        base = short.strip(" .()+-") or self._what.capitalize()
        if base.split(".")[0].lower() in RESERVED_NAMES:
            base = f"{self._what.capitalize()} {base}"
        for number in range(1, NAME_TRIES):
            name = base if number == 1 else f"{base} ({number})"
            if not self._exists(name):
                return checked_name(name, self._what)
        raise Conflict(f"There are {NAME_TRIES} {self._what}s called “{base}” already; rename some.", field="name")

    def _write(self, name: str, card: Card) -> None:
        """As JSON. A text file of the same name goes: the card holds all of it, and two would say different things."""
        content = json_file(card, "v3" if card["spec"].endswith("v3") else "v2")
        if len(content) > CARD_LIMIT_BYTES:
            raise InvalidRequest(f"The {self._what} has {len(content) >> 20} MiB; the limit is {CARD_LIMIT_BYTES >> 20} MiB.", field="file")
        path = path_below(self.folder, name, CARD, self._what)
        self._put(path, content)
        path_below(self.folder, name, TEXT, self._what).unlink(missing_ok=True)
        self._read.forget(path)

    def _put(self, path: Path, content: bytes) -> None:
        try:
            write_atomic(path, content)
        except OSError as error:
            raise AppError(f"“{path.name}” could not be saved ({error.strerror}); the old one is intact.") from error

    def _empty_bin(self) -> None:
        """Remove what was deleted 30 days ago."""
        now_s = time.time()
        for old in (self.folder / BIN).glob("*"):
            if old.name.isdigit() and now_s - int(old.name) / 1e9 > KEPT_S:
                for path in old.glob("*"):
                    path.unlink(missing_ok=True)
                old.rmdir()


def _read_entry(path: Path) -> _Entry:
    with path.open("rb") as file:
        card, _ = read_card(file.read(CARD_LIMIT_BYTES + 1))
    return _Entry(card, card_text(card))
