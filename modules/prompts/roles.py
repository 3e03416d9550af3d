"""Other ways to say the same conversation, for templates that do not know a role or a form.

Knows message dictionaries and no template. The first variant is always the conversation as it stands.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from modules.core.messages import Message

TemplateMessage = dict[str, Any]

MERGED_NOTE = "the system text was put in front of the user message that follows it"
DEVELOPER_NOTE = "the developer role was given as system"
TEXT_ARGUMENTS_NOTE = "the arguments of tool calls were given as JSON text"


class Variant(NamedTuple):
    """One way to say the conversation; `notes` tell what was changed."""

    messages: list[TemplateMessage]
    notes: tuple[str, ...] = ()


def variants(messages: Sequence[Message], *, knows_developer: bool = True) -> list[Variant]:
    """The conversation as it stands, then with unknown roles and forms replaced, gentlest change first.

    A template that never speaks of developers may still write that role down as any other; its model has not seen it, so it is never given.
    Arguments of tool calls that arrive as JSON text (the OpenAI form) are given as objects, which most templates expect.
    """
    plain = _with_arguments([message.for_template() for message in messages], _as_object)
    found = [Variant(plain)] if knows_developer or not any(message["role"] == "developer" for message in plain) else []
    for merge in (False, True):
        for text_arguments in (False, True):
            changed, notes = plain, []
            if any(message["role"] == "developer" for message in changed):
                changed = [{**message, "role": "system"} if message["role"] == "developer" else message for message in changed]
                notes.append(DEVELOPER_NOTE)
            if merge and any(message["role"] == "system" for message in changed):
                changed, notes = merge_system(changed), [MERGED_NOTE]
            if text_arguments and any(message.get("tool_calls") for message in changed):
                changed = _with_arguments(changed, _as_text)
                notes.append(TEXT_ARGUMENTS_NOTE)
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
