"""Readers of calls, one for each way in which families of models write them. Each begins behind the mark that opened it.

Knows texts only. What stands behind a mark and is no call after all raises `NotACallError`, and is text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from modules.prompts.calls.tape import (
    Began,
    Done,
    More,
    NotACallError,
    Steps,
    Tape,
    expect,
    json_string,
    json_text,
    literal,
    peek,
    skip,
    until,
    wait,
)
from modules.prompts.calls.values import braced, is_string, typed

NAME = re.compile(r"[\w.:/-]{1,256}")
BESIDE = ("type", "id", "tool_call_id")
NAME_KEYS, ARGUMENT_KEYS = ("name", "tool_name"), ("arguments", "parameters")


@dataclass(frozen=True, slots=True)
class Tools:
    """What a reader may know of the tools: the schemas of their arguments, by name."""

    schemas: Mapping[str, Any]

    def known(self, name: str) -> str:
        """The name as the tools have it: some models write the namespace in front.

        Raises:
            NotACallError: no function can be called so.
        """
        bare = name.removeprefix("functions.")
        if bare != name and (bare in self.schemas or name not in self.schemas):
            name = bare
        if not NAME.fullmatch(name):
            raise NotACallError
        return name

    def of(self, name: str, argument: str) -> Any:
        """The schema of one argument; nothing where none is known."""
        schema = self.schemas.get(name)
        properties = schema.get("properties") if isinstance(schema, Mapping) else None
        return properties.get(argument) if isinstance(properties, Mapping) else None


Reader = Callable[[Tape, Tools, str], Steps[None]]  # the last is the mark that opened it


# ---- JSON ----------------------------------------------------------------------------------------------------------


def json_call(tape: Tape, tools: Tools, *, known_only: bool = False, inner: bool = False) -> Steps[None]:
    """One object with a name and arguments, in either order; `known_only` takes only names that there are. It may be `inner` to one as OpenAI has it."""
    yield from expect(tape, "{")
    name, held, begun = "", "", False
    while (char := (yield from skip(tape, " \t\r\n,"))) != "}":
        if begun and char != '"':
            break  # small models forget the last brace
        key = yield from json_string(tape)
        yield from skip(tape)
        yield from expect(tape, ":")
        first = yield from skip(tape)
        if key == "function" and first == "{" and not begun and not inner:
            yield from json_call(tape, tools, known_only=known_only, inner=True)
            begun = True
        elif key in (*NAME_KEYS, "function") and not name:
            name = yield from _name(tape, tools, known_only)
        elif key in ARGUMENT_KEYS and not begun and not held:
            if name:
                yield Began(name)
                yield from _arguments(tape)
                begun = True
            else:
                held = yield from _held_arguments(tape)
        elif known_only and key not in BESIDE:
            raise NotACallError  # an answer in JSON is not held back for long
        else:
            yield from json_text(tape)
    tape.take(char == "}")
    if not begun:
        if not name:
            raise NotACallError
        yield Began(name)
        yield More(held or "{}")
    yield Done()


def _name(tape: Tape, tools: Tools, known_only: bool) -> Steps[str]:
    name = tools.known((yield from json_string(tape)))
    if known_only and name not in tools.schemas:
        raise NotACallError
    return name


def _arguments(tape: Tape) -> Steps[None]:
    """An object, or its text as a string, or nothing."""
    if (yield from peek(tape)) == "{":
        yield from json_text(tape, told=True)
    else:
        yield More((yield from _held_arguments(tape)))


def _held_arguments(tape: Tape) -> Steps[str]:
    first = yield from peek(tape)
    if first == '"':
        text = yield from json_string(tape)
        return text if text.strip() else "{}"
    text = yield from json_text(tape)
    return "{}" if text in ("null", "None") else text


def json_list(tape: Tape, tools: Tools, *, known_only: bool = False) -> Steps[None]:
    """A list of such objects."""
    yield from expect(tape, "[")
    while (yield from skip(tape, " \t\r\n,")) != "]":
        yield from json_call(tape, tools, known_only=known_only)
    tape.take(1)


def json_calls(tape: Tape, tools: Tools, opening: str) -> Steps[None]:
    """A list or one object behind a mark, and the mark that closes it."""
    first = yield from skip(tape)
    yield from (json_list if first == "[" else json_call)(tape, tools)
    yield from skip(tape)
    yield from literal(tape, "<|/tool_call|>", "<|END_ACTION|>", "</TOOLCALL>", "<|action_end|>", "</tool_calls>")


def internlm(tape: Tape, tools: Tools, opening: str) -> Steps[None]:
    """An object behind the name of a plugin."""
    yield from literal(tape, "<|plugin|>")
    yield from json_calls(tape, tools, opening)


# ---- tags ----------------------------------------------------------------------------------------------------------


def tagged(tape: Tape, tools: Tools, opening: str) -> Steps[None]:
    """`<tool_call>`: JSON in it (Hermes, Qwen), or `<function=…>` (Qwen3-Coder), or a name and `<arg_key>` (GLM); or `<function=…>` without the tag around."""
    if opening == "<function=":
        yield from _function_tag(tape, tools)
        yield from skip(tape)
        yield from literal(tape, "</tool_call>")
        return
    first = yield from skip(tape)
    if first == "{":
        while (yield from skip(tape, " \t\r\n,}")) == "{":  # or write one too many
            yield from json_call(tape, tools)
    elif first == "[":
        yield from json_list(tape, tools)
    elif (yield from literal(tape, "<function=")):
        yield from _function_tag(tape, tools)
    else:
        yield from _keys_and_values(tape, tools)
        return
    yield from skip(tape)
    yield from literal(tape, "</tool_call>", "</seed:tool_call>")


def _function_tag(tape: Tape, tools: Tools) -> Steps[None]:
    name, _ = yield from until(tape, ">")
    name = tools.known(name.strip().strip('"'))
    if (yield from skip(tape)) == "{":  # Llama 3.1 and Functionary
        yield Began(name)
        yield from json_text(tape, told=True)
        yield Done()
        yield from skip(tape)
        yield from literal(tape, "</function>")
        return
    yield from _parameters(tape, tools, name, "<parameter=", ">", "</parameter>", "</function>")


def invoked(tape: Tape, tools: Tools, opening: str) -> Steps[None]:
    """`<invoke name="…">` with `<parameter name="…">`, several behind one mark (MiniMax)."""
    while True:
        yield from skip(tape)
        found = yield from literal(tape, '<invoke name="', "</minimax:tool_call>")
        if not found.startswith("<invoke"):
            return
        name, _ = yield from until(tape, '">')
        yield from _parameters(tape, tools, tools.known(name), '<parameter name="', '">', "</parameter>", "</invoke>")


def _parameters(tape: Tape, tools: Tools, name: str, *tags: str) -> Steps[None]:
    """Parameters in tags; their values are text whose type the schema tells."""
    opening, behind, closing, end = tags
    begun, mark = "{", opening
    while True:
        yield from skip(tape)
        mark = yield from literal(tape, opening, end)
        if mark != opening:
            break
        key, _ = yield from until(tape, behind)
        if begun == "{":
            yield Began(name)
        yield More(begun)
        yield from _value(tape, key.strip(), tools.of(name, key.strip()), closing, "\n")
        begun = ", "
    if begun == "{":
        if not mark:
            raise NotACallError
        yield Began(name)
        yield More("{")
    yield More("}")
    yield Done()


def _value(tape: Tape, key: str, schema: Any, closing: str, trim: str) -> Steps[None]:
    """A value up to its closing tag, without what stands between it and both tags. A string is told while it comes: it may be a whole file."""
    yield More(json.dumps(key, ensure_ascii=False) + ": ")
    if not is_string(schema):
        value, _ = yield from until(tape, closing, most=0)
        yield More(json.dumps(typed(value.removeprefix(trim).removesuffix(trim), schema), ensure_ascii=False))
        return
    yield More('"')
    if trim:
        yield from literal(tape, trim)
    end = trim + closing
    while (at := (rest := tape.rest).find(closing)) < 0:
        # what may be the end of the value is not told yet
        kept = next((n for n in range(min(len(end), len(rest)), 0, -1) if rest.endswith((end[:n], closing[:n]))), 0)
        yield More(_escaped(tape.take(len(rest) - kept)))
        yield from wait(tape)
    yield More(_escaped(tape.take(at).removesuffix(trim)) + '"')
    tape.take(len(closing))


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _keys_and_values(tape: Tape, tools: Tools) -> Steps[None]:
    """GLM: a name, then keys and values in tags of their own."""
    text, mark = yield from until(tape, "<arg_key>", "</tool_call>")
    name = tools.known(text.strip())
    yield Began(name)
    begun = "{"
    while mark == "<arg_key>":
        key, _ = yield from until(tape, "</arg_key>")
        yield from skip(tape)
        yield from expect(tape, "<arg_value>")
        yield More(begun)
        yield from _value(tape, key.strip(), tools.of(name, key.strip()), "</arg_value>", "")
        begun = ", "
        yield from skip(tape)
        mark = yield from literal(tape, "<arg_key>", "</tool_call>")
    yield More("{}" if begun == "{" else "}")
    yield Done()


# ---- marks of single families --------------------------------------------------------------------------------------


def mistral(tape: Tape, tools: Tools, opening: str) -> Steps[None]:
    """`[TOOL_CALLS]` before a list, or before a name, an id perhaps, and `[ARGS]`."""
    if (yield from skip(tape)) == "[":
        yield from json_list(tape, tools)
        return
    name, mark = yield from until(tape, "[ARGS]", "[CALL_ID]", "{")
    call_id = ""
    if mark == "[CALL_ID]":
        call_id, mark = yield from until(tape, "[ARGS]", "{")
    if mark == "{":
        tape.back(1)
    elif (yield from skip(tape)) != "{":
        raise NotACallError
    yield Began(tools.known(name.strip()), call_id.strip())
    yield from json_text(tape, told=True)
    yield Done()


def deepseek(tape: Tape, tools: Tools, opening: str) -> Steps[None]:
    """Calls between marks of their own: a name, or the word function, and a separator before JSON that may be fenced."""
    while True:
        yield from skip(tape)
        found = yield from literal(tape, "<｜tool▁call▁begin｜>", "<｜tool▁calls▁end｜>")
        if found != "<｜tool▁call▁begin｜>":
            return
        name, _ = yield from until(tape, "<｜tool▁sep｜>")
        if (yield from skip(tape)) != "{":
            name, _ = yield from until(tape, "\n")
            yield from skip(tape)
            yield from literal(tape, "```json")
        name = tools.known(name.strip())
        if (yield from skip(tape)) != "{":
            raise NotACallError
        yield Began(name)
        yield from json_text(tape, told=True)
        yield Done()
        yield from skip(tape, " \t\r\n`")
        yield from literal(tape, "<｜tool▁call▁end｜>")


def dsml(tape: Tape, tools: Tools, opening: str) -> Steps[None]:
    """DeepSeek V3.2: invocations with parameters that say themselves whether they are strings."""
    while True:
        yield from skip(tape)
        if (yield from literal(tape, '<｜DSML｜invoke name="', "</｜DSML｜function_calls>")) != '<｜DSML｜invoke name="':
            return
        name, _ = yield from until(tape, '">')
        yield Began(tools.known(name))
        begun = "{"
        while (yield from skip(tape)) and (yield from literal(tape, '<｜DSML｜parameter name="', "</｜DSML｜invoke>")).startswith("<｜"):
            head, _ = yield from until(tape, '">')
            key, _, kind = head.partition('" string="')
            yield More(begun)
            yield from _value(tape, key, {"type": "string"} if kind == "true" else tools.of(name, key), "</｜DSML｜parameter>", "")
            begun = ", "
        yield More("{}" if begun == "{" else "}")
        yield Done()


def kimi(tape: Tape, tools: Tools, opening: str) -> Steps[None]:
    """Calls whose id has the name in it."""
    while True:
        yield from skip(tape)
        found = yield from literal(tape, "<|tool_call_begin|>", "<|tool_calls_section_end|>")
        if found != "<|tool_call_begin|>":
            return
        call_id, _ = yield from until(tape, "<|tool_call_argument_begin|>")
        call_id = call_id.strip()
        name = tools.known(call_id.rpartition(":")[0] or call_id)
        if (yield from skip(tape)) != "{":
            raise NotACallError
        yield Began(name, call_id)
        yield from json_text(tape, told=True)
        yield Done()
        yield from skip(tape)
        yield from literal(tape, "<|tool_call_end|>")


def harmony(tape: Tape, tools: Tools, opening: str) -> Steps[None]:
    """A channel that is addressed to a function (gpt-oss), as the detokenizer shows it."""
    name, _ = yield from until(tape, "<|message|>")
    name = tools.known(name.split()[0] if name.strip() else "")
    if (yield from skip(tape)) != "{":
        raise NotACallError
    yield Began(name)
    yield from json_text(tape, told=True)
    yield Done()
    yield from literal(tape, "<|call|>")


def gemma(tape: Tape, tools: Tools, opening: str) -> Steps[None]:
    """`call:name{…}` with keys and strings in marks of their own (Gemma 4, FunctionGemma)."""
    quote, closing = ("<escape>", "<end_function_call>") if opening == "<start_function_call>call:" else ('<|"|>', "<tool_call|>")
    name, _ = yield from until(tape, "{")
    name = tools.known(name.strip())
    body, _ = yield from until(tape, closing, most=0)
    arguments = braced("{" + body.rstrip(), quote)
    yield Began(name)
    yield More(json.dumps(arguments, ensure_ascii=False))
    yield Done()
