"""Values about notebooks that the store hands out. Plain and frozen; knows no SQL."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

VersionKind = Literal["typed", "written", "alternative"]
Place = tuple[int, int]  # the part of a text that a generation replaces: from where, and up to where


@dataclass(frozen=True, slots=True)
class NotebookRecord:
    """One notebook; `id` is empty as long as an owner has none."""

    id: str = ""
    name: str = ""
    text: str = ""
    rev: int = 0
    can_undo: bool = False
    can_redo: bool = False
    settings: dict[str, Any] = field(default_factory=dict)
    place: Place | None = None  # after an undo: where the generation that was taken back had begun


@dataclass(frozen=True, slots=True)
class NotebookSummary:
    """One line of the list of notebooks."""

    id: str
    name: str  # as a person gave it; empty: none
    beginning: str  # of the text
    characters: int
    updated_s: float
    deleted_s: float | None = None


@dataclass(frozen=True, slots=True)
class NotebookVersion:
    """A text that a notebook had."""

    number: int
    kind: VersionKind
    text: str  # in a list only some of it, from about where it differs from the version before
    characters: int
    created_s: float
    begin: int = 0  # where that stands in the whole text
