"""Conversations in Markdown: as Paddock writes them, and as people and programs usually do: a heading, bold words or “User:” before each turn."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import pairwise
from types import MappingProxyType
from typing import Any, NamedTuple

from modules.core.dialogue import NARRATOR
from modules.core.errors import InvalidRequest

TURNS_LIMIT = 50_000
OWN = re.compile(r"## (?P<name>.+?) · (?P<when>\d{4}-\d\d-\d\d \d\d:\d\d) UTC(?: · (?P<model>.+))?\s*")
USER = "user|you|human|me|person|prompt|question"
ASSISTANT = "assistant|ai|bot|reply|response|answer|model|chatgpt|gpt(?:-[\\w.]+)?|claude(?: [\\w. ]+)?|gemini|copilot|deepseek|qwen|llama|mistral|paddock"
SPEAKER = rf"(?P<user>{USER})|(?P<assistant>{ASSISTANT})|(?P<system>system(?: prompt)?)"
STYLES = (  # how a line says who speaks; a file keeps to one
    re.compile(rf"(?P<level>#{{1,6}})\s+(?:[^\w\s#*]+\s*)?\**(?:{SPEAKER})(?: said)?:?\**:?\s*", re.IGNORECASE),
    re.compile(rf"(?:\*\*|__)(?:[^\w\s*]+\s*)?(?:{SPEAKER})(?: said)?(?::(?:\*\*|__)|(?:\*\*|__):?)(?P<rest>(?:\s.*)?)", re.IGNORECASE),
    re.compile(rf"(?:{SPEAKER})(?: said)?:(?P<rest>(?:\s.*)?)", re.IGNORECASE),
)
FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
THINKING = re.compile(r"> \*Thinking:\* ?((?:.*)(?:\n>.*)*)\s*")
KNOWN_NAMES: Mapping[str, str] = MappingProxyType({"You": "user", "Reply": "assistant", "System": "system", NARRATOR: "user"})


class _Turn(NamedTuple):
    role: str
    lines: list[str]
    name: str = ""  # of who speaks, where it is not the role's
    when: str = ""
    model: str = ""


def from_markdown(text: str, name: str) -> dict[str, Any]:
    """A conversation in our own form.

    Raises:
        InvalidRequest: nothing in it says who speaks.
    """
    lines = text.replace("\r\n", "\n").removeprefix("\ufeff").split("\n")
    own = _own(lines)
    before, turns = own or _usual(lines) or ([], [])
    if not turns:
        raise InvalidRequest(
            f"{name} is neither JSON nor a chat in Markdown: no line says who speaks, as “## You”, “**Assistant:**” or “User:” do.", field="file"
        )
    title = next((line[2:].strip() for line in before if line.startswith("# ")), "")
    system = _quoted(before) if own else ""
    if turns[0].role == "system":
        system = "\n\n".join(part for part in (system, _content(turns[0])) if part)
        turns = turns[1:]
    return {"title": title, "settings": {"system_prompt": system}, "messages": [_message(turn) for turn in turns]}


def _own(lines: Sequence[str]) -> tuple[list[str], list[_Turn]] | None:
    """As Paddock writes it; None for another file."""
    marks = _marks(lines, OWN)
    if not marks:
        return None
    names = [found["name"] for found in marks.values()]
    roles = _roles(names, {found["name"] for found in marks.values() if found["model"]})
    return _divided(lines, {
        place: _Turn(roles[found["name"]], [], "" if found["name"] in ("You", "Reply", "System") else found["name"], found["when"], found["model"] or "")
        for place, found in marks.items()
    })  # fmt: skip


def _roles(names: Sequence[str], with_model: set[str]) -> dict[str, str]:
    """Who is the person and who is the model: a name with a model is one's; of others the first is the person, if nobody is it yet."""
    roles = {name: KNOWN_NAMES.get(name) or ("assistant" if name in with_model else "") for name in names}
    is_told = any(role == "user" for name, role in roles.items() if name != NARRATOR)
    for name in (name for name, role in roles.items() if not role):
        roles[name], is_told = "assistant" if is_told else "user", True
    return roles


def _usual(lines: Sequence[str]) -> tuple[list[str], list[_Turn]] | None:
    """In the first style in which both the person and the model speak."""
    for style in STYLES:
        marks = _marks(lines, style)
        if "level" in style.groupindex and marks:  # headings of other levels belong to the texts
            level, _ = Counter(found["level"] for found in marks.values()).most_common(1)[0]
            marks = {place: found for place, found in marks.items() if found["level"] == level}
        turns = {place: _marked(found) for place, found in _of_two(marks).items()}
        if {"user", "assistant"} <= {turn.role for turn in turns.values()}:
            return _divided(lines, turns)
    return None


def _marks(lines: Sequence[str], style: re.Pattern[str]) -> dict[int, re.Match[str]]:
    """The lines that say who speaks, by their places."""
    found: dict[int, re.Match[str]] = {}
    for place in _outside_fences(lines):
        if mark := style.fullmatch(lines[place].rstrip()):
            found[place] = mark
            if len(found) > TURNS_LIMIT:
                raise InvalidRequest(f"This chat in Markdown has more than {TURNS_LIMIT:,} turns, the most that one conversation holds; divide it.", field="file")
    return found


def _of_two(marks: dict[int, re.Match[str]]) -> dict[int, re.Match[str]]:
    """The marks with the name that each role has at first: another one belongs to a text."""
    names: dict[str, str] = {}
    return {place: found for place, found in marks.items() if names.setdefault(_role(found), _name(found)) == _name(found)}


def _role(found: re.Match[str]) -> str:
    return next(role for role in ("user", "assistant", "system") if found[role])


def _name(found: re.Match[str]) -> str:
    return found[_role(found)].casefold()


def _marked(found: re.Match[str]) -> _Turn:
    rest = found.groupdict().get("rest") or ""
    return _Turn(_role(found), [rest.strip()] if rest.strip() else [])


def _divided(lines: Sequence[str], turns: dict[int, _Turn]) -> tuple[list[str], list[_Turn]]:
    """The lines before the first turn, and the turns with theirs."""
    places = [*turns, len(lines)]
    for place, following in pairwise(places):
        turns[place].lines.extend(lines[place + 1 : following])
    return list(lines[: places[0]]), list(turns.values())


def _outside_fences(lines: Sequence[str]) -> Iterator[int]:
    """Places of the lines that are not in a block of code."""
    open_fence = ""
    for place, line in enumerate(lines):
        found = FENCE.match(line)
        if not open_fence and found:
            open_fence = found[1]
        elif open_fence:
            if found and found[1].startswith(open_fence) and not line.strip().strip(open_fence[0]):
                open_fence = ""
        else:
            yield place


def _quoted(lines: Sequence[str]) -> str:
    """The system prompt, which stands quoted below the title."""
    return "\n".join(line[1:].removeprefix(" ") for line in lines if line.startswith(">")).strip()


def _message(turn: _Turn) -> dict[str, Any]:
    message: dict[str, Any] = {"role": turn.role, "content": _content(turn), "model": turn.model, "speaker": turn.name}
    with suppress(ValueError):  # no such day
        message["created_s"] = max(0.0, datetime.strptime(turn.when, "%Y-%m-%d %H:%M").replace(tzinfo=UTC).timestamp())
    return message


def _content(turn: _Turn) -> str:
    lines = list(turn.lines)
    while lines and lines[-1] in ("", "---"):  # a line that some put between turns
        lines.pop()
    text = "\n".join(lines).strip("\n")
    found = THINKING.match(text) if turn.role == "assistant" else None
    if not found:
        return text
    thinking = "\n".join(line.removeprefix(">").removeprefix(" ") for line in found[1].split("\n"))
    return f"<think>\n{thinking.strip()}\n</think>\n\n{text[found.end() :]}"
