"""Read the topic files: which questions belong to an intent and how it is answered.

Knows the YAML files beside it. Knows nothing of tokens or training.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tools.starter.phrases import Pattern, normalise, parse

TOPIC_DIR = Path(__file__).parent / "topics"
HELD_BACK = Path(__file__).parent / "held_back.yaml"
TUNING = Path(__file__).parent / "tuning.yaml"
_NOT_TOPICS = ("lexicon.yaml",)


@dataclass(frozen=True, slots=True)
class Intent:
    """One thing a user may want: its question patterns and its fixed answers."""

    name: str
    patterns: tuple[Pattern, ...]
    answers: tuple[str, ...]
    weight: float


@dataclass(frozen=True, slots=True)
class Check:
    """One question for evaluation; a right reply contains each of ``needs`` ('a|b' = either word)."""

    intent: str
    question: str
    needs: tuple[str, ...]

    def accepts(self, reply: str) -> bool:
        """Say whether ``reply`` contains the required words."""
        text = reply.lower()
        return all(any(word in text for word in need.lower().split("|")) for need in self.needs)


def _read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _expand(entries: Iterable[Any], classes: Mapping[str, list[str]]) -> list[str]:
    """Turn ``{whatdoes: x}`` entries into that class's patterns with x in the slot."""
    sources: list[str] = []
    for entry in entries:
        if isinstance(entry, str):
            sources.append(entry)
            continue
        for name, filler in entry.items():
            sources += [pattern.replace("{x}", filler) for pattern in classes[name]]
    return sources


def load_intents() -> tuple[Intent, ...]:
    """Return all intents of the topic files, sorted by name."""
    classes = _read(TOPIC_DIR / "lexicon.yaml")
    found: dict[str, Intent] = {}
    for path in sorted(TOPIC_DIR.glob("*.yaml")):
        if path.name in _NOT_TOPICS:
            continue
        for name, entry in _read(path).items():
            if name in found:
                raise ValueError(f"intent {name} stands in two topic files; keep one")
            patterns = tuple(parse(source, classes) for source in _expand(entry["ask"], classes))
            found[name] = Intent(name, patterns, tuple(entry.get("answers", ())), float(entry.get("weight", 1)))
    return tuple(found[name] for name in sorted(found))


def load_checks(path: Path) -> tuple[Check, ...]:
    """Return the evaluation questions of ``path``."""
    checks = []
    for intent, entry in _read(path).items():
        checks += [Check(intent, question, tuple(entry["needs"])) for question in entry["questions"]]
    return tuple(checks)


def forbidden_questions() -> frozenset[str]:
    """Return the normalised evaluation questions: training must never contain one of them."""
    return frozenset(normalise(check.question) for path in (HELD_BACK, TUNING) for check in load_checks(path))
