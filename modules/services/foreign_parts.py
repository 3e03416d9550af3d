"""What the readers of other programs' conversations share: trees put in order, times in all their spellings, thinking in our marks."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from modules.core.errors import InvalidRequest

LATEST_S = 1e11  # our own limit; larger numbers are milliseconds
TAVERN_TIME = re.compile(r"(\d{4})-(\d{1,2})-(\d{1,2})\s*@\s*(\d{1,2})h\s*(\d{1,2})m(?:\s*(\d{1,2})s)?")
SPOKEN_TIME = re.compile(r"([A-Za-z]{3})[a-z]*\.? (\d{1,2}), (\d{4}),? (\d{1,2}):(\d{2}) ?(am|pm)?", re.IGNORECASE)
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")


def seconds_of(value: Any) -> float | None:
    """Seconds since 1970 of a time as programs write it: a number, ISO 8601, or SillyTavern's words; None if it is none of these."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int | float):
        seconds = float(value) / (1000 if value >= LATEST_S else 1) if math.isfinite(value) else -1.0
        return seconds if 0 <= seconds < LATEST_S else None
    text = str(value).strip()
    if re.fullmatch(r"\d{9,13}(\.\d+)?", text):
        return seconds_of(float(text))
    try:
        moment = _moment(text)
    except (ValueError, OverflowError):
        return None
    if moment is None:
        return None
    seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return seconds if seconds >= 0 else None


def _moment(text: str) -> datetime | None:
    if found := TAVERN_TIME.match(text):
        return datetime(*(int(part or 0) for part in found.groups()))  # type: ignore[arg-type]
    if found := SPOKEN_TIME.match(text):
        month, day, year, hour, minute, half = found.groups()
        hours = int(hour) % 12 + (12 if half.lower() == "pm" else 0) if half else int(hour)
        return datetime(int(year), MONTHS.index(month.lower()) + 1, int(day), hours, int(minute))
    return datetime.fromisoformat(text)


def in_order(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages of a tree, each behind the one it follows; one that follows a message that is not there begins the conversation.

    Raises:
        InvalidRequest: messages follow each other in a ring.
    """
    ids = {row["id"] for row in rows}
    below: dict[str | None, list[dict[str, Any]]] = {}
    for row in rows:
        parent_id = row["parent_id"] if row["parent_id"] in ids else None
        below.setdefault(parent_id, []).append({**row, "parent_id": parent_id})
    found: list[dict[str, Any]] = []
    waiting = list(reversed(below.get(None, [])))
    while waiting:
        row = waiting.pop()
        found.append(row)
        waiting.extend(reversed(below.get(row["id"], [])))
    if len(found) != len(rows):
        raise InvalidRequest("Messages of this conversation follow each other in a ring; the file is damaged.", field="file")
    return found


def with_thinking(thinking: str, text: str) -> str:
    """A reply with what the model thought before it, in the marks that fold on the page."""
    return f"<think>\n{thinking.strip()}\n</think>\n\n{text}" if thinking.strip() else text


def words(value: Any) -> str:
    """A text, or an empty one for anything that is none."""
    return value if isinstance(value, str) else ""


def objects(value: Any) -> list[dict[str, Any]]:
    """The objects in a list; none for anything that is no list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def record(value: Any) -> dict[str, Any]:
    """An object, or an empty one for anything that is none."""
    return value if isinstance(value, dict) else {}
