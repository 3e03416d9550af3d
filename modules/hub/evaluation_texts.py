"""The list of well-known texts for measuring perplexity: where they lie on the hub and how their rows become one text. Knows the file beside it; asks nobody."""

from __future__ import annotations

from datetime import date
from pathlib import Path

from pydantic import BaseModel, Field

from modules.core.files import read_yaml

FILE = Path(__file__).with_name("evaluation_texts.yaml")


class EvaluationText(BaseModel, frozen=True, extra="forbid"):
    """One text."""

    id: str = Field(pattern=r"[a-z0-9][a-z0-9-]{0,59}")  # also the folder it gets
    title: str
    repo: str
    revision: str = "main"
    path: str
    column: str = ""  # of a table; empty for a text file, which is taken as it is
    joined_by: str = ""  # between the rows of a table, empty rows too
    licence: str
    about: str


class EvaluationTexts(BaseModel, frozen=True, extra="forbid"):
    """The list."""

    dated: date
    texts: tuple[EvaluationText, ...]


def read_evaluation_texts() -> EvaluationTexts:
    """The list as shipped."""
    return EvaluationTexts.model_validate(read_yaml(FILE.read_text(encoding="utf-8"), FILE.name))
