"""Settings to begin a run from: recipes that lie beside data sets, and what an adapter says of its own training.

A recipe is `NAME.recipe.yaml` in the folder of data sets, with the fields of a run; what it leaves out is as usual. Reads only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from modules.core.errors import InvalidRequest, NotFound
from modules.core.files import path_below, read_yaml, relative_below
from modules.core.settings import validation_sentence
from modules.services.training_records import request_of
from modules.training.options import TrainingOptions

SUFFIX = ".recipe.yaml"
CARD = "training.json"
CARD_LIMIT_BYTES = 4 << 20
FIELDS = ("name", "base", "dataset", "held_out", "template", "continue_from", "options", "prompts", "notes")
Kind = Literal["recipe", "adapter"]


@dataclass(frozen=True)
class RecipeRow:
    """Something a run can begin from."""

    kind: Kind
    name: str
    title: str = ""


class TrainingRecipes:
    """The recipes of two folders."""

    def __init__(self, datasets_dir: Path, loras_dir: Path) -> None:
        self._datasets = datasets_dir
        self._loras = loras_dir

    def list(self) -> tuple[RecipeRow, ...]:
        """All there are, recipes first, by name; broken ones are found out when they are read."""
        rows = [RecipeRow("recipe", path.name.removesuffix(SUFFIX), _title(path)) for path in sorted(self._datasets.glob(f"*{SUFFIX}"))]
        cards = (path.parent for path in sorted(self._loras.glob(f"*/{CARD}")) if not path.parent.name.startswith("."))
        return (*rows, *(RecipeRow("adapter", folder.name) for folder in cards))

    def read(self, kind: Kind, name: str) -> dict[str, Any]:
        """A run as it would be asked for.

        Raises:
            NotFound: there is none of that name.
            InvalidRequest: it cannot be read, or asks for what is not known.
        """
        if kind == "recipe":
            path = path_below(self._datasets, name, SUFFIX, "recipe")
            values = read_yaml(_text(path, name), path.name)
        else:
            path = relative_below(self._loras, name, "adapter") / CARD
            values = _card(_text(path, name), name)
        if not isinstance(values, dict) or not isinstance(values.get("options", {}), dict):
            raise InvalidRequest(f"“{name}” is no recipe: it must hold “name: value” lines, and options the same.", field="recipe")
        unknown = sorted(set(values) - {*FIELDS, "title"})
        if unknown:
            raise InvalidRequest(f"The recipe “{name}” has “{unknown[0]}”, which is not known. There is: {', '.join(FIELDS)}.", field="recipe")
        try:
            options = TrainingOptions.model_validate(values.get("options") or {})
        except ValidationError as error:
            raise InvalidRequest(f"The recipe “{name}” cannot be used: {validation_sentence(error)}", field="recipe") from error
        return {**{field: values[field] for field in FIELDS if field in values}, "options": options.model_dump(mode="json")}


def _card(text: str, name: str) -> dict[str, Any]:
    """The run that an adapter tells of; another kind of data set path than a name is never in it."""
    try:
        args = json.loads(text)["args"]
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidRequest(f"The adapter “{name}” tells nothing of its training that can be read ({CARD}).", field="recipe") from error
    if not isinstance(args, Mapping) or not isinstance(args.get("dataset"), Mapping):
        raise InvalidRequest(f"The adapter “{name}” tells nothing of its training that can be read ({CARD}).", field="recipe")
    known = TrainingOptions.model_fields
    options = {key: value for key, value in (args.get("options") or {}).items() if key in known}
    return {**request_of({**args, "options": options, "continue_from": None})}


def _text(path: Path, name: str) -> str:
    try:
        if path.stat().st_size > CARD_LIMIT_BYTES:
            raise InvalidRequest(f"{path.name} of “{name}” is larger than {CARD_LIMIT_BYTES >> 20} MiB; that is no recipe.", field="recipe")
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{path.name} of “{name}” is not UTF-8 text; correct or delete it.", field="recipe") from error
    except OSError as error:
        raise NotFound(f"There are no settings of “{name}”; it may have been removed. Refresh the list.", field="recipe") from error


def _title(path: Path) -> str:
    try:
        values = read_yaml(path.read_text(encoding="utf-8"), path.name)
    except (OSError, UnicodeDecodeError, InvalidRequest):
        return ""
    return str(values.get("title") or "")[:200] if isinstance(values, dict) else ""
