"""Grammars kept as files, one GBNF text each: listed, read, saved, deleted, and checked before any of them is used.

Files may come, change and go at any time. Knows no model: whether its vocabulary can write a grammar shows when a reply begins.
"""

from __future__ import annotations

from pathlib import Path

from modules.core.errors import AppError, Conflict, InvalidRequest, NotFound
from modules.core.files import ReadFiles, checked_name, path_below, write_atomic
from modules.core.text_shape import LONGEST_SHAPE
from modules.engine.shapes import write_shape
from modules.services.audit import Note, unnoted

FOLDER = "grammars"  # in the folder of presets
SUFFIX = ".gbnf"
MOST_BYTES = 4 * LONGEST_SHAPE


class GrammarService:
    """The folder of grammars; it need not be there until one is saved."""

    def __init__(self, presets_dir: Path, note: Note = unnoted) -> None:
        self._folder = presets_dir / FOLDER
        self._note = note
        self._read = ReadFiles(_read_grammar)

    def names(self) -> tuple[str, ...]:
        """All grammars, whether right or not."""
        paths = (path for path in self._folder.glob(f"*{SUFFIX}") if not path.name.startswith("."))
        return tuple(sorted((path.stem for path in paths), key=str.casefold))

    def read(self, name: str) -> str:
        """The text of a grammar.

        Raises:
            NotFound: there is none of that name.
            InvalidRequest: the file is no text, or too long.
        """
        path = path_below(self._folder, name, SUFFIX, "grammar")
        try:
            return self._read.of(path)
        except FileNotFoundError as error:
            raise NotFound(f"There is no grammar “{checked_name(name, 'grammar')}”. Choose one from the list.", field="grammar") from error

    def named(self, text: str) -> str:
        """The name of the grammar that has this text, or nothing."""
        return next((name for name in self.names() if text.strip() and self._text(name) == text.strip()), "")

    def problem(self, text: str) -> str:
        """Why a grammar cannot be used, with the line; nothing for one that can, and for no text."""
        if not text.strip():
            return ""
        if len(text) > LONGEST_SHAPE:
            return f"The grammar has {len(text):,} characters; the limit is {LONGEST_SHAPE:,}. Shorten it."
        try:
            write_shape("grammar", text)
        except InvalidRequest as error:
            return error.message
        return ""

    def save(self, name: str, text: str, *, overwrite: bool = False) -> str:
        """Keep a grammar under a name; the name as stored.

        Raises:
            Conflict: it exists and `overwrite` is false.
            InvalidRequest: the name or the grammar is not right.
            AppError: the file cannot be written; an older one is intact.
        """
        if problem := self.problem(text) or ("" if text.strip() else "There is no grammar to save; write one first."):
            raise InvalidRequest(problem, field="grammar")
        path = path_below(self._folder, name, SUFFIX, "grammar")
        if path.is_file() and not overwrite:
            raise Conflict(f"There is already a grammar “{path.stem}”. Choose another name, or replace it.")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_atomic(path, f"{text.strip()}\n")
        except OSError as error:
            raise AppError(f"The grammar “{path.stem}” could not be saved ({error.strerror}); the old one is intact.") from error
        self._read.forget(path)
        self._note("grammar.save", path.stem)
        return path.stem

    def delete(self, name: str) -> None:
        """Remove a grammar.

        Raises:
            NotFound: there is none of that name.
        """
        self.read(name)
        path = path_below(self._folder, name, SUFFIX, "grammar")
        path.unlink(missing_ok=True)
        self._read.forget(path)
        self._note("grammar.delete", path.stem)

    def _text(self, name: str) -> str:
        try:
            return self.read(name).strip()
        except (InvalidRequest, NotFound):
            return ""


def _read_grammar(path: Path) -> str:
    if path.stat().st_size > MOST_BYTES:
        raise InvalidRequest(f"{path.name} has {path.stat().st_size:,} bytes; a grammar has at most {MOST_BYTES:,}.", field="grammar")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{path.name} is not UTF-8 text; save it again as such.", field="grammar") from error
