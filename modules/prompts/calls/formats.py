"""The formats in which families of models write calls of tools, and which of them a chat template speaks.

A format is how calls are read, how they are written where a text of them is needed, and which special tokens have to stay in the text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from modules.core.text_shape import TaggedField, TaggedItem
from modules.prompts.calls import read, read_bare
from modules.prompts.calls.read import Reader

NAME, ARGUMENTS = "‹name›", "‹arguments›"
GENERIC_CALL = f'<tool_call>\n{{"name": "{NAME}", "arguments": {ARGUMENTS}}}\n</tool_call>'


class WrittenCall(NamedTuple):
    """A call of a tool with its arguments as an object."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Frame:
    """Calls whose arguments are JSON, as text: what stands before all of them, one call, what stands between two, and behind the last."""

    call: str = GENERIC_CALL
    begin: str = ""
    between: str = "\n"
    end: str = ""
    several: bool = True

    def around(self, name: str) -> tuple[str, str]:
        """What stands before and behind the arguments of a call."""
        before, _, behind = self.call.replace(NAME, name).partition(ARGUMENTS)
        return before, behind

    def write(self, calls: Sequence[WrittenCall]) -> str:
        """Calls as the model would write them."""
        texts = (json.dumps(call.arguments, ensure_ascii=False).join(self.around(call.name)) for call in calls)
        return self.begin + self.between.join(texts) + self.end


GENERIC = Frame()


@dataclass(frozen=True, slots=True)
class Tags:
    """Calls whose arguments stand in tags; several are apart as those of the generic frame."""

    begin: str
    before: str  # an argument
    behind: str
    end: str

    def item(self, name: str, schema: Mapping[str, Any]) -> TaggedItem | None:
        """A call in tags by the schema of its arguments; None where tags could not keep to it."""
        properties, required = schema.get("properties"), schema.get("required", ())
        if not isinstance(properties, Mapping) or any(key in schema for key in NOT_IN_TAGS):
            return None
        fields = [self._field(key, inner, key in required, schema) for key, inner in properties.items()]
        if any(one is None for one in fields) or not set(required) <= set(properties):
            return None
        return TaggedItem(self.begin.replace(NAME, name), tuple(one for one in fields if one), self.end)

    def _field(self, key: str, inner: Any, required: bool, schema: Mapping[str, Any]) -> TaggedField | None:
        if not isinstance(inner, Mapping) or not read.NAME.fullmatch(key) or not isinstance(inner.get("type"), str):
            return None
        before, choices = self.before.replace(NAME, key), inner.get("enum")
        if inner["type"] != "string":
            rooted = {**inner, **{word: schema[word] for word in ("$defs", "definitions") if word in schema}}
            return TaggedField(before, self.behind, json.dumps(rooted, ensure_ascii=False), required=required)
        if not set(inner) <= PLAIN_TEXT or (choices is not None and not all(isinstance(one, str) and one for one in choices)):
            return None
        return TaggedField(before, self.behind, choices=tuple(choices or ()), required=required)


NOT_IN_TAGS = (
    "$ref", "allOf", "anyOf", "oneOf", "patternProperties", "minProperties", "maxProperties", "propertyNames", "dependentRequired", "dependentSchemas", "dependencies", "if", "not",
)  # fmt: skip
PLAIN_TEXT = frozenset({"type", "description", "title", "default", "examples", "enum"})


@dataclass(frozen=True, slots=True)
class CallFormat:
    """One format. Replies are looked through for its opening marks; bare ones count only where a reply begins with them."""

    name: str
    reader: Reader
    opens: tuple[str, ...]
    bare: tuple[str, ...] = ()
    frame: Frame = GENERIC  # how calls are written, and what is forced where one has to come; of formats without JSON the generic one, which they read too
    tags: Tags | None = None  # how calls without JSON are forced, where that can be
    special: tuple[str, ...] = ()  # what may be special tokens of the model, and must not be hidden
    stop: tuple[str, ...] = ()  # what the model writes when it waits for the answer of a tool
    reads_generic: bool = True  # `<tool_call>` with JSON is understood as well
    mark: str = ""  # that begins the frame wherever the model calls by itself; empty where it does so in other ways too

    def readers(self) -> tuple[tuple[str, Reader], ...]:
        """Opening marks with what reads behind them."""
        own = tuple((mark, self.reader) for mark in self.opens)
        return own if "<tool_call>" in self.opens or not self.reads_generic else (*own, ("<tool_call>", read.tagged))


def _frame(call: str, begin: str = "", between: str = "", end: str = "", *, several: bool = True) -> Frame:
    return Frame(call, begin, between, end, several)


_LIST_ITEM = f'{{"name": "{NAME}", "arguments": {ARGUMENTS}}}'
_DEEPSEEK = ("<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>")
_TAGS = ("<tool_call>", "</tool_call>")
_XML = Tags(f"<tool_call>\n<function={NAME}>\n", f"<parameter={NAME}>\n", "\n</parameter>\n", "</function>\n</tool_call>")
_KEYS = Tags(f"<tool_call>{NAME}\n", f"<arg_key>{NAME}</arg_key>\n<arg_value>", "</arg_value>\n", "</tool_call>")
_LISTS = ("<|tool_call|>", "<|/tool_call|>")

FORMATS: tuple[CallFormat, ...] = (
    CallFormat(
        "harmony", read.harmony, ("<|channel|>commentary to=",), special=("<|channel|>", "<|constrain|>", "<|message|>"), stop=("<|call|>",),
        frame=_frame(f"<|channel|>commentary to=functions.{NAME} <|constrain|>json<|message|>{ARGUMENTS}", several=False),
    ),
    CallFormat(
        "kimi", read.kimi, ("<|tool_calls_section_begin|>",),
        special=("<|tool_calls_section_begin|>", "<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>", "<|tool_calls_section_end|>"),
        frame=_frame(
            f"<|tool_call_begin|>functions.{NAME}:0<|tool_call_argument_begin|>{ARGUMENTS}<|tool_call_end|>",
            "<|tool_calls_section_begin|>", "", "<|tool_calls_section_end|>",
        ),
        mark="<|tool_calls_section_begin|>",
    ),
    CallFormat(
        "deepseek-r1", read.deepseek, _DEEPSEEK[:1], special=_DEEPSEEK, mark=_DEEPSEEK[0],
        frame=_frame(
            f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>{NAME}\n```json\n{ARGUMENTS}\n```<｜tool▁call▁end｜>", _DEEPSEEK[0], "\n", _DEEPSEEK[-1]
        ),
    ),
    CallFormat(
        "deepseek", read.deepseek, _DEEPSEEK[:1], special=_DEEPSEEK, mark=_DEEPSEEK[0],
        frame=_frame(f"<｜tool▁call▁begin｜>{NAME}<｜tool▁sep｜>{ARGUMENTS}<｜tool▁call▁end｜>", _DEEPSEEK[0], "", _DEEPSEEK[-1]),
    ),
    CallFormat(
        "gemma", read.gemma, ("<|tool_call>call:", "<start_function_call>call:"), stop=("<|tool_response>", "<start_function_response>"),
        special=("<|tool_call>", "<tool_call|>", '<|"|>', "<start_function_call>", "<end_function_call>", "<escape>"),
    ),
    CallFormat(
        "mistral-args", read.mistral, ("[TOOL_CALLS]",), special=("[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"), mark="[TOOL_CALLS]",
        frame=_frame(f"[TOOL_CALLS]{NAME}[ARGS]{ARGUMENTS}"),
    ),
    CallFormat("mistral", read.mistral, ("[TOOL_CALLS]",), special=("[TOOL_CALLS]",), mark="[TOOL_CALLS]", frame=_frame(_LIST_ITEM, "[TOOL_CALLS][", ", ", "]")),
    CallFormat(
        "command", read.json_calls, ("<|START_ACTION|>",), special=("<|START_ACTION|>", "<|END_ACTION|>"), mark="<|START_ACTION|>",
        frame=_frame(f'{{"tool_call_id": "0", "tool_name": "{NAME}", "parameters": {ARGUMENTS}}}', "<|START_ACTION|>[", ", ", "]<|END_ACTION|>"),
    ),
    CallFormat("lfm", read_bare.llama, ("<|tool_call_start|>",), special=("<|tool_call_start|>", "<|tool_call_end|>"),
               frame=_frame(_LIST_ITEM, "<|tool_call_start|>[", ", ", "]<|tool_call_end|>")),
    CallFormat("list", read.json_calls, ("<|tool_call|>",), special=_LISTS, mark="<|tool_call|>", frame=_frame(_LIST_ITEM, "<|tool_call|>[", ", ", "]")),
    CallFormat("phi", read.json_calls, ("functools", "<|tool_call|>"), special=_LISTS, frame=_frame(_LIST_ITEM, "functools[", ", ", "]")),
    CallFormat("jamba", read.json_calls, ("<tool_calls>",), special=("<tool_calls>", "</tool_calls>"), mark="<tool_calls>", frame=_frame(_LIST_ITEM, "<tool_calls>[", ", ", "]</tool_calls>")),
    CallFormat("dsml", read.dsml, ("<｜DSML｜function_calls>",), special=("｜DSML｜",)),
    CallFormat("minimax", read.invoked, ("<minimax:tool_call>",), special=("<minimax:tool_call>", "</minimax:tool_call>")),
    CallFormat("nemotron", read.json_calls, ("<TOOLCALL>",), special=("<TOOLCALL>", "</TOOLCALL>"), mark="<TOOLCALL>", frame=_frame(_LIST_ITEM, "<TOOLCALL>[", ", ", "]</TOOLCALL>")),
    CallFormat(
        "internlm", read.internlm, ("<|action_start|>",), special=("<|action_start|>", "<|plugin|>", "<|action_end|>"),
        frame=_frame(f'<|action_start|><|plugin|>{{"name": "{NAME}", "parameters": {ARGUMENTS}}}<|action_end|>', several=False),
    ),
    CallFormat("functions", read.tagged, ("<tool_call>", "<seed:tool_call>", "<function="), tags=_XML, special=(*_TAGS, "<seed:tool_call>", "</seed:tool_call>")),
    CallFormat("keys", read.tagged, ("<tool_call>",), tags=_KEYS, special=(*_TAGS, "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>")),
    CallFormat("hermes", read.tagged, ("<tool_call>",), special=_TAGS, mark="<tool_call>"),
    CallFormat(
        "llama", read_bare.llama, ("<|python_tag|>", "<|python_start|>"), bare=("{", "["), special=("<|python_tag|>", "<|python_start|>", "<|python_end|>"),
        frame=_frame(f'{{"name": "{NAME}", "parameters": {ARGUMENTS}}}', several=False),
    ),
    CallFormat("generic", read.tagged, ("<tool_call>",), bare=("{", "["), special=_TAGS, mark="<tool_call>"),
)
# What a template has to say to speak a format; the first row whose marks are all in it counts
RECOGNISED: tuple[tuple[tuple[str, ...], str], ...] = (
    (("<|channel|>commentary",), "harmony"),
    (("<|tool_calls_section_begin|>",), "kimi"),
    (("<｜DSML｜",), "dsml"),
    (("<｜tool▁calls▁begin｜>", "```json"), "deepseek-r1"),
    (("<｜tool▁calls▁begin｜>",), "deepseek"),
    (("<|tool_call>call:",), "gemma"),
    (("<start_function_call>",), "gemma"),
    (("[TOOL_CALLS]", "[ARGS]"), "mistral-args"),
    (("[TOOL_CALLS]",), "mistral"),
    (("<|START_ACTION|>",), "command"),
    (("<|tool_call_start|>",), "lfm"),
    (("<|tool_list_start|>",), "lfm"),
    (("<minimax:tool_call>",), "minimax"),
    (("<TOOLCALL>",), "nemotron"),
    (("<tool_calls>",), "jamba"),
    (("<|action_start|>",), "internlm"),
    (("<function=", "</function>"), "functions"),
    (("<arg_key>",), "keys"),
    (("<tool_call>",), "hermes"),
    (("<|tool_call|>",), "list"),
    (("<|tool|>", "<|/tool|>"), "phi"),
    (("<|python_tag|>",), "llama"),
    (("<|python_start|>",), "llama"),
    (("<|start_header_id|>ipython",), "llama"),
    (('"parameters": dictionary of argument name',), "llama"),
    (("[func_name1(",), "llama"),
)


def format_of(template: str) -> CallFormat:
    """The format that a chat template speaks; the generic one where it knows none."""
    name = next((name for marks, name in RECOGNISED if all(mark in template for mark in marks)), "generic")
    return named(name)


def named(name: str) -> CallFormat:
    """The format of that name; the generic one where there is none."""
    return next((one for one in FORMATS if one.name == name), FORMATS[-1])



