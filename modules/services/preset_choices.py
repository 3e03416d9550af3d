"""Which preset a conversation begins with: the one last chosen while its model was loaded, or the one that the person made the default.

Knows presets and models by name; knows no conversation.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from modules.core.errors import AppError
from modules.core.files import dump_yaml, read_choices, write_atomic
from modules.services.models import ModelService
from modules.services.presets import DEFAULT_PRESET, PresetService

FILE_NAME = "presets.yaml"


class OfModel(NamedTuple):
    """The preset last chosen with a model; empty is neutral."""

    model: str
    preset: str


class PresetChoices:
    """Remembers, in the state folder. A preset that is gone counts as never chosen."""

    def __init__(self, state_dir: Path, models: ModelService, presets: PresetService) -> None:
        self._path = state_dir / FILE_NAME
        self._models = models
        self._presets = presets

    def usable(self, preset: str) -> bool:
        """Whether a conversation can have this preset; empty is neutral."""
        return not preset or any(row.name == preset and not row.problem for row in self._presets.list())

    def of_model(self) -> OfModel | None:
        """The preset last chosen with the model that is loaded."""
        engine = self._models.loaded()
        preset = self._models.preset_of(engine.name) if engine else None
        return OfModel(engine.name, preset) if engine and preset is not None and self.usable(preset) else None

    def remember(self, preset: str) -> None:
        """The person chose a preset: the loaded model, if any, has it from now on."""
        engine = self._models.loaded()
        if engine and self.usable(preset):
            self._models.choose_preset(engine.name, preset)

    def default(self) -> str:
        """What conversations begin with where nothing else is known."""
        preset = read_choices(self._path).get("default")
        return preset if isinstance(preset, str) and self.usable(preset) else DEFAULT_PRESET

    def choose_default(self, preset: str) -> None:
        """Make a preset the default; empty is neutral.

        Raises:
            NotFound: there is no such preset.
            AppError: the choice cannot be stored.
        """
        if preset:
            self._presets.read(preset)
        try:
            write_atomic(self._path, dump_yaml({"default": preset}), mode=0o600)
        except OSError as error:
            raise AppError(f"The choice could not be stored ({error.strerror}); the old one stays.") from error
