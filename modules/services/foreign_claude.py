"""Conversations as Claude exports them: `chat_messages`, a list whose newer files name what each follows, told in our own form.

Thinking is kept in our marks, the text of attached files as a code block, a picture as its name. Calls of tools are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from modules.services.foreign_parts import in_order, objects, record, seconds_of, with_thinking, words

ROLES = (("human", "user"), ("user", "user"), ("assistant", "assistant"), ("system", "system"))


def is_claude(values: Mapping[str, Any]) -> bool:
    """Whether an object is a conversation of this kind."""
    return isinstance(values.get("chat_messages"), list)


def from_claude(values: Mapping[str, Any]) -> dict[str, Any]:
    """A conversation in our own form."""
    told = objects(values["chat_messages"])
    rows = [_row(message, place) for place, message in enumerate(told)]
    if any(words(message.get("parent_message_uuid")) in {row["id"] for row in rows} for message in told):
        for row, message in zip(rows, told, strict=True):
            row["parent_id"] = words(message.get("parent_message_uuid")) or None
    else:
        for before, row in pairwise(rows):
            row["parent_id"] = before["id"]
    kept, stands_for = _without_empty(in_order(rows))
    head_id = words(values.get("current_leaf_message_uuid"))
    return {
        "title": words(values.get("name"))[:2000],
        "created_s": seconds_of(values.get("created_at")),
        "updated_s": seconds_of(values.get("updated_at")),
        "pinned": values.get("is_starred") is True,
        "head_id": stands_for.get(head_id, head_id) or None,
        "messages": kept,
    }


def _row(message: Mapping[str, Any], place: int) -> dict[str, Any]:
    role = dict(ROLES).get(words(message.get("sender")), "assistant")
    texts, thoughts = [], []
    for part in objects(message.get("content")):
        if part.get("type") == "text":
            texts.append(words(part.get("text")))
        elif part.get("type") == "thinking":
            thoughts.append(words(part.get("thinking")))
    text = "\n\n".join(part for part in texts if part.strip()) or words(message.get("text"))
    content = "\n\n".join(part for part in (text, *_files(message)) if part.strip())
    return {
        "id": words(message.get("uuid"))[:100] or f"message {place}",
        "parent_id": None,
        "role": role,
        "content": with_thinking("\n\n".join(thoughts), content) if role == "assistant" else content,
        "created_s": seconds_of(message.get("created_at")),
    }


def _files(message: Mapping[str, Any]) -> list[str]:
    found, told = [], set()
    for file in objects(message.get("attachments")):
        name, text = words(file.get("file_name")) or "file", words(file.get("extracted_content"))
        told.add(name)
        fence = "`" * max(3, _longest_fence(text) + 1)
        found.append(f"{name}:\n\n{fence}\n{text}\n{fence}" if text.strip() else f"[{name}]")
    for file in objects(message.get("files")):
        name = words(record(file).get("file_name"))
        if name and name not in told:
            found.append(f"[{name}]")
    return found


def _longest_fence(text: str) -> int:
    longest = length = 0
    for character in text:
        length = length + 1 if character == "`" else 0
        longest = max(longest, length)
    return longest


def _without_empty(rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The messages with words, hung below what is left; for each that went, what stands above it."""
    kept: list[dict[str, Any]] = []
    gone: dict[str, str] = {}
    for row in rows:
        parent_id = gone.get(row["parent_id"] or "", row["parent_id"])
        if row["content"].strip():
            kept.append({**row, "parent_id": parent_id or None})
        else:
            gone[row["id"]] = parent_id or ""
    return kept, gone
