"""Presets: generation parameters saved under a name, one small YAML file each, and the one way from plain values to parameters.

A preset file holds only what differs from neutral, in the order of the model, and an optional `description`. Files may come, change and
go at any time; they are read again when changed. Knows no sampling.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from modules.core.errors import AppError, Conflict, InvalidRequest, NotFound
from modules.core.files import ReadFiles, checked_name, dump_yaml, path_below, read_yaml, write_atomic
from modules.core.params import GenerationParams
from modules.core.settings import validation_sentence
from modules.core.text_shape import SHAPE_FIELDS
from modules.engine.samplers import acting
from modules.services.audit import Note, unnoted
from modules.services.foreign_presets import read_foreign
from modules.services.grammars import GrammarService

SUFFIX = ".yaml"
DEFAULT_PRESET = "Balanced"  # what a new conversation begins with; it ships with Paddock
DESCRIPTION_LIMIT = 300


@dataclass(frozen=True, slots=True)
class PresetSummary:
    """A line of the list of presets; `problem` is a sentence when the file cannot be used."""

    name: str
    description: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class _Entry:
    params: GenerationParams
    description: str


def params_from(values: Mapping[str, Any]) -> GenerationParams:
    """Checked parameters from plain values; what is absent is neutral.

    Raises:
        InvalidRequest: an unknown name or a value outside its limits; the sentence has field, limit and value.
    """
    try:
        return GenerationParams.model_validate(dict(values))
    except ValidationError as error:
        where = error.errors()[0]["loc"]
        raise InvalidRequest(validation_sentence(error), field=str(where[0]) if where else "params") from error


def samplers_acting(params: GenerationParams) -> tuple[str, ...]:
    """The names of the samplers that take part with these parameters, in their order."""
    return tuple(spec.name for spec in acting(params))


class PresetService:
    """The folder of presets, and the one of grammars in it."""

    def __init__(self, folder: Path, note: Note = unnoted) -> None:
        self._folder = folder
        self._note = note
        self.grammars = GrammarService(folder, note)
        self._read = ReadFiles(lambda path: _Entry(*_read_preset(path)))

    def list(self) -> tuple[PresetSummary, ...]:
        """All presets by name, broken ones with their problem."""
        paths = (path for path in self._folder.glob(f"*{SUFFIX}") if not path.name.startswith("."))
        return tuple(self._summary(path.stem) for path in sorted(paths, key=lambda path: path.stem.casefold()))

    def read(self, name: str) -> GenerationParams:
        """The parameters of a preset.

        Raises:
            NotFound: there is none of that name.
            InvalidRequest: the name or the file is not valid; the sentence names file, key and limit.
        """
        return self._entry(name).params

    def neutral(self) -> GenerationParams:
        """Parameters that change nothing."""
        return params_from({})

    def merge(self, preset: str | None, overrides: Mapping[str, Any]) -> GenerationParams:
        """A preset (none: neutral) with some values replaced.

        Raises:
            NotFound: there is no such preset.
            InvalidRequest: an override or the preset file is not valid.
        """
        base = self.read(preset).changed() if preset else {}
        if any(overrides.get(name) for name in SHAPE_FIELDS):  # another shape takes the place of the preset's
            base = {name: value for name, value in base.items() if name not in SHAPE_FIELDS}
        return params_from({**base, **overrides})

    def save(self, name: str, params: GenerationParams, *, overwrite: bool = False, description: str | None = None) -> str:
        """Write a preset; its name as stored. Without `description` an overwritten one keeps its own.

        Raises:
            Conflict: it exists and `overwrite` is false.
            InvalidRequest: the name or the description is not valid.
            AppError: the file cannot be written; an older one is intact.
        """
        path = path_below(self._folder, name, SUFFIX, "preset")
        if path.is_file() and not overwrite:
            raise Conflict(f"There is already a preset “{path.stem}”; choose another name or replace it.")
        text = self._kept_description(path) if description is None else _checked_description(description)
        content = dump_yaml({**({"description": text} if text else {}), **params.changed()})
        try:
            write_atomic(path, content)
        except OSError as error:
            raise AppError(f"The preset “{path.stem}” could not be saved ({error.strerror}); the old one is intact.") from error
        self._read.forget(path)
        self._note("preset.save", path.stem)
        return path.stem

    def import_file(self, file_name: str, text: str) -> tuple[str, tuple[str, ...]]:
        """Keep a preset file of ours or of TextGen under its name, or the next free one; that name, and what has no place here.

        Raises:
            InvalidRequest: it is no preset, its name cannot be one, or a value is outside its limits.
        """
        stem, dot, suffix = file_name.rpartition(".")
        if not dot or suffix.lower() not in ("yaml", "yml"):
            raise InvalidRequest(f"“{file_name[-60:]}” is no preset: choose a file that ends in .yaml.", field="file")
        values = read_yaml(text, file_name)
        if isinstance(values, dict) and "description" in values:
            params, description = _preset_of(values, file_name)
            left_out: tuple[str, ...] = ()
        else:
            (params, left_out), description = read_foreign(text, file_name), ""
        name = stem = checked_name(stem, "preset")
        for number in range(2, 1000):
            if not path_below(self._folder, name, SUFFIX, "preset").exists():
                break
            name = f"{stem[:90]} ({number})"
        return self.save(name, params, description=description), left_out

    def delete(self, name: str) -> None:
        """Remove a preset.

        Raises:
            NotFound: there is none of that name.
        """
        path = self._path(name)
        path.unlink(missing_ok=True)
        self._read.forget(path)
        self._note("preset.delete", path.stem)

    def _path(self, name: str) -> Path:
        path = path_below(self._folder, name, SUFFIX, "preset")
        if not path.is_file():
            raise NotFound(f"There is no preset “{checked_name(name, 'preset')}”. Choose one from the list.", field="preset")
        return path

    def _entry(self, name: str) -> _Entry:
        path = self._path(name)
        try:
            return self._read.of(path)
        except FileNotFoundError as error:
            raise NotFound(f"The preset “{path.stem}” has just been deleted. Choose another one.") from error

    def _summary(self, name: str) -> PresetSummary:
        try:
            return PresetSummary(name, self._entry(name).description)
        except (InvalidRequest, NotFound) as error:
            return PresetSummary(name, problem=error.message)

    def _kept_description(self, path: Path) -> str:
        try:
            return self._entry(path.stem).description
        except (InvalidRequest, NotFound):
            return ""


def _read_preset(path: Path) -> tuple[GenerationParams, str]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{path.name} is not UTF-8 text; save it again as such.", field="preset") from error
    values = read_yaml(text, path.name)
    return _preset_of({} if values is None else values, path.name)  # an empty file is neutral


def _preset_of(values: Any, file_name: str) -> tuple[GenerationParams, str]:
    """Parameters and description of a file's values."""
    if not isinstance(values, dict):
        raise InvalidRequest(f"{file_name} must hold one “name: value” a line.", field="preset")
    given = {str(key): value for key, value in values.items()}
    description = given.pop("description", "")
    try:
        return params_from(given), _checked_description(str(description or ""))
    except InvalidRequest as error:
        raise InvalidRequest(f"{file_name}: {error.message}", **error.details) from error


def _checked_description(text: str) -> str:
    trimmed = " ".join(text.split())
    if len(trimmed) > DESCRIPTION_LIMIT:
        raise InvalidRequest(
            f"The description has {len(trimmed)} characters; the limit is {DESCRIPTION_LIMIT}. Shorten it.", field="description"
        )
    return trimmed
