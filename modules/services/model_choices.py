"""How and when each model was last loaded: one small file in the state folder, so that it can be loaded the same way again."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from modules.core.errors import InvalidRequest
from modules.core.files import dump_yaml, read_choices, write_atomic
from modules.core.model import Adapter, LoadOptions
from modules.core.settings import validation_sentence
from modules.loaders.spec import LoaderSpec

log = logging.getLogger(__name__)

FORMER_DEFAULTS = MappingProxyType({"mmap": True})  # stored with every model by earlier versions: nobody had chosen them
OF_THE_MODEL = ("pinned", "template", "preset")  # what stays when it is loaded another way


@dataclass(frozen=True)
class LoadChoice:
    """How a model was asked to be loaded, and the adapters put into use on it since; those are not remembered."""

    name: str
    loader: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    adapters: tuple[Adapter, ...] = field(default=(), compare=False)
    used_s: float = field(default=0.0, compare=False)  # when it last loaded well this way, seconds since 1970; 0 never


@dataclass(frozen=True)
class Change:
    """One option that is other than at the last good load; values as they would be typed."""

    option: str
    before: Any
    now: Any


class ModelChoices:
    """Reads and writes the file; one that is broken counts as empty."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def _stored(self) -> dict[str, Any]:
        return read_choices(self._path)

    def last(self) -> str:
        """The model loaded last, or nothing."""
        return str(self._stored().get("last") or "")

    def of(self, name: str) -> LoadChoice:
        """How a model was last loaded, or the defaults."""
        stored = self._models().get(name)
        if not isinstance(stored, dict) or not isinstance(stored.get("options"), dict):
            return LoadChoice(name)
        used_s = stored.get("used_s")
        options = {option: value for option, value in stored["options"].items() if option not in FORMER_DEFAULTS or value is not FORMER_DEFAULTS[option]}
        return LoadChoice(name, str(stored.get("loader") or ""), options, used_s=used_s if isinstance(used_s, float) else 0.0)

    def used(self) -> dict[str, float]:
        """When each model was last loaded, in seconds since 1970."""
        return {name: row["used_s"] for name, row in self._models().items() if isinstance(row, dict) and isinstance(row.get("used_s"), float)}

    def remember(self, choice: LoadChoice) -> None:
        """Store a choice; one that cannot be stored is only logged, since the model is loaded all the same."""
        models = self._models()
        row = {"loader": choice.loader, "options": dict(choice.options), "used_s": round(time.time(), 3)}
        before = models.get(choice.name)
        kept = {key: before[key] for key in OF_THE_MODEL if key in before} if isinstance(before, dict) else {}
        self._write(choice.name, {**models, choice.name: row | kept})

    def pinned(self) -> frozenset[str]:
        """The models that are pinned."""
        return frozenset(name for name, row in self._models().items() if _pinned(row))

    def pin(self, name: str, pinned: bool) -> None:
        """Pin a model or take the pin off."""
        self._choose(name, "pinned", pinned or None)

    def template_of(self, name: str) -> str:
        """The prompt template chosen for a model; empty is its own chat template."""
        row = self._models().get(name)
        template = row.get("template") if isinstance(row, dict) else None
        return template if isinstance(template, str) else ""

    def choose_template(self, name: str, template: str) -> None:
        """Choose a prompt template for a model; empty takes its own again."""
        self._choose(name, "template", template or None)

    def preset_of(self, name: str) -> str | None:
        """The preset last chosen with a model, empty is neutral; None if there was no choice."""
        row = self._models().get(name)
        preset = row.get("preset") if isinstance(row, dict) else None
        return preset if isinstance(preset, str) else None

    def choose_preset(self, name: str, preset: str) -> None:
        """Remember the preset chosen with a model."""
        self._choose(name, "preset", preset)

    def _choose(self, name: str, key: str, value: Any) -> None:
        """Store something that belongs to a model; None forgets it."""
        models = self._models()
        row = models.get(name)
        kept = {other: kept for other, kept in row.items() if other != key} if isinstance(row, dict) else {}
        self._write(self.last(), {**models, name: kept if value is None else kept | {key: value}})

    def with_template(self, template: str) -> tuple[str, ...]:
        """The models for which that prompt template is chosen."""
        return tuple(name for name, row in self._models().items() if isinstance(row, dict) and row.get("template") == template)

    def move(self, names: Mapping[str, str]) -> None:
        """Models have other names now: old → new. They are known by them where they draft for another model, too."""
        last = self.last()
        kept = {names.get(name, name): row for name, row in self._models().items() if name not in names.values()}
        for row in kept.values():
            options = row.get("options") if isinstance(row, dict) else None
            if isinstance(options, dict) and options.get("draft_model") in names:
                options["draft_model"] = names[options["draft_model"]]
        self._write(names.get(last, last), kept)

    def forget_last(self, names: Sequence[str]) -> None:
        """These models are gone: none of them is the one to begin with. How they were loaded stays, for when they come back."""
        if self.last() in names:
            self._write("", self._models())

    def _models(self) -> dict[str, Any]:
        stored = self._stored().get("models")
        return dict(stored) if isinstance(stored, dict) else {}

    def _write(self, last: str, models: Mapping[str, Any]) -> None:
        try:
            write_atomic(self._path, dump_yaml({"last": last, "models": dict(models)}), mode=0o600)
        except OSError as error:
            log.warning("The choice of model could not be remembered: %s", error)


def changes(before: LoadOptions, now: LoadOptions) -> tuple[Change, ...]:
    """The options of a loader that differ, in the order of its form."""
    pairs = ((name, getattr(before, name), getattr(now, name)) for name in type(now).model_fields)
    return tuple(Change(name, old, new) for name, old, new in pairs if old != new)


def _pinned(row: Any) -> bool:
    return isinstance(row, dict) and row.get("pinned") is True


def checked_options(spec: LoaderSpec, options: Mapping[str, Any]) -> LoadOptions:
    """Options of a loader from plain values.

    Raises:
        InvalidRequest: naming the option, its limit and the value.
    """
    try:
        return spec.options(**options)
    except ValidationError as error:
        raise InvalidRequest(f"{spec.title}: " + validation_sentence(error)) from error
