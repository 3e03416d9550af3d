"""From the parameters that shape a text to the notation that llguidance reads, each bounded on the way. Knows no tokens."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from modules.core.errors import InvalidRequest
from modules.core.text_shape import SHAPE_FIELDS, canonical_schema
from modules.engine.gbnf import read_gbnf
from modules.engine.lark import HEADER, write_lark
from modules.engine.lexemes import Lexemes
from modules.engine.plain_schemas import inner_schemas, put_plainly
from modules.engine.regex_bounds import bounded_regex
from modules.engine.rule_facts import check_size, without_dead_ends

if TYPE_CHECKING:
    from modules.core.params import GenerationParams

TITLES = MappingProxyType(
    {"grammar": "grammar", "json_schema": "JSON schema", "regex": "regular expression", "choices": "list of choices", "tools": "parameters of a tool"}
)
# Of JSON: nothing, a space, or a new line with its indentation. Without a limit some models write spaces for ever
SPACE = r"( |\r?\n[ \t]{0,20})"
FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"})  # the others say nothing here


def shape_of(params: GenerationParams) -> tuple[str, str | tuple[str, ...]] | None:
    """The field that shapes the text and its value; None where the text is free."""
    return next(((name, getattr(params, name)) for name in SHAPE_FIELDS if getattr(params, name)), None)


def write_shape(name: str, value: str | tuple[str, ...], before: tuple[str, str] = ("", "")) -> str:
    """The shape in Lark's notation; `before` has what comes first, as a part of a rule, and the rules for that.

    Raises:
        InvalidRequest: it is not right, or too large.
    """
    writers: dict[str, Callable[[Any], str]] = {"grammar": _grammar, "json_schema": _schema, "regex": _regex, "choices": _choices}
    return f"{writers[name](value)}start: {before[0]} answer\n{before[1]}"


def _grammar(text: str) -> str:
    rules = read_gbnf(text)
    check_size(rules)
    rules = without_dead_ends(rules)
    if "root" not in rules:
        raise InvalidRequest("No text fits the grammar: root never comes to an end. Give each rule that names itself a way out.", field="grammar")
    return write_lark(rules, Lexemes(rules))


def _regex(text: str) -> str:
    import llguidance

    return f"{HEADER}answer: TEXT\nTEXT: /{llguidance.regex_to_lark(bounded_regex(text), 'dws')}/\n"


def _choices(choices: tuple[str, ...]) -> str:
    written = (json.dumps(choice, ensure_ascii=False).replace("\x7f", "\\u007f") for choice in choices)
    return f"{HEADER}answer: TEXT\nTEXT: {' | '.join(written)}\n"


def _schema(text: str) -> str:
    return f"{HEADER}answer: {json_rule(text, 'json_schema')}\n"


def json_rule(text: str, name: str) -> str:
    """A JSON schema as a part of a rule."""
    title = TITLES[name]
    try:
        schema = json.loads(canonical_schema(text))
        if isinstance(schema, dict):
            put_plainly(schema)
    except ValueError as error:
        raise InvalidRequest(f"The {title} cannot be used: {error}.", field=name) from error
    if schema is True:
        schema = {}
    if schema is False or schema.get("enum") == []:
        raise InvalidRequest(f"The {title} is false: no text fits it.", field=name)
    for part in inner_schemas(schema):
        keyed = part.get("patternProperties")
        for pattern in (part.get("pattern"), *(keyed if isinstance(keyed, dict) else ())):
            if isinstance(pattern, str):
                _check_pattern(pattern, name)
        if isinstance(part.get("format"), str) and part["format"] not in FORMATS:
            del part["format"]
    schema["x-guidance"] = {"whitespace_pattern": SPACE, "coerce_one_of": True}
    return f"%json {json.dumps(schema)}"


def _check_pattern(pattern: str, name: str) -> None:
    try:
        bounded_regex(pattern)
    except InvalidRequest as error:
        raise InvalidRequest(f"A pattern of the {TITLES[name]}: {error.message}", field=name) from error
