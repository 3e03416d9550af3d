"""What a library is a library of: models, or LoRA adapters. What differs between them is here, what is done with them is in `library.py`.

Knows the service of loaded models, which uses both. Touches no file but the list of how models were loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from modules.core.errors import Conflict, InvalidRequest, NotFound
from modules.core.model import ModelInfo
from modules.core.settings import Settings
from modules.loaders.model_info import AdapterInfo
from modules.services.model_choices import ModelChoices
from modules.services.models import ModelService


@dataclass(frozen=True)
class Item:
    """One thing of a library, as its header describes it."""

    name: str
    path: Path
    size_bytes: int
    licence: str
    source: str = ""  # the program in whose folder it lies: it is only read there


class Stock(Protocol):
    """The things of one folder and who uses them."""

    noun: str  # in sentences
    folder: Path

    async def list(self) -> tuple[Item, ...]:
        """All of them, broken ones too, in the order of their list."""
        ...

    async def find(self, name: str) -> Item:
        """The one of that name.

        Raises:
            NotFound: there is none.
        """
        ...

    def used(self) -> Mapping[str, float]:
        """When each was last used, in seconds since 1970, where that is kept with how it was used."""
        ...

    def template_of(self, name: str) -> str:
        """The prompt template chosen for it; empty is none."""
        ...

    def check_idle(self, names: Sequence[str], verb: str) -> None:
        """Refuse to touch what an engine reads.

        Raises:
            Conflict: with what to do first.
        """
        ...

    def moved(self, names: Mapping[str, str]) -> None:
        """They have other names now, old → new, or are gone: old → nothing."""
        ...


class ModelStock:
    """The models folder."""

    noun = "model"

    def __init__(self, settings: Settings, models: ModelService) -> None:
        self.folder = settings.models_dir
        self._models = models
        self._choices = ModelChoices(settings.state_dir / "models.yaml")

    async def list(self) -> tuple[Item, ...]:
        """All models, by name."""
        return tuple(map(_model, await self._models.list()))

    async def find(self, name: str) -> Item:
        """The model of that name.

        Raises:
            InvalidRequest: it is one of another server.
        """
        info = await self._models.find(name)
        if info.host:
            raise InvalidRequest(f"“{name}” is a model of another server ({info.host}): there are no files of it here.", field="model")
        return _model(info)

    def used(self) -> Mapping[str, float]:
        """When each was last loaded."""
        return self._choices.used()

    def template_of(self, name: str) -> str:
        """The one chosen on the Templates page, or by the settings for all."""
        return self._models.template_of(name)

    def check_idle(self, names: Sequence[str], verb: str) -> None:
        """Loaded models are left alone."""
        status = self._models.status()
        loaded = next((card.name for card in status.loaded if card.name in names), "")
        if loaded:
            raise Conflict(f"“{loaded}” is loaded; unload it, then {verb} it.")
        if status.loading is not None:
            raise Conflict(f"“{status.loading.name}” is being loaded just now; wait until that is done, then {verb} again.")

    def moved(self, names: Mapping[str, str]) -> None:
        """How they were loaded goes along; of those that are gone it stays, for when they come back."""
        gone = [old for old, new in names.items() if not new]
        if gone:
            self._choices.forget_last(gone)
        if len(gone) < len(names):
            self._choices.move({old: new for old, new in names.items() if new})
        self._models.moved(names)


class AdapterStock:
    """The folder of LoRA adapters."""

    noun = "adapter"

    def __init__(self, settings: Settings, models: ModelService) -> None:
        self.folder = settings.loras_dir
        self._models = models

    async def list(self) -> tuple[Item, ...]:
        """All adapters, by name."""
        return tuple(map(_adapter, await self._models.adapters()))

    async def find(self, name: str) -> Item:
        """The adapter of that name."""
        for item in await self.list():
            if item.name == name:
                return item
        raise NotFound(f"There is no adapter “{name[:100]}” in {self.folder.name}/; refresh the list.", field="adapter")

    def used(self) -> Mapping[str, float]:
        """It is among what is learned of each."""
        return {}

    def template_of(self, name: str) -> str:
        """An adapter has none."""
        return ""

    def check_idle(self, names: Sequence[str], verb: str) -> None:
        """Adapters that act on a loaded model are left alone."""
        status = self._models.status()
        for card in status.loaded:
            name = next((used.name for used in card.adapters if used.name in names), "")
            if name:
                raise Conflict(f"“{name}” is in use on “{card.name}”; take it off there, then {verb} it.")
        for model, adapters in self._models.coming_back_with().items():
            name = next((adapter.name for adapter in adapters if adapter.name in names), "")
            if name:
                raise Conflict(f"“{name}” comes back with “{model}”, which is unloaded for now; load that and take the adapter off, or forget the model, then {verb} it.")
        if status.loading is not None:
            raise Conflict(f"“{status.loading.name}” is being loaded just now, perhaps with adapters; wait until that is done, then {verb} again.")

    def moved(self, names: Mapping[str, str]) -> None:
        """Nothing else knows them by name."""


def _model(info: ModelInfo) -> Item:
    return Item(info.name, Path(info.path), info.size_bytes, info.licence, info.source)


def _adapter(info: AdapterInfo) -> Item:
    return Item(info.name, Path(info.path), info.size_bytes, info.licence)
