"""`propertyNames` of a JSON schema, said with `properties` and `patternProperties`. Knows no tokens of a model."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from modules.core.errors import InvalidRequest
from modules.engine.lark import HEADER
from modules.engine.native import ask
from modules.engine.regex_bounds import bounded_regex
from modules.engine.schema_parts import (
    MOST_HOPS,
    Schema,
    SchemaError,
    add,
    followed,
    is_anything,
    move,
    types_of,
    without_notes,
)

JOINED = ("$ref", "allOf", "anyOf", "oneOf")
MOST_TRIED = 2_000  # names by patterns
LONGEST_NAME = 4_096  # characters; a longer limit is none
REPEATED = re.compile(r"\^(\[[^\[\]\\]+\]|\\[dw])([+*])\$")  # one character again and again
DAY = r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])"
CLOCK = r"([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d+)?"
FORMATS = MappingProxyType({
    "date": f"^{DAY}$",
    "time": f"^{CLOCK}(Z|[+-]\\d\\d:\\d\\d)$",
    "date-time": f"^{DAY}T{CLOCK}(Z|[+-]\\d\\d:\\d\\d)$",
    "uuid": "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$",
    "ipv4": r"^((25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(25[0-5]|2[0-4]\d|1?\d?\d)$",
    "email": r"^[A-Za-z0-9_+-]+(\.[A-Za-z0-9_+-]+)*@([A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?\.)+[A-Za-z]{2,}$",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Names:
    """Some names: those listed, and those of a pattern or a length."""

    listed: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    lengths: tuple[tuple[int, int | None], ...] = ()

    def pattern(self) -> str:
        """All of them as one pattern."""
        listed = [f"^(?:{'|'.join(map(re.escape, self.listed))})$"] if self.listed else []
        every = [*listed, *self.patterns, *(f"^(?s:.{{{least},{'' if most is None else most}}})$" for least, most in self.lengths)]
        return every[0] if len(every) == 1 else "|".join(f"(?:{one})" for one in every)


def keep_names(root: Schema, part: Schema) -> list[Schema]:
    """Replace `propertyNames` of an object. Returns the schemas that stand elsewhere for that.

    Raises:
        SchemaError: it says what cannot be kept to.
    """
    names = _Reader(root).read(part.pop("propertyNames"))
    moved: list[Schema] = []
    if names is None:
        return moved
    if names.patterns or names.lengths or (names.listed and part.keys() & {"minProperties", "maxProperties"}):
        _close_by_pattern(part, names)
    elif part.get("patternProperties"):
        _close_by_list(root, part, names.listed, moved)
    else:
        add(part, {"properties": dict.fromkeys(names.listed, True), "additionalProperties": False})
    return moved


class _Reader:
    """Which names a schema and those it refers to allow; each is read once, so that none that refers to itself or to others twice makes it long."""

    def __init__(self, root: Schema) -> None:
        self._root = root
        self._known: dict[int, Names | None] = {}

    def read(self, schema: Any, hops: int = 0) -> Names | None:
        """The names that a schema allows; None for all."""
        schema = followed(self._root, schema)
        if is_anything(schema):
            return None
        if not isinstance(schema, dict):
            return Names()
        if hops > MOST_HOPS:
            raise SchemaError("propertyNames: too many schemas in each other")
        if id(schema) not in self._known:
            self._known[id(schema)] = Names()
            self._known[id(schema)] = self._read(schema, hops)
        return self._known[id(schema)]

    def _read(self, schema: Schema, hops: int) -> Names | None:
        asked = without_notes(schema)
        if "string" not in types_of(asked):
            return Names()
        asked.pop("type", None)
        if not asked:
            return None
        if asked.keys() <= {"enum", "const"}:
            listed = asked["enum"] if isinstance(asked.get("enum"), list) else [asked.get("const")]
            return Names(listed=tuple(dict.fromkeys(name for name in listed if isinstance(name, str) and asked.get("const", name) == name)))
        several = asked.get("anyOf") or asked.get("oneOf") or asked.get("allOf")
        if len(asked) == 1 and several:
            if "allOf" in asked and len(several) > 1:
                raise SchemaError("propertyNames: of allOf only one schema can be kept to; write one pattern")
            return _joined([self.read(one, hops + 1) for one in several])
        return _read_texts(asked)


def _joined(several: list[Names | None]) -> Names | None:
    known = [one for one in several if one is not None]
    if len(known) < len(several):
        return None
    return Names(*(tuple(dict.fromkeys(item for one in known for item in getattr(one, field))) for field in ("listed", "patterns", "lengths")))


def _read_texts(asked: Schema) -> Names | None:
    if not asked.keys() <= {"pattern", "format", "minLength", "maxLength"}:
        raise SchemaError("propertyNames: only enum, const, pattern, minLength, maxLength and some formats can be kept to; list the names in properties, or write a pattern")
    pattern = asked.get("pattern") or FORMATS.get(str(asked.get("format")), "")
    least, most = asked.get("minLength", 0), asked.get("maxLength")
    if not isinstance(least, int) or not isinstance(most, int | None):
        raise TypeError("a length is a number")
    most = None if most is None or most > LONGEST_NAME else most
    if pattern and (least or most is not None):
        return Names(patterns=(_of_length(pattern, least, most),))
    if pattern:
        return Names(patterns=(pattern,))
    return Names(lengths=((least, most),)) if least or most is not None else None


def _of_length(pattern: str, least: int, most: int | None) -> str:
    """A pattern with a length, where that can be written as one."""
    if found := REPEATED.fullmatch(pattern):
        return f"^{found[1]}{{{max(least, int(found[2] == '+'))},{'' if most is None else most}}}$"
    if most is None and least == 1 and not _finder(pattern)(""):
        return pattern
    raise SchemaError("propertyNames: a pattern and a length cannot be kept to together; write the length into the pattern")


def _finder(pattern: str) -> Callable[[str], bool]:
    """Whether a name fits a pattern, asked of llguidance: what is written is judged by the same rules then, and no pattern keeps it busy as it could Python's `re`."""
    import llguidance

    try:
        bounded_regex(pattern)
    except InvalidRequest as error:
        raise SchemaError(f"propertyNames: {error.message.rstrip('.')}") from error
    rule = f'{HEADER}start: %json {json.dumps({"type": "string", "pattern": pattern})}\n'
    matcher = ask(functools.partial(llguidance.LLMatcher, ask(llguidance.LLTokenizer, "byte"), rule, log_level=0))
    if matcher.is_error():
        raise SchemaError(f"propertyNames: the pattern {pattern[:80]!r} cannot be used")

    def fits(name: str) -> bool:
        copy, written = ask(matcher.deep_copy), list(json.dumps(name, ensure_ascii=False).encode())
        return bool(ask(copy.try_consume_tokens, written) == len(written) and ask(copy.is_accepting))

    return fits


def _check_tries(names: int, patterns: int) -> None:
    if names * patterns > MOST_TRIED:
        raise SchemaError(f"propertyNames: {names} names and {patterns} patterns are too many to compare; write one of the two")


def _close_by_list(root: Schema, part: Schema, listed: tuple[str, ...], moved: list[Schema]) -> None:
    """Each name with the schema that holds for it, beside no others."""
    properties, patterns = part.get("properties") or {}, part.pop("patternProperties")
    _check_tries(len(listed), len(patterns))
    found = [_finder(pattern) for pattern in patterns]
    *keyed, others = move(root, [*patterns.values(), part.get("additionalProperties", True)], moved)
    closed = {}
    for name in (*(name for name in properties if name in listed), *(name for name in listed if name not in properties)):
        holding = [*([properties[name]] if name in properties else []), *(schema for fits, schema in zip(found, keyed, strict=True) if fits(name))]
        closed[name] = {"allOf": holding} if len(holding) > 1 else next(iter(holding), others)
    part["properties"], part["additionalProperties"] = closed, False


def _close_by_pattern(part: Schema, names: Names) -> None:
    """The names that are described stay where they are allowed; all others have to fit the pattern."""
    if part.keys() & {*JOINED}:
        raise SchemaError("propertyNames: a pattern, a length or a number of names cannot be kept to beside other schemas of the object; write patternProperties and additionalProperties: false there")
    properties, others = part.get("properties") or {}, part.get("additionalProperties", True)
    if properties:
        _check_tries(len(properties), 1)
        fits = _finder(names.pattern())
        properties.update({name: False for name in properties if not fits(name)})
    if keyed := part.get("patternProperties"):
        if names.listed or names.patterns or len(names.lengths) > 1:
            raise SchemaError("propertyNames: a pattern beside patternProperties cannot be kept to; write one of the two")
        part["patternProperties"] = {_of_length(pattern, *names.lengths[0]): schema for pattern, schema in keyed.items()}
    elif others is not False:
        if properties and not is_anything(others):
            raise SchemaError("propertyNames: a pattern or a length cannot be kept to beside properties and a schema for all others; write patternProperties")
        part["patternProperties"] = {names.pattern(): others}
    part["additionalProperties"] = False
