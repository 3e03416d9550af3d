"""Histories as text-generation-webui writes them: `internal`, pairs of question and reply, with versions in `metadata`. Told in our own form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modules.core.errors import InvalidRequest
from modules.services.foreign_parts import objects, record, seconds_of, words

GREETING_MARK = "<|BEGIN-VISIBLE-CHAT|>"  # stands for the user text before a greeting
LISTS = ("internal", "data")  # the second is what older versions wrote


def is_textgen(values: Mapping[str, Any]) -> bool:
    """Whether an object is a history of this kind."""
    return any(key in values for key in LISTS) and "messages" not in values


def from_textgen(values: Mapping[str, Any]) -> dict[str, Any]:
    """A history in our own form.

    Raises:
        InvalidRequest: its pairs are none.
    """
    name = next(key for key in LISTS if key in values)
    pairs = values[name]
    if not isinstance(pairs, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise InvalidRequest(f"This file is not a conversation that Paddock can read: “{name}” is not a list of pairs of texts.", field="file")
    facts = record(values.get("metadata"))
    rows: list[dict[str, Any]] = []
    parent: str | None = None
    for place, pair in enumerate(pairs):
        for role, text in zip(("user", "assistant"), pair, strict=True):
            if text == GREETING_MARK:
                continue
            about = record(facts.get(f"{role}_{place}"))
            versions, chosen = _versions(text, about)
            for number, content in enumerate(versions):
                rows.append({"id": f"{role} {place}.{number}", "parent_id": parent, "role": role, "content": content, "created_s": seconds_of(about.get("timestamp"))})
            if versions:
                parent = f"{role} {place}.{chosen}"
    return {"title": words(values.get("title"))[:2000], "head_id": parent, "messages": rows}


def _versions(text: Any, about: Mapping[str, Any]) -> tuple[list[Any], int]:
    """All versions of a message that have words, and which of them is shown; what is no text is left to the check of our own form."""
    if not isinstance(text, str):
        return ([text], 0) if text else ([], 0)
    texts = [words(version.get("content")) for version in objects(about.get("versions"))]
    texts = [other for other in texts if other]
    if not text:
        return [], 0
    if text not in texts:
        texts.append(text)
    return texts, texts.index(text)
