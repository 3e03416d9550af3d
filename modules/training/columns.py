"""What columns mean, guessed from their names and first values: the format of a data set, and the column of each meaning.

Knows rows and no samples; what is guessed here a person may set otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from modules.core.errors import InvalidRequest
from modules.training.rows import DataRow, printable
from modules.training.samples import FORMAT_TITLES, MEANINGS, NEEDED, Format
from modules.training.turns import is_conversation, is_sharegpt

FOUND_LIMIT = 500
LISTED = 20  # columns named in a sentence
ORDER: tuple[Format, ...] = ("preference", "feedback", "sharegpt", "messages", "instruction", "text")  # the first that fits
CONVERSATIONS = ("messages", "conversations", "conversation", "dialogue", "dialog", "chat")
QUESTIONS = ("instruction", "instructions", "prompt", "question", "query", "user", "problem", "input")
ANSWERS = ("output", "response", "completion", "answer", "reply", "assistant", "solution", "target")
NAMES: Mapping[str, tuple[str, ...]] = MappingProxyType({
    "messages": CONVERSATIONS,
    "system": ("system", "system_prompt", "system_message"),
    "tools": ("tools", "functions", "available_tools"),
    "instruction": QUESTIONS,
    "prompt": QUESTIONS,
    "output": ANSWERS,
    "answer": ANSWERS,
    "input": ("input", "context"),
    "history": ("history",),
    "text": ("text", "content", "document", "body", "article", "story", "passage", "raw"),
    "chosen": ("chosen", "chosen_response", "accepted", "preferred", "better"),
    "rejected": ("rejected", "rejected_response", "dispreferred", "worse"),
    "label": ("label", "kto_tag", "is_good", "good", "thumbs_up", "feedback"),
})
GOOD = frozenset({"true", "1", "good", "yes", "up", "thumbs_up", "thumbs up", "desirable", "chosen"})
BAD = frozenset({"false", "0", "bad", "no", "down", "thumbs_down", "thumbs down", "undesirable", "rejected"})


def found_columns(rows: Iterable[DataRow]) -> tuple[str, ...]:
    """All columns of some rows, in the order in which they come."""
    return tuple(dict.fromkeys(column for row in rows for column in row.values))[:FOUND_LIMIT]


def guessed(rows: Sequence[DataRow]) -> tuple[Format | None, dict[str, str]]:
    """The format of some rows and the column of each meaning; None where it cannot be told."""
    for loosely in (False, True):
        for format in ORDER:
            columns = guessed_columns(format, rows, loosely=loosely)
            if _is_complete(format, columns) and _speaks(format, columns, rows):
                return format, columns
    return None, {}


def _is_complete(format: Format, columns: Mapping[str, str]) -> bool:
    whole_answers = format != "feedback" or "messages" in columns or {"prompt", "answer"} <= columns.keys()
    return whole_answers and all(meaning in columns for meaning in NEEDED[format])


def _speaks(format: Format, columns: Mapping[str, str], rows: Sequence[DataRow]) -> bool:
    """Chat has two spellings, which are read alike and named apart."""
    return format != "sharegpt" or any(is_sharegpt(row.values.get(columns["messages"])) for row in rows)


def guessed_columns(format: Format, rows: Sequence[DataRow], *, loosely: bool = True) -> dict[str, str]:
    """The column of each meaning of a format, as far as names and values tell; `loosely` is satisfied with one of both."""
    found = found_columns(rows)
    columns: dict[str, str] = {}
    for meaning in MEANINGS[format]:
        left = [column for column in found if column not in columns.values()]
        named = [column for name in NAMES[meaning] for column in left if _word(column) == name]
        values = {column: [row.values.get(column) for row in rows] for column in left}
        choices = [column for column in named if _fits(meaning, values[column])]
        if loosely and not choices:
            unnamed = meaning in ("messages", "text") and format in ("messages", "sharegpt", "text") and (meaning == "messages" or len(found) == 1)
            choices = ([column for column in left if _is_sure(meaning, values[column])] if unnamed else []) or named
        if choices:
            columns[meaning] = choices[0]
    return columns


def _word(column: str) -> str:
    return column.strip().lower().replace(" ", "_").replace("-", "_")


def _fits(meaning: str, values: Sequence[Any]) -> bool:
    """Whether a column of the right name can be meant; an empty one can, but for a mark."""
    present = [value for value in values if value not in (None, "", [])]
    if meaning == "label":
        return bool(present) and all(verdict_of(value) is not None for value in present)
    return not present or _is_sure(meaning, present)


def _is_sure(meaning: str, values: Sequence[Any]) -> bool:
    if meaning == "messages":
        return any(is_conversation(value) for value in values)
    return meaning != "text" or any(isinstance(value, str) for value in values)


def verdict_of(value: Any) -> bool | None:
    """Whether a mark says good; None for one that cannot be told."""
    word = str(value).strip().lower() if isinstance(value, bool | int | str) else ""
    return True if word in GOOD else False if word in BAD else None


def checked_columns(format: str, columns: Mapping[str, str]) -> dict[str, str]:
    """A mapping that a person made.

    Raises:
        InvalidRequest: the format has no such meaning, or one that it needs has no column.
    """
    known = next((each for each in FORMAT_TITLES if each == format), None)
    if known is None:
        raise InvalidRequest(f"“{format[:40]}” is no format of a data set; there are {', '.join(FORMAT_TITLES)}.", field="format")
    set_ = {meaning: column for meaning, column in columns.items() if column}
    for meaning in set_:
        if meaning not in MEANINGS[known]:
            raise InvalidRequest(f"{FORMAT_TITLES[known]}: “{meaning[:40]}” means nothing here; a column can be {', '.join(MEANINGS[known])}.", field="columns")
    for meaning in NEEDED[known] if set_ else ():
        if meaning not in set_:
            raise InvalidRequest(f"{FORMAT_TITLES[known]}: choose the column that is “{meaning}”.", field="columns")
    if set_ and not _is_complete(known, set_):
        raise InvalidRequest(f"{FORMAT_TITLES[known]}: choose the column that is “messages”, or those that are “prompt” and “answer”.", field="columns")
    return set_


def listed(columns: Iterable[str]) -> str:
    """Columns named in a sentence."""
    names = list(columns)
    return ", ".join(f"“{printable(name[:60])}”" for name in names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "") or "none"
