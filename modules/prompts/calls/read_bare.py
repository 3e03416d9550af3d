"""Readers of calls that stand bare or in Python's notation, as Llama's models write them.

Bare ones count only where all of the names are those of tools that there are: other JSON and other code is an answer.
"""

from __future__ import annotations

import ast
import json
import re
from types import MappingProxyType

from modules.prompts.calls.read import Tools, json_call
from modules.prompts.calls.tape import (
    Began,
    Done,
    More,
    NotACallError,
    Steps,
    Tape,
    expect,
    literal,
    peek,
    skip,
    until,
    wait,
)
from modules.prompts.calls.values import python_value

LONGEST_PYTHON = 100_000  # characters of one call in Python's notation
PYTHON_STOPS = re.compile(r"""["'()\[\]{}]""")
PYTHON_CLOSES = MappingProxyType({quote: re.compile(rf"[\\{quote}]") for quote in "\"'"})


def llama(tape: Tape, tools: Tools, opening: str) -> Steps[None]:
    """JSON objects or Python's calls behind `<|python_tag|>`, or at the beginning of a reply that is nothing else."""
    bare = opening in ("{", "[")
    if bare:
        tape.go_back()
    first = yield from skip(tape)
    if first == "[":
        yield from _list_of_either(tape, tools, known_only=bare)
    elif first == "{":
        while (yield from skip(tape, " \t\r\n;,")) == "{":
            yield from json_call(tape, tools, known_only=bare)
    else:
        yield from _python_call(tape, tools)
    yield from skip(tape)
    yield from literal(tape, "<|python_end|>", "<|tool_call_end|>")


def _list_of_either(tape: Tape, tools: Tools, *, known_only: bool) -> Steps[None]:
    yield from expect(tape, "[")
    if (yield from skip(tape)) == "{":
        while (yield from skip(tape, " \t\r\n,")) != "]":
            yield from json_call(tape, tools, known_only=known_only)
    else:
        while (yield from skip(tape, " \t\r\n,")) != "]":
            yield from _python_call(tape, tools)
    tape.take(1)


def _python_call(tape: Tape, tools: Tools) -> Steps[None]:
    """`name(key=value, …)`; all of it is read before anything is told. Only tools that there are: other code is text."""
    head, _ = yield from until(tape, "(")
    name = head.strip().removesuffix(".call")
    if name not in tools.schemas:
        raise NotACallError
    text = yield from _until_closed(tape)
    try:
        call = ast.parse(f"f({text}", mode="eval").body
        if not isinstance(call, ast.Call) or call.args or any(word.arg is None for word in call.keywords):
            raise NotACallError
        arguments = {word.arg: python_value(word.value) for word in call.keywords}
        written = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        raise NotACallError from None
    yield Began(name)
    yield More(written)
    yield Done()


def _until_closed(tape: Tape) -> Steps[str]:
    """Up to the parenthesis that closes an open one."""
    depth, quote, read = 1, "", ""
    while depth:
        if not (yield from peek(tape)) or len(read) > LONGEST_PYTHON:
            raise NotACallError
        rest, at, halved = tape.rest, 0, False
        while depth and (found := (PYTHON_CLOSES[quote] if quote else PYTHON_STOPS).search(rest, at)):
            at = found.end()
            if found[0] == "\\":
                halved = at == len(rest)  # what it escapes is not here yet
                at += -1 if halved else 1
            elif found[0] in "\"'":
                quote = "" if quote else found[0]
            else:
                depth += 1 if found[0] in "([{" else -1
            if halved:
                break
        else:
            at = len(rest) if depth else at
        read += tape.take(at)
        if halved:
            yield from wait(tape)
    return read
