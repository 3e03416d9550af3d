"""The list of good first models: names by the memory they need, with the day it was made. Knows the file beside it; asks nobody."""

from __future__ import annotations

from datetime import date
from pathlib import Path

from pydantic import BaseModel, Field

from modules.core.files import read_yaml

FILE = Path(__file__).with_name("first_models.yaml")


class FirstModel(BaseModel, frozen=True, extra="forbid"):
    """One suggestion."""

    name: str  # as one would paste it: owner/name:QUANTIZATION
    needs_gb: float = Field(gt=0)
    about: str


class FirstModels(BaseModel, frozen=True, extra="forbid"):
    """The list."""

    dated: date
    models: tuple[FirstModel, ...]


def read_first_models() -> FirstModels:
    """The list as shipped."""
    return FirstModels.model_validate(read_yaml(FILE.read_text(encoding="utf-8"), FILE.name))
