"""Lore of a character: entries that join the prompt when one of their words was said, within a budget of tokens.

Pure: takes a card's `character_book` as it is and texts, gives texts back. What is not of the expected kind is passed over. Regular expressions of
others are never run: they could take for ever. Source: the public specifications of character card V2 and V3.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from modules.prompts.character_card import clean

Place = Literal["before_char", "after_char"]
Count = Callable[[str], int]

ENTRY_LIMIT = 5_000
KEY_LIMIT = 200  # of one entry
SCAN_DEPTH = 4  # messages, where a book says nothing
SCAN_LIMIT = 100
SCAN_CHARS = 200_000
TOKEN_BUDGET = 512  # where a book says nothing
TOKEN_BUDGET_LIMIT = 32_768
RECURSION_LIMIT = 5


@dataclass(frozen=True, slots=True)
class Entry:
    """One piece of lore."""

    content: str
    keys: tuple[str, ...]
    secondary_keys: tuple[str, ...]  # empty: the keys alone decide
    constant: bool
    case_sensitive: bool
    order: float
    priority: float
    place: Place


@dataclass(frozen=True, slots=True)
class Lore:
    """What joins the prompt; `left_out` entries were called for and had no room."""

    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    left_out: int = 0


@dataclass(frozen=True, slots=True)
class Lorebook:
    """The entries that are switched on, and how far back and how long they may go."""

    entries: tuple[Entry, ...]
    scan_depth: int
    token_budget: int
    recursive: bool

    def lore(self, said: Sequence[str], count: Count) -> Lore:
        """What the last messages call for.

        Args:
            said: the texts of the messages, oldest first.
            count: how many tokens a text has.
        """
        text = "\n".join(said[len(said) - min(self.scan_depth, len(said)) :])[-SCAN_CHARS:]
        called = self._called(text)
        chosen: list[Entry] = []
        left = self.token_budget
        for entry in sorted(called, key=lambda entry: (not entry.constant, -entry.priority, entry.order)):
            size = count(entry.content)
            if size <= left:
                chosen.append(entry)
                left -= size
        chosen.sort(key=lambda entry: entry.order)
        before, after = (tuple(entry.content for entry in chosen if entry.place == place) for place in ("before_char", "after_char"))
        return Lore(before, after, len(called) - len(chosen))

    def _called(self, text: str) -> list[Entry]:
        """The entries whose words are in the text; with recursion also those whose words are in other called entries."""
        called: list[Entry] = []
        waiting = list(self.entries)
        for _ in range(RECURSION_LIMIT if self.recursive else 1):
            folded = text.casefold()
            new = [entry for entry in waiting if _fires(entry, text, folded)]
            if not new:
                break
            called += new
            waiting = [entry for entry in waiting if entry not in new]
            text = "\n".join(entry.content for entry in new)[-SCAN_CHARS:]
        return called


def read_lorebook(book: Any) -> Lorebook:
    """The usable part of a card's `character_book`; anything else gives a book without entries."""
    values: Mapping[str, Any] = book if isinstance(book, dict) else {}
    listed = values.get("entries")
    if isinstance(listed, dict):  # as SillyTavern writes a book of its own
        listed = list(listed.values())
    entries = [_entry(raw, place) for place, raw in enumerate(listed[:ENTRY_LIMIT] if isinstance(listed, list) else [])]
    return Lorebook(
        entries=tuple(entry for entry in entries if entry is not None),
        scan_depth=_whole(values.get("scan_depth"), SCAN_DEPTH, SCAN_LIMIT),
        token_budget=_whole(values.get("token_budget"), TOKEN_BUDGET, TOKEN_BUDGET_LIMIT),
        recursive=values.get("recursive_scanning") is True,
    )


def _entry(raw: Any, place: int) -> Entry | None:
    if not isinstance(raw, dict) or raw.get("enabled", True) is False or raw.get("disable") is True:
        return None
    content = _without_decorators(raw.get("content"))
    constant = raw.get("constant") is True
    keys = _words(raw.get("keys", raw.get("key")))
    if not content or not (keys or constant) or (raw.get("use_regex") is True and not constant):
        return None
    return Entry(
        content=content,
        keys=keys,
        secondary_keys=_words(raw.get("secondary_keys", raw.get("keysecondary"))) if raw.get("selective") is True else (),
        constant=constant,
        case_sensitive=raw.get("case_sensitive") is True,
        order=_number(raw.get("insertion_order", raw.get("order")), float(place)),
        priority=_number(raw.get("priority"), 0.0),
        place="before_char" if raw.get("position") == "before_char" else "after_char",
    )


def _fires(entry: Entry, text: str, folded: str) -> bool:
    if entry.constant:
        return True
    where = text if entry.case_sensitive else folded

    def said(keys: tuple[str, ...]) -> bool:
        return any(_holds(where, key if entry.case_sensitive else key.casefold()) for key in keys)

    return said(entry.keys) and (not entry.secondary_keys or said(entry.secondary_keys))


def _holds(text: str, key: str) -> bool:
    """Whether a text holds a key as a word of its own: “cat” is not in “category”. Scripts without spaces have no such borders."""
    at = text.find(key)
    while at >= 0:
        end = at + len(key)
        if not (at and _joined(text[at - 1], key[0])) and not (end < len(text) and _joined(key[-1], text[end])):
            return True
        at = text.find(key, at + 1)
    return False


def _joined(left: str, right: str) -> bool:
    return left.isalnum() and right.isalnum() and left < "\u2e80" and right < "\u2e80"


def _without_decorators(value: Any) -> str:
    """The content without the lines “@@name value” that V3 may put at its head."""
    return re.sub(r"\A(?:\s*@@[^\n]*(?:\n|\Z))+", "", clean(value)).strip() if isinstance(value, str) else ""


def _words(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):  # some programs write them with commas
        value = value.split(",")
    words = [clean(word).strip() for word in value[:KEY_LIMIT] if isinstance(word, str)] if isinstance(value, list) else []
    return tuple(word for word in words if word)


def _whole(value: Any, default: int, limit: int) -> int:
    usable = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e18
    return min(int(value), limit) if usable else default


def _number(value: Any, default: float) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e18 else default
