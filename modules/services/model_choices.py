"""How each model was last loaded: one small file in the state folder, so that it can be loaded the same way again."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from modules.core.errors import InvalidRequest
from modules.core.files import dump_yaml, read_yaml, write_atomic
from modules.core.model import Adapter, LoadOptions
from modules.core.settings import validation_sentence
from modules.loaders.spec import LoaderSpec

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadChoice:
    """How a model was asked to be loaded, and the adapters put into use on it since; those are not remembered."""

    name: str
    loader: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    adapters: tuple[Adapter, ...] = field(default=(), compare=False)


class ModelChoices:
    """Reads and writes the file; one that is broken counts as empty."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def _stored(self) -> dict[str, Any]:
        try:
            stored = read_yaml(self._path.read_text(encoding="utf-8"), self._path.name)
        except (OSError, InvalidRequest, UnicodeDecodeError):
            return {}
        return stored if isinstance(stored, dict) else {}

    def last(self) -> str:
        """The model loaded last, or nothing."""
        return str(self._stored().get("last") or "")

    def of(self, name: str) -> LoadChoice:
        """How a model was last loaded, or the defaults."""
        models = self._stored().get("models")
        stored = models.get(name) if isinstance(models, dict) else None
        if not isinstance(stored, dict) or not isinstance(stored.get("options"), dict):
            return LoadChoice(name)
        return LoadChoice(name, str(stored.get("loader") or ""), stored["options"])

    def remember(self, choice: LoadChoice) -> None:
        """Store a choice; one that cannot be stored is only logged, since the model is loaded all the same."""
        stored = self._stored().get("models")
        models = dict(stored) if isinstance(stored, dict) else {}
        models[choice.name] = {"loader": choice.loader, "options": dict(choice.options)}
        try:
            write_atomic(self._path, dump_yaml({"last": choice.name, "models": models}), mode=0o600)
        except OSError as error:
            log.warning("The choice of model could not be remembered: %s", error)


def checked_options(spec: LoaderSpec, options: Mapping[str, Any]) -> LoadOptions:
    """Options of a loader from plain values.

    Raises:
        InvalidRequest: naming the option, its limit and the value.
    """
    try:
        return spec.options(**options)
    except ValidationError as error:
        raise InvalidRequest(f"{spec.title}: " + validation_sentence(error)) from error
