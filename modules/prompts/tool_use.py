"""How tools reach a model through its chat template, and what is said where the template does not know them.

A template may take tools, and write calls and their answers, or not: each is found out by rendering a small conversation once. What it does not know is told
in words: the tools in the system text, calls as the text they were, answers in a user message. Knows templates and formats of calls; knows no engine.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from modules.core.errors import InvalidRequest
from modules.core.messages import THINKING_SWITCHES, THINKING_TAGS, Message
from modules.core.text_shape import CallText, FramedJson
from modules.core.tools import schemas_of, with_names
from modules.prompts.calls.formats import CallFormat, WrittenCall, format_of

if TYPE_CHECKING:
    from modules.core.generation import ChatPrompt
    from modules.prompts.template import Rendered

MOST_FORCED = 8  # calls in one reply that has to be some
PROBE, PROBED = "paddock_probe", "PaddockPlace"
ASKED = Message(role="user", content="PaddockQuestion")
CALLED = Message(role="assistant", tool_calls=({"id": "paddock00", "type": "function", "function": {"name": PROBE, "arguments": f'{{"at": "{PROBED}"}}'}},))
ANSWERED = Message(role="tool", content="PaddockAnswer", name=PROBE, tool_call_id="paddock00")
ANY_OBJECT: Mapping[str, Any] = MappingProxyType({"type": "object"})
COMBINED = ("$ref", "allOf", "anyOf", "oneOf", "if", "dependentSchemas", "dependencies")
OPENING, CLOSING = "<tool_response>", "</tool_response>"


@dataclass(frozen=True, slots=True)
class ToolUse:
    """What one template makes of tools."""

    form: CallFormat
    takes_tools: bool
    writes_calls: bool  # and answers
    thinking: tuple[str, str] | tuple[()] = ()  # the tags that the model may open by itself

    def told(self, messages: Sequence[Message], prompt: ChatPrompt) -> tuple[Message, ...]:
        """The messages with what the template does not know in words."""
        told = with_names(messages)
        if not self.writes_calls and any(message.tool_calls or message.role == "tool" for message in told):
            told = self._in_words(told)
        if prompt.tools and not self.takes_tools:
            told = _with_system(told, self._description(prompt))
        return told

    def tools(self, prompt: ChatPrompt) -> list[dict[str, Any]]:
        """The tools as templates know them."""
        return [{**tool, "function": {key: value for key, value in tool["function"].items() if key != "strict"}} for tool in prompt.tools]

    def text(self, prompt: ChatPrompt, otherwise: str = "", shape: str = "") -> CallText | None:
        """How calls come in the reply; None without tools. A reply that may be a call or JSON by a schema is `otherwise` that; `shape` names another one that it has to have.

        Raises:
            InvalidRequest: a call has to come, and such a shape as well.
        """
        if not prompt.tools:
            return None
        if shape and prompt.must_call:
            raise InvalidRequest(f"A tool has to be called, and {shape} asks for another text. Take one of the two out.", field=shape)
        schemas = schemas_of(prompt.tools)
        frame = None
        if prompt.must_call:
            frame = self._framed(prompt, {name: schemas[name] for name in prompt.must_call})
        elif otherwise:
            frame = replace(self._framed(prompt, schemas), otherwise=otherwise)
        elif not shape and keeps_schemas(self.form, prompt.tools):
            strict = strict_tools(prompt.tools)
            frame = replace(self._framed(prompt, {name: schema if name in strict else ANY_OBJECT for name, schema in schemas.items()}), after=self.form.mark)
        if frame is not None and self.thinking and self.may_think(prompt):
            frame = replace(frame, thinking=self.thinking)
        return CallText((*self.form.special, *self.thinking), frame)

    def may_think(self, prompt: ChatPrompt) -> bool:
        """Whether the model may open a block of thinking by itself."""
        return bool(self.thinking) and prompt.template_variables.get(THINKING_SWITCHES[0]) is not False

    def _framed(self, prompt: ChatPrompt, schemas: Mapping[str, Any]) -> FramedJson:
        frame, tags = self.form.frame, self.form.tags
        items, tagged = [], []
        for name, schema in schemas.items():
            item = tags.item(name, schema) if tags else None
            if item is not None:
                tagged.append(item)
                continue
            before, behind = frame.around(name)
            items.append((before, json.dumps(dict(_closed(schema)), ensure_ascii=False), behind))
        most = MOST_FORCED if frame.several and prompt.several_calls else 1
        return FramedJson(tuple(items), frame.begin, frame.between, frame.end, most, tagged=tuple(tagged))

    def _description(self, prompt: ChatPrompt) -> str:
        tools = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in self.tools(prompt))
        example = self.form.frame.write([WrittenCall("NAME", {"ARGUMENT": "VALUE"})])
        several = " For several calls, write several." if prompt.several_calls and self.form.frame.several else ""
        where = "" if self.writes_calls else f" in {OPENING}{CLOSING}"
        return (
            "You may call functions to help with what the user asks. These are the functions, each with a JSON schema of its parameters:\n"
            f"<tools>\n{tools}\n</tools>\n\n"
            f"To call one, answer with its name and arguments in exactly this form and nothing behind it:\n{example}\n"
            f"What it returns is then told to you{where}.{several} Where no function helps, answer in words."
        )

    def _in_words(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        told: list[Message] = []
        for message in messages:
            if message.role == "tool":
                text = f"{OPENING}\n{message.content}\n{CLOSING}"
                if told and told[-1].role == "user" and told[-1].content.endswith(CLOSING):
                    text = f"{told.pop().content}\n{text}"
                told.append(Message(role="user", content=text, images=message.images, pinned=message.pinned))
            elif message.tool_calls:
                written = self.form.frame.write([written_call(call) for call in message.tool_calls])
                text = f"{message.content}\n{written}" if message.content else written
                told.append(message.model_copy(update={"content": text, "tool_calls": None}))
            else:
                told.append(message)
        return tuple(told)


def strict_tools(tools: Sequence[Mapping[str, Any]]) -> frozenset[str]:
    """The tools whose arguments have to fit their schema wherever the model calls them."""
    return frozenset(tool["function"]["name"] for tool in tools if tool["function"].get("strict"))


def keeps_schemas(form: CallFormat, tools: Sequence[Mapping[str, Any]]) -> bool:
    """Whether calls that are the model's choice are held to schemas: some tool wants it, and one mark begins all calls. Calls without it are then none."""
    return bool(form.mark and strict_tools(tools))


def reading(form: CallFormat, tools: Sequence[Mapping[str, Any]]) -> CallFormat:
    """The format in which calls are looked for: where they are held to schemas, no other way to write them counts."""
    return replace(form, bare=(), reads_generic=False) if keeps_schemas(form, tools) else form


def tool_use(text: str, render: Callable[..., Rendered]) -> ToolUse:
    """What a template with that text makes of tools; `render` is `Template.render`, or a renderer's with the source bound."""

    def has(mark: str, messages: Sequence[Message], **more: Any) -> bool:
        try:
            return mark in render(messages, **more).text
        except InvalidRequest:
            return False

    parameters = {"type": "object", "properties": {"at": {"type": "string", "description": "Where."}}}
    tools = [{"type": "function", "function": {"name": PROBE, "description": "Looks.", "parameters": parameters}}]
    takes = has(PROBE, [ASKED], tools=tools)
    # of a call the template writes the arguments: a name alone may come from the tools
    writes = has(PROBED, [ASKED, CALLED, ANSWERED], tools=tools) and has(ANSWERED.content, [ASKED, CALLED, ANSWERED], tools=tools)
    thinking = next((pair for pair in THINKING_TAGS if pair[0] in text and pair[1] in text and not pair[0].startswith("<|")), ())
    return ToolUse(format_of(text), takes, writes, thinking)


def written_call(call: dict[str, Any]) -> WrittenCall:
    """A call of a message as a name and an object."""
    function = call.get("function", call)
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except (ValueError, RecursionError):
            arguments = {"text": arguments}  # what a model wrote wrong and a client sends back
    return WrittenCall(str(function.get("name", "")), arguments if isinstance(arguments, dict) else {"value": arguments})


def _closed(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """A schema that has no further properties where it does not speak of them: what is not described is not to be made up."""
    return schema if "properties" not in schema or any(word in schema for word in COMBINED) else {"additionalProperties": False, **schema}


def _with_system(messages: Sequence[Message], text: str) -> tuple[Message, ...]:
    """The text behind that of the system, or as the system's."""
    if messages and messages[0].role in ("system", "developer"):
        first = messages[0]
        return (first.model_copy(update={"content": f"{first.content}\n\n{text}" if first.content else text}), *messages[1:])
    return (Message(role="system", content=text), *messages)
