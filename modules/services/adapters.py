"""LoRA adapters by name: what there is, whether each fits a model, and what a generation runs with.

Fitting is said from headers, before anything is loaded. Which adapters a conversation has is its own setting; those put into use on a model
are for all that have none. Knows no page and no prompts.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from modules.core.errors import AppError, InvalidRequest, NotFound, NotOffered
from modules.core.generation import EngineCard
from modules.core.model import Adapter, AdapterChoice, AdapterChoices, ModelInfo
from modules.core.settings import validation_sentence
from modules.loaders.adapter_facts import files_version, targets
from modules.loaders.model_info import AdapterInfo
from modules.loaders.registry import LOADERS
from modules.services.models import ModelService

KEPT_CHECKS = 1000
SCALE = re.compile(r"[+-]?\d*\.?\d+")
QUANTIZED = re.compile(r"(-unsloth)?-bnb-4bit$")

Check = Callable[[Path], None]


@dataclass(frozen=True)
class AdapterRow:
    """One adapter, looked at for one model."""

    info: AdapterInfo
    targets: tuple[str, ...] = ()
    problem: str = ""  # why it cannot be used on the model, with the cure
    note: str = ""  # what speaks against it without being sure


def choices_from(values: Any) -> tuple[AdapterChoice, ...] | None:
    """Adapters as a request or stored settings name them; None stays None.

    Raises:
        InvalidRequest: a scale outside its limits, or one adapter twice.
    """
    try:
        return None if values is None else TypeAdapter(AdapterChoices).validate_python(values)
    except ValidationError as error:
        raise InvalidRequest(f"adapters: {validation_sentence(error)}", field="adapters") from error


def choices_written(texts: Sequence[str]) -> tuple[AdapterChoice, ...]:
    """Adapters as a command line names them: NAME, or NAME=SCALE.

    Raises:
        InvalidRequest: as of `choices_from`.
    """
    rows = []
    for text in texts:
        name, _, scale = text.rpartition("=")
        rows.append({"name": name, "scale": scale} if name and SCALE.fullmatch(scale) else {"name": text})
    return choices_from(rows) or ()


class AdapterService:
    """Answers for the adapter folder and the models of a `ModelService`."""

    def __init__(self, models: ModelService, loras_name: str, on_use: Callable[[str], None] = lambda _: None) -> None:
        self._models = models
        self._on_use = on_use  # called with the name of every adapter that a request uses
        self._folder = loras_name
        self._checks: dict[tuple[str, str, str], Check] = {}  # model path, its version, loader → check; a model's header is read once
        self._rows: dict[tuple[str, ...], AdapterRow] = {}

    async def list(self, model: str = "") -> tuple[AdapterRow, ...]:
        """All adapters, and whether they fit a model (empty: the one used last; if none is loaded only themselves are looked at).

        Raises:
            NotFound: no such model.
        """
        infos = await self._models.adapters()
        name = model or next(iter(self._models.loaded_names()), "")
        info = await self._models.find(name) if name else None
        loader = self._loader(info) if info is not None else ""
        return await asyncio.to_thread(lambda: tuple(self._row(adapter, info, loader) for adapter in infos))

    async def resolve(self, card: EngineCard, choices: Sequence[AdapterChoice] | None) -> tuple[Adapter, ...]:
        """The files behind the names that a request gives for a loaded model; None takes those in use on it.

        Raises:
            NotFound: there is no adapter of that name any more.
            InvalidRequest: one does not fit this model, or the model takes none.
        """
        wanted = card.adapters if choices is None else choices
        if not wanted:
            return ()
        if not _takes_adapters(card.loader):
            raise NotOffered(f"{card.name} takes no LoRA adapters; take them out of the settings, or choose another model.", field="adapters")
        known = {info.name: info for info in await self._models.adapters()}
        info = await self._models.find(card.name)
        resolved = await asyncio.to_thread(lambda: tuple(self._resolved(choice, known, info, card.loader) for choice in wanted))
        for adapter in resolved:
            self._on_use(adapter.name)
        return resolved

    async def apply(self, model: str, choices: Sequence[AdapterChoice]) -> None:
        """Put exactly these adapters into use on a loaded model, for all requests that name none.

        Raises:
            AppError: as of `resolve`, or the engine cannot use one; nothing has changed then.
        """
        engine = await self._models.get(model)
        await self._models.set_adapters(engine.name, await self.resolve(engine.card, choices))

    def _resolved(self, choice: AdapterChoice, known: Mapping[str, AdapterInfo], model: ModelInfo, loader: str) -> Adapter:
        info = known.get(choice.name)
        if info is None:
            raise NotFound(f"There is no adapter “{choice.name[:100]}” in {self._folder}/; choose others in the settings.", field="adapters")
        problem = self._row(info, model, loader).problem
        if problem:
            raise InvalidRequest(f"{problem} Or leave it out.", field="adapters")
        try:
            version = files_version(Path(info.path))
        except OSError:
            raise NotFound(f"The adapter “{choice.name[:100]}” was removed just now; choose another one.", field="adapters") from None
        return Adapter(path=info.path, scale=choice.scale, name=info.name, version=version)

    def _loader(self, model: ModelInfo) -> str:
        """The loader a model has, had last, or would get."""
        card = next((card for card in self._models.status().loaded if card.name == model.name), None)
        fitting = [spec.name for spec in self._models.loaders_for(model)]
        remembered = self._models.remembered(model.name).loader
        return card.loader if card else remembered if remembered in fitting else next(iter(fitting), "")

    # ---- one adapter, one model; in a thread -----------------------------------------------------------------------

    def _row(self, adapter: AdapterInfo, model: ModelInfo | None, loader: str) -> AdapterRow:
        if model is not None and not _takes_adapters(loader):
            return AdapterRow(adapter, problem=f"{model.name} takes no adapters of this machine; load another model.")
        try:
            version = files_version(Path(adapter.path))
            against = (model.path, files_version(Path(model.path)), loader) if model is not None else ("", "", "")
        except OSError:
            return AdapterRow(adapter, problem=f"“{adapter.name}” or the model was removed just now; refresh the list.")
        key = (adapter.path, version, *against)
        row = self._rows.get(key)
        if row is None:
            row = self._look(adapter, model, against)
            if len(self._rows) >= KEPT_CHECKS:
                self._rows.clear()
            self._rows[key] = row
        return row

    def _look(self, adapter: AdapterInfo, model: ModelInfo | None, against: tuple[str, str, str]) -> AdapterRow:
        if adapter.problem:
            return AdapterRow(adapter, problem=adapter.problem)
        parts: tuple[str, ...] = ()
        try:
            parts = targets(Path(adapter.path))
            if model is not None:
                self._check(against)(Path(adapter.path))
        except AppError as error:
            return AdapterRow(adapter, parts, error.message)
        return AdapterRow(adapter, parts, note=origin_note(adapter.base_model, model) if model is not None else "")

    def _check(self, against: tuple[str, str, str]) -> Check:
        check = self._checks.get(against)
        if check is None:
            path, _, loader = against
            make = next(spec.adapter_check for spec in LOADERS if spec.name == loader)
            assert make is not None  # looked at before
            check = make(Path(path))
            self._checks.clear()  # one model at a time is looked at
            self._checks[against] = check
        return check


def _takes_adapters(loader: str) -> bool:
    return any(spec.name == loader and spec.adapter_check is not None for spec in LOADERS)


def origin_note(base_model: str, model: ModelInfo) -> str:
    """A doubt when an adapter names another base model; names are written in many ways, so that alone refuses nothing."""
    base = QUANTIZED.sub("", base_model.rstrip("/").split("/")[-1])
    if not base or _plain(base) in _plain(model.name) or _plain(base) in _plain(model.description):
        return ""
    return f"Made for “{base[:80]}”, and this model is called otherwise: its parts fit, but replies get worse if it is another model."


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())
