"""What the four fields that shape a text may be: bounded before anything reads them.

They say what the whole reply looks like: a grammar, a JSON schema, a regular expression or a list of choices. Here are sizes and depths only, for
every process; whether a grammar makes sense is found where there is a model (engine/constraints.py).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

SHAPE_FIELDS = ("grammar", "json_schema", "regex", "choices")
LONGEST_SHAPE = 65_536  # characters of a grammar or schema, and of all choices together
LONGEST_REGEX = 8_192
MOST_CHOICES = 1_024
DEEPEST_SCHEMA = 64  # objects and lists in each other


@dataclass(frozen=True, slots=True)
class TaggedField:
    """A value in tags: JSON by a schema, one of some texts, or any text up to the tag behind it."""

    before: str
    behind: str
    schema: str = ""
    choices: tuple[str, ...] = ()
    required: bool = True


@dataclass(frozen=True, slots=True)
class TaggedItem:
    """An object whose members stand in tags, in this order."""

    before: str
    fields: tuple[TaggedField, ...]
    behind: str


@dataclass(frozen=True, slots=True)
class FramedJson:
    """A text of objects by JSON schemas, each in a frame: how calls of tools look where one has to come."""

    items: tuple[tuple[str, str, str], ...]  # what stands before the object, its schema, what stands behind
    begin: str = ""
    between: str = ""
    end: str = ""
    most: int = 1  # objects
    otherwise: str = ""  # a schema that the text may fit instead
    thinking: tuple[str, str] | None = None  # the tags between which may be thought before it
    tagged: tuple[TaggedItem, ...] = ()  # more objects, written in tags
    after: str = ""  # the text is free up to this mark, with which the frame begins, and may do without


@dataclass(frozen=True, slots=True)
class CallText:
    """How calls of tools come in the text of a reply."""

    marks: tuple[str, ...] = ()  # where they are special tokens, they stay in the text and may be written in a frame
    frame: FramedJson | None = None  # what the text has to be; None: it is free
    thinking: tuple[str, str] | tuple[()] = ()  # the tags between which may be thought before a text by a JSON schema


def canonical_schema(value: Any) -> str:
    """A JSON schema, as text or as an object, as the shortest text; properties stay in their order. Nothing for nothing.

    Raises:
        ValueError: no JSON, no schema, too long or too deep.
    """
    if isinstance(value, str):
        if len(value) > LONGEST_SHAPE:
            raise ValueError(_too_long(len(value)))
        if not value.strip():
            return ""
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"the schema is no JSON ({str(error)[:80]})") from error
    if not isinstance(value, dict | bool):
        raise ValueError(f"a schema is a JSON object, like {{“type”: “object”}}; got {type(value).__name__}")
    if _too_deep(value):
        raise ValueError(f"at most {DEEPEST_SCHEMA} objects and lists in each other")
    try:
        text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the schema is no JSON ({str(error)[:80]})") from error
    if len(text) > LONGEST_SHAPE:
        raise ValueError(_too_long(len(text)))
    return text


def checked_choices(choices: tuple[str, ...]) -> tuple[str, ...]:
    """Each choice once, in their order.

    Raises:
        ValueError: an empty one, or all together too long.
    """
    if any(not choice for choice in choices):
        raise ValueError("an empty text is no choice")
    size = sum(map(len, choices))
    if size > LONGEST_SHAPE:
        raise ValueError(_too_long(size))
    return tuple(dict.fromkeys(choices))


def _too_long(size: int) -> str:
    return f"at most {LONGEST_SHAPE} characters; got {size}"


def _too_deep(value: Any) -> bool:
    """Whether there are more levels than allowed; level by level, so that no depth can exhaust the stack."""
    level: list[Any] = [value] if isinstance(value, dict) else []
    for _ in range(DEEPEST_SCHEMA):
        inner = (part for outer in level for part in (outer.values() if isinstance(outer, dict) else outer))
        level = [part for part in inner if isinstance(part, dict | list)]
        if not level:
            return False
    return True
