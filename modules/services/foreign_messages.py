"""Plain lists of messages: OpenAI's `messages` with roles and parts, ShareGPT's `conversations` with speakers. Told in our own form.

A system text at the beginning becomes the conversation's own; calls of tools and their answers are left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from modules.core.errors import InvalidRequest
from modules.services.foreign_parts import objects, record, seconds_of, with_thinking, words

ROLES: Mapping[str, str] = MappingProxyType({
    "system": "system", "developer": "system", "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "model": "assistant", "bot": "assistant", "ai": "assistant",
})  # fmt: skip
TOOLS = frozenset({"tool", "function", "function_call", "function_response", "observation", "tool_call", "tool_response", "ipython"})
IMAGE = re.compile(r"data:image/(png|jpeg|webp|gif);base64,([A-Za-z0-9+/=\s]+)")
LISTS = ("messages", "conversations", "conversation")


def is_message(values: Mapping[str, Any]) -> bool:
    """Whether an object is one message of a list."""
    return isinstance(values.get("role", values.get("from")), str) and ("content" in values or "value" in values)


def is_messages(values: Mapping[str, Any]) -> bool:
    """Whether an object holds a list of messages."""
    return any(_is_list(values.get(key)) for key in LISTS)


def _is_list(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value) and (not value or any("role" in item or "from" in item for item in value))


def from_messages(values: Mapping[str, Any]) -> dict[str, Any]:
    """A conversation in our own form.

    Raises:
        InvalidRequest: somebody speaks whom nobody knows.
    """
    told = objects(next(values[key] for key in LISTS if _is_list(values.get(key))))
    rows = [row for place, message in enumerate(told) if (row := _row(message, place)) is not None]
    system = words(values.get("system")) or words(values.get("system_prompt"))
    if not system and rows and rows[0]["role"] == "system":
        system = rows.pop(0)["content"]
    return {
        "title": words(values.get("title"))[:2000],
        "created_s": seconds_of(values.get("created_s", values.get("created"))),
        "settings": {"system_prompt": system} if system else {},
        "messages": rows,
    }


def _row(message: Mapping[str, Any], place: int) -> dict[str, Any] | None:
    speaker = words(message.get("role")) or words(message.get("from"))
    if speaker.lower() in TOOLS:
        return None
    role = ROLES.get(speaker.lower())
    if role is None:
        raise InvalidRequest(f"Message {place + 1} is spoken by “{speaker[:40]}”, whom Paddock does not know; known are user, assistant and system.", field="file")
    text, images = _content(message.get("content", message.get("value")))
    if not text.strip() and not images:
        return None
    thinking = words(message.get("reasoning_content")) if role == "assistant" else ""
    row: dict[str, Any] = {"role": role, "content": with_thinking(thinking, text), "created_s": seconds_of(message.get("created_s", message.get("timestamp")))}
    return {**row, "model": words(message.get("model"))[:500], **({"images": images} if images else {})}


def _content(content: Any) -> tuple[str, list[dict[str, str]]]:
    if isinstance(content, str):
        return content, []
    texts, images = [], []
    for part in objects(content):
        if isinstance(part.get("text"), str):
            texts.append(part["text"])
        address = record(part.get("image_url")).get("url", part.get("image_url"))
        if found := IMAGE.fullmatch(words(address)):
            images.append({"kind": found[1], "data": "".join(found[2].split())})
        elif words(address):
            texts.append("[image]")
    return "\n\n".join(texts), images
