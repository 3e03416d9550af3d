"""What a JSON schema says, in words and as an example: types, bounds, defaults. Knows no page."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

Schema = Mapping[str, Any]

REF = "#/components/schemas/"
# Fields whose names say what a good example is
SAMPLES: Mapping[str, Any] = MappingProxyType({
    "role": "user", "content": "Hello", "text": "Hello", "prompt": "Once upon a time", "input": "Hello", "model_name": "MODEL", "name": "NAME", "tokens": [1, 2, 3],
    "lora_names": ["ADAPTER"], "repo": "OWNER/NAME", "files": ["FILE.gguf"], "base": "MODEL", "format": "text", "models": ["MODEL"], "max_tokens": 64,
})  # fmt: skip
SHOWN_ANYWAY = ("prompt", "input", "messages", "model_name")  # in an example, though a request may lack them
DEEPEST = 6
LIST_OF = "list of "


@dataclass(frozen=True)
class FieldRow:
    """One field of a body, or one parameter of an address."""

    name: str
    kind: str
    required: bool
    default: str
    meaning: str


class Schemas:
    """The named schemas of a description."""

    def __init__(self, description: Mapping[str, Any]) -> None:
        self._named: Mapping[str, Schema] = description.get("components", {}).get("schemas", {})

    def whole(self, schema: Schema) -> Schema:
        """A schema itself, where it only names one."""
        name = name_of(schema)
        return self._named.get(name, {}) if name else schema

    def fields(self, schema: Schema) -> list[FieldRow]:
        """The fields of an object, required ones first."""
        whole = self.whole(schema)
        required = frozenset(whole.get("required", ()))
        rows = [self.field(name, inner, required=name in required) for name, inner in whole.get("properties", {}).items()]
        return sorted(rows, key=lambda row: not row.required)

    def field(self, name: str, schema: Schema, *, required: bool) -> FieldRow:
        """One field in words."""
        default = schema.get("default")
        shown = "" if default in (None, "", [], {}) and not isinstance(default, bool) else json.dumps(default, ensure_ascii=False)
        return FieldRow(name, self.kind(schema), required, shown, str(schema.get("description") or self.whole(schema).get("description", "")))

    def kind(self, schema: Schema) -> str:
        """What a value may be: type and bounds in words; objects by their names."""
        if name := name_of(schema):
            return self.kind(self._named[name]) if "enum" in self._named.get(name, {}) else name
        variants = schema.get("anyOf") or schema.get("oneOf")
        if variants:
            return " or ".join(dict.fromkeys(self.kind(one) for one in variants if one.get("type") != "null"))
        if "enum" in schema or "const" in schema:
            return " | ".join(str(value) for value in schema.get("enum", [schema.get("const")]))
        kind = schema.get("type", "any value")
        if kind == "array":
            inner = self.kind(schema.get("items", {})) if schema.get("items") else "any value"
            return LIST_OF + inner + _bounds(schema, "minItems", "maxItems", "entries")
        if kind == "string":
            return "text" + _bounds(schema, "minLength", "maxLength", "characters")
        return {"integer": "whole number", "boolean": "true | false"}.get(str(kind), str(kind)) + _range(schema)

    def inner(self, schema: Schema, seen: tuple[str, ...] = ()) -> Iterator[tuple[str, Schema]]:
        """The objects that a schema names, each once, in the order of their first use."""
        found: dict[str, Schema] = {}
        for name in self._names(self.whole(schema)):
            if name not in seen and name not in found and "properties" in self._named.get(name, {}):
                found[name] = self._named[name]
        for name, whole in found.items():
            yield name, whole
            yield from self.inner(whole, (*seen, *found))

    def _names(self, schema: Any) -> Iterator[str]:
        if isinstance(schema, Mapping):
            if name := name_of(schema):
                yield name
            for value in schema.values():
                yield from self._names(value)
        elif isinstance(schema, list):
            for value in schema:
                yield from self._names(value)

    def example(self, schema: Schema, depth: int = 0) -> Any:
        """A small value that fits: what is required, and what makes it mean something."""
        whole = self.whole(schema)
        variants = whole.get("anyOf") or whole.get("oneOf")
        if variants:
            return self.example(variants[0], depth)
        if "enum" in whole or "const" in whole:
            return next(iter(whole.get("enum", [whole.get("const")])))
        kind = whole.get("type")
        if kind == "object" and depth < DEEPEST:
            required = whole.get("required", ())
            wanted = [name for name in whole.get("properties", {}) if name in required or (name in SHOWN_ANYWAY and not depth) or (depth and name == "content")]
            return {name: self._sample(name, whole["properties"][name], depth + 1) for name in wanted}
        if kind == "array":
            return [self.example(whole.get("items", {}), depth + 1)]
        return {"string": "…", "integer": whole.get("minimum", 1), "number": whole.get("minimum", 1), "boolean": True}.get(str(kind), {})

    def _sample(self, name: str, schema: Schema, depth: int) -> Any:
        known = SAMPLES.get(name)
        return known if known is not None and "properties" not in self.whole(schema) else self.example(schema, depth)


def name_of(schema: Schema) -> str:
    """The name that a schema refers to; empty if it stands by itself."""
    found = str(schema.get("$ref", ""))
    return found.removeprefix(REF) if found.startswith(REF) else ""


def _range(schema: Schema) -> str:
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    begin = f"{'above ' if 'exclusiveMinimum' in schema else ''}{low:,g}" if low is not None else ""
    end = f"{'below ' if 'exclusiveMaximum' in schema else ''}{_number(high)}" if high is not None else ""
    if begin and end:
        return f", {begin} to {end}"
    return f", {'at least ' if low is not None and 'exclusiveMinimum' not in schema else ''}{begin}" if begin else f", at most {end}" if end else ""


def _number(value: float) -> str:
    return f"{int(value):,}" if float(value).is_integer() else f"{value:g}"


def _bounds(schema: Schema, least: str, most: str, unit: str) -> str:
    low, high = schema.get(least, 0), schema.get(most)
    if high is None:
        return f", at least {low:,} {unit}" if low else ""
    return f", {low:,} to {high:,} {unit}" if low else f", up to {high:,} {unit}"
