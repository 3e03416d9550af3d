"""Tools that a model may call: what is accepted as their description, and the ids of calls. Knows no format in which a model writes a call."""

from __future__ import annotations

import json
import re
import secrets
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from modules.core.messages import Message
from modules.core.text_shape import canonical_schema

MOST_TOOLS = 128
LONGEST_TOOLS = 400_000  # characters of all descriptions together, as JSON
TOOL_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
NO_ARGUMENTS: tuple[tuple[str, Any], ...] = (("type", "object"), ("properties", {}))


def checked_tools(tools: Iterable[Mapping[str, Any]]) -> tuple[dict[str, Any], ...]:
    """The tools in OpenAI's form, complete: each function has a name, a description and a schema of its parameters.

    Raises:
        ValueError: another kind of tool, a name twice, too many or too large.
    """
    given = tuple(tools)
    if len(given) > MOST_TOOLS:
        raise ValueError(f"{len(given)} tools are more than the limit of {MOST_TOOLS}; leave out what this conversation does not need")
    checked = tuple(_checked(tool) for tool in given)
    names = [tool["function"]["name"] for tool in checked]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"two tools have the name {twice!r}; a name stands for one tool")
    size = len(json.dumps(checked, ensure_ascii=False))
    if size > LONGEST_TOOLS:
        raise ValueError(f"the tools have {size:,} characters, the limit is {LONGEST_TOOLS:,}; shorten their descriptions or leave some out")
    return checked


def _checked(tool: Mapping[str, Any]) -> dict[str, Any]:
    kind, function = tool.get("type", "function"), tool.get("function")
    if kind != "function":
        raise ValueError(f"tools of type {str(kind)[:40]!r} do not run here; describe it as a function and run it yourself")
    if not isinstance(function, Mapping):
        raise ValueError('a tool is {"type": "function", "function": {"name": …, "description": …, "parameters": …}}')
    name, parameters = function.get("name"), function.get("parameters")
    if not isinstance(name, str) or not TOOL_NAME.fullmatch(name):
        raise ValueError(f"the name of a function has 1 to 64 letters, digits and _ - . : ; got {str(name)[:80]!r}")
    if parameters is not None and not isinstance(parameters, Mapping):
        raise ValueError(f"the parameters of {name} are a JSON schema of an object")
    try:
        schema = json.loads(canonical_schema(dict(parameters or NO_ARGUMENTS)))
    except ValueError as error:
        raise ValueError(f"the parameters of {name}: {error}") from error
    description = function.get("description")
    if description is not None and not isinstance(description, str):
        raise ValueError(f"the description of {name} is a text")
    whole = {"type": "object", **schema}
    whole.setdefault("properties", {})
    strict = {"strict": True} if function.get("strict") else {}
    return {"type": "function", "function": {"name": name, "description": description or "", "parameters": whole, **strict}}


def schemas_of(tools: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The schemas of the arguments by the names of the tools."""
    return {tool["function"]["name"]: tool["function"].get("parameters") or dict(NO_ARGUMENTS) for tool in tools}


class _OpenCalls:
    """The calls of one message that have no answer yet, each found at once: there may be thousands."""

    def __init__(self, calls: Sequence[tuple[str, str]]) -> None:
        """`calls`: their ids and names, in their order."""
        self._calls = calls
        self._answered: set[int] = set()
        self._all = deque(range(len(calls)))
        self._by_id: dict[str, deque[int]] = {}
        self._by_name: dict[str, deque[int]] = {}
        for number, (call_id, name) in enumerate(calls):
            self._by_id.setdefault(call_id, deque()).append(number)
            self._by_name.setdefault(name, deque()).append(number)

    def taken(self, call_id: str | None, name: str | None) -> tuple[str, str] | None:
        """The first one with this id, without one with this name, without either of all; from now on it has its answer."""
        fits = self._by_id.get(call_id) if call_id else self._all if name is None else self._by_name.get(name)
        while fits:
            number = fits.popleft()
            if number not in self._answered:
                self._answered.add(number)
                return self._calls[number]
        return None


def with_names(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The same with an id and a name on every call and answer of a tool, where they can be known from the others: templates ask for either."""
    named: list[Message] = []
    open_calls = _OpenCalls(())
    for place, message in enumerate(messages):
        if message.tool_calls:
            calls = tuple({**call, "id": str(call.get("id") or f"{place:04}{number:05}")} for number, call in enumerate(message.tool_calls))
            open_calls = _OpenCalls([(call["id"], str(call.get("function", call).get("name", ""))) for call in calls])
            message = message.model_copy(update={"tool_calls": calls})
        elif message.role == "tool":
            own = open_calls.taken(message.tool_call_id, message.name)
            if own is not None:
                message = message.model_copy(update={"tool_call_id": own[0], "name": message.name or own[1]})
        named.append(message)
    return tuple(named)


def arguments_of(text: str) -> dict[str, Any] | None:
    """Arguments of a call as an object; None where they are none, or hold what JSON cannot say (NaN), as a model that was not held to it may write them."""
    try:
        found = json.loads(text or "{}")
        json.dumps(found, allow_nan=False)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def call_id() -> str:
    """A new id of a call: nine letters and digits, as Mistral's templates want it and nobody else minds."""
    return secrets.token_hex(5)[:9]


