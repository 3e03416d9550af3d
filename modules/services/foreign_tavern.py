"""Chats as SillyTavern writes them: one JSON object a line, a header first; swipes become versions. Told in our own form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from modules.services.foreign_parts import record, seconds_of, with_thinking, words


def is_tavern(values: Mapping[str, Any]) -> bool:
    """Whether a line belongs to a chat of this kind: its header, or a message."""
    return isinstance(values.get("mes"), str) or "chat_metadata" in values or ("user_name" in values and "character_name" in values)


def from_tavern(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A chat in our own form."""
    header = lines[0] if lines and not isinstance(lines[0].get("mes"), str) else {}
    rows: list[dict[str, Any]] = []
    parent: str | None = None
    for place, line in enumerate(lines):
        if not isinstance(line.get("mes"), str):
            continue
        versions, chosen = _versions(line)
        for number, row in enumerate(versions):
            rows.append({"id": f"{place}.{number}", "parent_id": parent, **row})
        if versions:
            parent = f"{place}.{chosen}"
    character = words(header.get("character_name")).strip()
    return {
        "title": f"Chat with {character}"[:2000] if character and character != "unused" else "",
        "created_s": seconds_of(header.get("create_date")),
        "head_id": parent,
        "messages": rows,
    }


def _versions(line: Mapping[str, Any]) -> tuple[list[dict[str, Any]], int]:
    """All swipes of a message that have words, and which of them is shown."""
    swipes = line.get("swipes")
    texts = [text for text in swipes if isinstance(text, str)] if isinstance(swipes, list) else []
    chosen = line.get("swipe_id")
    if not isinstance(chosen, int) or isinstance(chosen, bool) or not 0 <= chosen < len(texts):
        chosen = len(texts)
        texts.append(line["mes"])
    texts[chosen] = line["mes"]  # what was typed into it later is only there
    role = "user" if line.get("is_user") is True else "assistant"
    extra = record(line.get("extra"))
    rows: list[dict[str, Any]] = []
    shown = 0
    for number, text in enumerate(texts):
        if not text.strip():
            continue
        if number == chosen:
            shown = len(rows)
        thinking = words(extra.get("reasoning")) if number == chosen and role == "assistant" else ""
        rows.append({
            "role": role, "content": with_thinking(thinking, text), "created_s": seconds_of(line.get("send_date")),
            "model": words(extra.get("model"))[:500], "speaker": words(line.get("name"))[:100],
        })  # fmt: skip
    return rows, shown
