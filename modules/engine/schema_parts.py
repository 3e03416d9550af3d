"""Pieces of JSON schemas: where a reference leads, which values or types a schema leaves, whether it says anything. Knows nothing of any library."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import unquote

Schema = dict[str, Any]
NOTES = frozenset({"$schema", "$comment", "title", "description", "default", "examples", "example", "deprecated", "readOnly", "writeOnly"})  # say nothing about a text
TYPES = ("null", "boolean", "number", "string", "array", "object")
MOST_HOPS = 32  # references in a row


class SchemaError(ValueError):
    """A schema says what cannot be kept to while a text is written; the message begins with the word it says it with."""


def without_notes(schema: Schema) -> Schema:
    """What a schema says about a text."""
    return {key: value for key, value in schema.items() if key not in NOTES}


def is_anything(schema: Any) -> bool:
    """Whether a schema says nothing at all."""
    return schema is True or (isinstance(schema, dict) and not without_notes(schema))


def add(schema: Schema, part: Schema) -> None:
    """Let one more schema hold beside it."""
    schema["allOf"] = [*(schema.get("allOf") or ()), part]


def move(root: Schema, schemas: list[Any], moved: list[Schema]) -> list[Any]:
    """References to schemas that stand in one more place from now on, at the end of the whole: so a schema that is wanted often is written once."""
    references: list[Any] = []
    for schema in schemas:
        if isinstance(schema, dict):
            places = root.setdefault("$defs", {})
            name = next(name for name in map("once {}".format, range(len(places), 2 * len(places) + 1)) if name not in places)
            places[name] = schema
            moved.append(schema)
            schema = {"$ref": f"#/$defs/{name.replace(' ', '%20')}"}
        references.append(schema)
    return references


def types_of(schema: Schema) -> list[str]:
    """The types that a schema names, or all."""
    names = schema.get("type", list(TYPES))
    return list(names) if isinstance(names, list) else [str(names)]


def followed(root: Schema, schema: Any) -> Any:
    """What a schema that is only a reference refers to inside the whole, and where that leads; another one as it is.

    Raises:
        SchemaError: it leads nowhere, or in a circle.
    """
    for _ in range(MOST_HOPS):
        if not isinstance(schema, dict) or "$ref" not in schema or set(without_notes(schema)) != {"$ref"}:
            return schema
        schema = _at(root, schema["$ref"])
    raise SchemaError("$ref: the reference leads in a circle, or through too many others")


def _at(root: Schema, reference: Any) -> Any:
    place: Any = root
    path = unquote(reference[1:]) if isinstance(reference, str) and reference.startswith("#") else "-"
    if path and not path.startswith("/"):
        raise SchemaError(f"$ref: {str(reference)[:80]!r} is no place in the schema; write it like #/$defs/name")
    for step in path.split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(place, dict) and name in place:
            place = place[name]
        elif isinstance(place, list) and name.isdecimal() and len(name) < 7 and int(name) < len(place):
            place = place[int(name)]
        else:
            raise SchemaError(f"$ref: there is no {reference[:80]!r} in the schema")
    return place


def key(value: Any) -> str:
    """The same text for two values that are one in JSON, in which true is no number and 1.0 is 1."""
    return json.dumps(int(value) if isinstance(value, float) and value.is_integer() else value, sort_keys=True)


def allowed_values(root: Schema, schema: Any) -> list[Any] | None:
    """The values that a schema lists, each once; None where it lists none, or says more about them than their type."""
    schema = followed(root, schema)
    asked = without_notes(schema) if isinstance(schema, dict) else {"?": ""}
    if asked == {"type": "boolean"}:
        return [False, True]
    if not asked.keys() & {"enum", "const"} or not asked.keys() <= {"enum", "const", "type"} or not isinstance(asked.get("enum", []), list):
        return None
    listed = asked.get("enum", [asked.get("const")])
    if "const" in asked:
        listed = [value for value in listed if key(value) == key(asked["const"])]
    types = types_of(asked)
    return list({key(value): value for value in listed if any(_is(value, name) for name in types)}.values())


def _is(value: Any, name: str) -> bool:
    if isinstance(value, bool) or value is None:
        return name == ("null" if value is None else "boolean")
    if isinstance(value, int | float):
        return name == "number" or (name == "integer" and float(value).is_integer())
    return name == ("string" if isinstance(value, str) else "array" if isinstance(value, list) else "object")
