"""Other ways to say the same conversation, for templates that do not know a role or a form.

Knows message dictionaries and no template. The first variant is always the conversation as it stands.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from itertools import compress, count, product
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from modules.core.messages import Message

TemplateMessage = dict[str, Any]

MERGED_NOTE = "the system text was put in front of the user message that follows it"
DEVELOPER_NOTE = "the developer role was given as system"
TEXT_ARGUMENTS_NOTE = "the arguments of tool calls were given as JSON text"
ONE_EACH_NOTE = "several tool calls of one message were given one by one"
SHORT_IDS_NOTE = "the ids of tool calls were made shorter"
NO_CONTENT_NOTE = "messages of tool calls alone were given without content"
SHORT_ID = 9  # characters


class Variant(NamedTuple):
    """One way to say the conversation; `notes` tell what was changed."""

    messages: list[TemplateMessage]
    notes: tuple[str, ...] = ()


def variants(messages: Sequence[Message]) -> list[Variant]:
    """The conversation as it stands, then with unknown roles and forms replaced, gentlest change first.

    Arguments of tool calls that arrive as JSON text (the OpenAI form) are given as objects, which most templates expect.
    """
    plain = _with_arguments([message.for_template() for message in messages], _as_object)
    found = [Variant(plain)]
    renamed = [{**message, "role": "system"} if message["role"] == "developer" else message for message in plain]
    beginnings = [Variant(renamed, (DEVELOPER_NOTE,) if renamed != plain else ())]
    if any(message["role"] == "system" for message in renamed):
        beginnings.append(Variant(merge_system(renamed), (MERGED_NOTE,)))
    changes = CALL_CHANGES if any(message.get("tool_calls") or message["role"] == "tool" for message in plain) else ()
    for begin in beginnings:
        for chosen in sorted(product((False, True), repeat=len(changes)), key=sum):
            changed, notes = begin.messages, list(begin.notes)
            for change, note in compress(changes, chosen):
                changed = change(changed)
                notes.append(note)
            if all(changed != known.messages for known in found):
                found.append(Variant(changed, tuple(notes)))
    return found


def merge_system(messages: Sequence[TemplateMessage]) -> list[TemplateMessage]:
    """The same conversation without system messages: their text leads the next user message."""
    merged: list[TemplateMessage] = []
    waiting: list[str] = []
    for message in messages:
        if message["role"] == "system":
            if message["content"]:
                waiting.append(message["content"])
        elif message["role"] == "user" and waiting:
            merged.append({**message, "content": "\n\n".join([*waiting, message["content"]])})
            waiting = []
        else:
            merged.append(message)
    if waiting:  # no user message came after it
        merged.append({"role": "user", "content": "\n\n".join(waiting)})
    return merged


def _with_arguments(messages: list[TemplateMessage], change: Callable[[Any], Any]) -> list[TemplateMessage]:
    """Apply `change` to the arguments of every tool call."""
    changed = []
    for message in messages:
        if calls := message.get("tool_calls"):
            message = {**message, "tool_calls": [_with_call_arguments(call, change) for call in calls]}
        changed.append(message)
    return changed


def _with_call_arguments(call: dict[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
    holder = call.get("function")
    if isinstance(holder, dict) and "arguments" in holder:
        return {**call, "function": {**holder, "arguments": change(holder["arguments"])}}
    if "arguments" in call:
        return {**call, "arguments": change(call["arguments"])}
    return call


def with_call_names(messages: Sequence[TemplateMessage], prefix: str) -> tuple[list[TemplateMessage], int]:
    """The same with the calls of tools numbered instead of named, and how many there are."""
    numbers = count()

    def renamed(call: dict[str, Any]) -> dict[str, Any]:
        name = f"{prefix}{next(numbers)}."
        return {**call, "function": {**call["function"], "name": name}} if isinstance(call.get("function"), dict) else {**call, "name": name}

    marked = [{**message, "tool_calls": list(map(renamed, message["tool_calls"]))} if message.get("tool_calls") else message for message in messages]
    return marked, next(numbers)


def _as_object(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError):
        return value
    return parsed if isinstance(parsed, dict) else value


def _as_text(value: Any) -> Any:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _texts(messages: list[TemplateMessage]) -> list[TemplateMessage]:
    return _with_arguments(messages, _as_text)


def _without_content(messages: list[TemplateMessage]) -> list[TemplateMessage]:
    return [{**message, "content": None} if message.get("tool_calls") and not message["content"] else message for message in messages]


def _one_each(messages: list[TemplateMessage]) -> list[TemplateMessage]:
    """A message for each call, each before its answer."""
    split: list[TemplateMessage] = []
    waiting: list[TemplateMessage] = []  # messages of one call whose answer did not come yet
    for message in messages:
        calls = message.get("tool_calls") or ()
        if message["role"] == "tool":
            own = next((one for one in waiting if one["tool_calls"][0].get("id") == message.get("tool_call_id")), None)
            if own is not None:
                waiting.remove(own)
                split.append(own)
            split.append(message)
        else:
            split += waiting
            waiting = [{**message, "content": "" if number else message["content"], "tool_calls": [call]} for number, call in enumerate(calls)]
            if not calls:
                split.append(message)
    return split + waiting


def _short_ids(messages: list[TemplateMessage]) -> list[TemplateMessage]:
    """Ids of nine letters and digits, as Mistral's templates want them."""

    def short(value: Any) -> str:
        text = str(value)
        return text if len(text) == SHORT_ID and text.isalnum() else hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:SHORT_ID]

    changed = []
    for message in messages:
        if message.get("tool_calls"):
            message = {**message, "tool_calls": [{**call, "id": short(call.get("id"))} for call in message["tool_calls"]]}
        elif message["role"] == "tool":
            message = {**message, "tool_call_id": short(message.get("tool_call_id"))}
        changed.append(message)
    return changed


CallChange = tuple[Callable[[list[TemplateMessage]], list[TemplateMessage]], str]
# What single templates want of calls of tools; a template that takes the conversation as it stands sees none of this
CALL_CHANGES: tuple[CallChange, ...] = (
    (_texts, TEXT_ARGUMENTS_NOTE), (_one_each, ONE_EACH_NOTE), (_short_ids, SHORT_IDS_NOTE), (_without_content, NO_CONTENT_NOTE),
)  # fmt: skip
