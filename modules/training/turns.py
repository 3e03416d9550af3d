"""Messages and tools as data sets spell them, read into ours: OpenAI's roles and parts, ShareGPT's speakers, tool calls of both.

A message that is wrong raises `InvalidRequest` without a place; who knows the row adds it. Knows no columns.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import date, time, timedelta
from decimal import Decimal
from types import MappingProxyType
from typing import Any, NamedTuple

from modules.core.errors import InvalidRequest
from modules.core.messages import Message, Role

MESSAGES_LIMIT = 10_000  # of one conversation
CALL = "function_call"  # a speaker of ShareGPT whose words are the call of a tool
ROLES: Mapping[str, Role] = MappingProxyType({
    "system": "system", "developer": "developer",
    "user": "user", "human": "user", "prompter": "user", "instruction": "user", "question": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant", "ai": "assistant", "answer": "assistant",
    CALL: "assistant", "tool_call": "assistant",
    "tool": "tool", "observation": "tool", "function": "tool", "function_response": "tool", "tool_response": "tool", "ipython": "tool",
})  # fmt: skip
ROLE_KEYS = ("role", "from", "speaker")
TEXT_KEYS = ("content", "value", "text")
THOUGHT_KEYS = ("reasoning_content", "thinking")
WEIGHT_KEYS = ("loss_weight", "weight", "train")
SURROGATE = re.compile("[\ud800-\udfff]")
SHOWN = 60


class Turns(NamedTuple):
    """A conversation, and the places of its messages that are not to be learned."""

    messages: tuple[Message, ...] = ()
    unlearned: frozenset[int] = frozenset()


def as_text(value: Any) -> str:
    """A text, a number or a date as text; nothing as an empty one.

    Raises:
        InvalidRequest: it is something else, or no proper Unicode.
    """
    if value is None:
        return ""
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    if isinstance(value, Decimal | date | time | timedelta):
        return str(value)
    if not isinstance(value, str):
        raise InvalidRequest(f"a text was expected, but this is {_kind(value)}")
    if SURROGATE.search(value):
        raise InvalidRequest("the text holds half of a character (a lone surrogate, like \\ud83d); take it out")
    return value


def _content(value: Any) -> str:
    """The words of a message: a text, or a list of parts that are text."""
    return "".join(_part(part) for part in value) if isinstance(value, list) else as_text(value)


def _part(part: Any) -> str:
    if isinstance(part, str):
        return as_text(part)
    kind = part.get("type", "text") if isinstance(part, dict) else None
    if kind != "text":
        what = f"a part of the kind “{str(kind)[:SHOWN]}”" if isinstance(part, dict) else _kind(part)
        raise InvalidRequest(f"only parts of text can be learned, but there is {what}")
    return as_text(next((part[key] for key in ("text", "value", "content") if part.get(key) is not None), ""))


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", bytes: "binary data", bool: "true or false", int: "a number", float: "a number", str: "a text", type(None): "nothing"}
    return kinds.get(type(value), f"a {type(value).__name__}")


def from_json_text(value: Any) -> Any:
    """What a JSON text of a list or object stands for, as tables have it; anything else as it is."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def is_conversation(value: Any) -> bool:
    """Whether it looks like a list of messages: the first says who speaks."""
    value = from_json_text(value)
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict) and any(key in value[0] for key in ROLE_KEYS)


def is_sharegpt(value: Any) -> bool:
    """Whether a conversation names its speakers as ShareGPT does."""
    return is_conversation(value) and "from" in from_json_text(value)[0]


def read_turns(value: Any) -> Turns:
    """A conversation.

    Raises:
        InvalidRequest: naming the message and what is wrong with it.
    """
    value = from_json_text(value)
    if value is None or value == "":
        return Turns()
    if not isinstance(value, list):
        raise InvalidRequest(f"a list of messages was expected, but this is {_kind(value)}")
    if len(value) > MESSAGES_LIMIT:
        raise InvalidRequest(f"the conversation has {len(value):,} messages, at most {MESSAGES_LIMIT:,} are read; divide it")
    messages: list[Message] = []
    unlearned: set[int] = set()
    for number, item in enumerate(value, 1):
        try:
            message = read_message(item)
            weightless = _is_weightless(item)
        except InvalidRequest as error:
            raise InvalidRequest(f"message {number}: {error.message}") from error
        if _goes_on(messages, message, len(messages) - 1 in unlearned, weightless):
            messages[-1] = messages[-1].model_copy(update={"tool_calls": (*(messages[-1].tool_calls or ()), *(message.tool_calls or ()))})
            continue
        if weightless and message.role == "assistant":
            unlearned.add(len(messages))
        messages.append(message)
    return Turns(tuple(messages), frozenset(unlearned))


def _goes_on(messages: Sequence[Message], message: Message, previous_weightless: bool, weightless: bool) -> bool:
    """Whether a call belongs to the reply before it, as ShareGPT has two turns where OpenAI has one."""
    bare_call = message.role == "assistant" and bool(message.tool_calls) and not message.content
    return bare_call and bool(messages) and messages[-1].role == "assistant" and previous_weightless == weightless


def read_message(item: Any, role: Role | None = None) -> Message:
    """One message; `role` is that of a message that names none.

    Raises:
        InvalidRequest: what is wrong with it.
    """
    if not isinstance(item, dict):
        raise InvalidRequest(f"a message with role and content was expected, but this is {_kind(item)}")
    named = next((item[key] for key in ROLE_KEYS if item.get(key) is not None), role)
    spoken = named.strip().lower() if isinstance(named, str) else ""
    if spoken not in ROLES:
        what = f"the role “{str(named)[:SHOWN]}” is unknown" if named is not None else "it names no role"
        raise InvalidRequest(f"{what}; known are {', '.join(sorted(ROLES))}")
    content = _content(next((item[key] for key in TEXT_KEYS if item.get(key) is not None), ""))
    calls = _calls(item.get("tool_calls")) or _calls(item.get("function_call"))
    if spoken in (CALL, "tool_call"):
        content, calls = "", (*calls, *_calls(content))
    thought = _content(next((item[key] for key in THOUGHT_KEYS if item.get(key)), ""))
    if thought and ROLES[spoken] == "assistant":
        content = f"<think>\n{thought}\n</think>\n\n{content}"
    return Message(role=ROLES[spoken], content=content, name=_name(item.get("name")), tool_calls=calls or None, tool_call_id=_name(item.get("tool_call_id")))


def _name(value: Any) -> str | None:
    return as_text(value) if isinstance(value, str) and value else None


def _is_weightless(item: dict[str, Any]) -> bool:
    for key in WEIGHT_KEYS:
        weight = item.get(key)
        if weight is None:
            continue
        if not isinstance(weight, bool | int | float) or not weight >= 0:
            raise InvalidRequest(f"“{key}” must be a number from 0 on, or true or false; got {str(weight)[:SHOWN]}")
        return not weight
    return False


def _calls(value: Any) -> tuple[dict[str, Any], ...]:
    """Calls of tools in OpenAI's form, from that form or from bare name and arguments."""
    value = from_json_text(value)
    if value is None or value in ("", [], {}):
        return ()
    found = []
    for call in value if isinstance(value, list) else [value]:
        call = from_json_text(call)
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
            raise InvalidRequest('the call of a tool must be JSON like {"name": "search", "arguments": {"word": "hill"}}')
        arguments = function.get("arguments", function.get("parameters"))
        arguments = {} if arguments in (None, "") else from_json_text(arguments)
        made = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
        number = call.get("id")
        found.append(plain({"id": number, **made} if isinstance(number, str) and number else made))
    return tuple(found)


def read_tools(value: Any) -> tuple[Mapping[str, Any], ...]:
    """The tools that a conversation may call, in OpenAI's form.

    Raises:
        InvalidRequest: they are no JSON objects with names.
    """
    value = from_json_text(value)
    if value is None or value in ("", [], {}):
        return ()
    found = []
    for tool in value if isinstance(value, list) else [value]:
        tool = from_json_text(tool)
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise InvalidRequest('the tools must be a JSON list of objects like {"name": "search", "description": "…", "parameters": {…}}')
        found.append(plain(tool if function is not tool else {"type": "function", "function": tool}))
    return tuple(found)


def plain(value: dict[str, Any]) -> dict[str, Any]:
    """A copy of a JSON object that is proper Unicode, with finite numbers.

    Raises:
        InvalidRequest: it is not.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        text.encode()
        made: dict[str, Any] = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest("a tool or the call of one holds something that is not plain JSON") from error
    return made
