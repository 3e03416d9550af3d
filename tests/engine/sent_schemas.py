"""JSON schemas as people send them, each with documents that fit and some that do not: what pydantic and zod write, OpenAI's strict mode, OpenAPI, written by hand."""

from __future__ import annotations

import datetime
import decimal
import enum
import ipaddress
import uuid
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AnyUrl, BaseModel, ConfigDict, Field, RootModel, StringConstraints, TypeAdapter


@dataclass(frozen=True, slots=True)
class Sent:
    """One schema. `loose`: what is written though it does not fit, as the word is not kept to; `refused`: words of the refusal."""

    name: str
    schema: Any
    good: tuple[Any, ...] = ()
    bad: tuple[Any, ...] = ()
    loose: tuple[Any, ...] = ()
    refused: str = ""


class Colour(enum.StrEnum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Address(BaseModel):
    street: str
    zip_code: str = Field(pattern=r"^\d{5}$")


class Person(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str = Field(min_length=1, max_length=20, description="How they are called")
    age: int = Field(ge=0, le=150)
    address: Address | None = None
    tags: list[str] = Field(default_factory=list, max_length=3)


class Node(BaseModel):
    value: int
    children: list[Node] = []


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]
    good: bool


class Pet(RootModel[Annotated[Cat | Dog, Field(discriminator="kind")]]):
    pass


class Order(BaseModel):
    quantities: dict[Colour, int]
    notes: dict[str, str] = {}
    chosen: set[Colour] = set()


ID = "123e4567-e89b-12d3-a456-426614174000"
Word = Annotated[str, StringConstraints(pattern="^[a-z]+$")]
ShortWord = Annotated[str, StringConstraints(pattern="^[a-z]+$", max_length=4)]


def _typed(name: str, kind: Any, good: tuple[Any, ...], bad: tuple[Any, ...], **more: Any) -> Sent:
    return Sent(f"pydantic {name}", TypeAdapter(kind).json_schema(), good, bad, **more)


PYDANTIC = (
    _typed("model", Person, ({"name": "Ada", "age": 36}, {"name": "A", "age": 0, "address": {"street": "x", "zip_code": "12345"}, "tags": ["a"]}, {"name": "A", "age": 1, "address": None}),
           ({"name": "", "age": 1}, {"name": "A"}, {"name": "A", "age": 151}, {"name": "A", "age": 1, "more": 1}, {"name": "A", "age": 1, "address": {"street": "x", "zip_code": "1"}})),
    _typed("recursive model", Node, ({"value": 1}, {"value": 1, "children": [{"value": 2, "children": []}]}), ({"children": []}, {"value": 1, "children": [{}]})),
    _typed("discriminated union", Pet, ({"kind": "cat", "lives": 9}, {"kind": "dog", "good": True}), ({"kind": "cat", "good": True}, {"kind": "cow"})),
    _typed("enum", Colour, ("red", "blue"), ("green", 1)),
    _typed("integer enum", Level, (1, 2), (3, "1")),
    _typed("literal", Literal["a", 1, True, None], ("a", 1, True, None), ("b", 2, False)),
    _typed("optional", int | None, (1, None), ("1",)),
    _typed("list of any", list, ([], [1, "a", None]), ({},)),
    _typed("bounded list", Annotated[list[int], Field(min_length=1, max_length=2)], ([1], [1, 2]), ([], [1, 2, 3])),
    _typed("tuple", tuple[int, str], ([1, "a"],), ([1], ["a", 1], [1, "a", 2])),
    _typed("tuple of any length", tuple[int, ...], ([], [1, 2]), (["a"],)),
    _typed("dict", dict[str, int], ({}, {"a": 1, "b": 2}), ({"a": "x"},)),
    _typed("dict of any", dict[str, Any], ({}, {"a": [None]}), ([],)),
    _typed("dict by enum", dict[Colour, int], ({}, {"red": 1}, {"red": 1, "blue": 2}), ({"green": 1}, {"red": "x"})),
    _typed("dict by literals", dict[Literal["a", "b"], list[int]], ({"a": [1]}, {"a": [], "b": [2]}), ({"c": []}, {"a": 1})),
    _typed("dict by literals, one at least", Annotated[dict[Literal["a", "b"], int], Field(min_length=1)], ({"a": 1},), ({}, {"c": 1})),
    _typed("dict by id", dict[uuid.UUID, int], ({ID: 1},), ({ID: "x"},)),
    _typed("dict by day", dict[datetime.date, int], ({"2026-11-29": 1},), ({"2026-11-29": "x"},)),
    _typed("dict by address", dict[AnyUrl, int], ({"https://a.b": 1},), ({"": 1},)),
    _typed("dict by pattern", dict[Word, int], ({"ab": 1},), ({"ab": "x"},)),
    _typed("dict by pattern and length", dict[ShortWord, int], ({"ab": 1},), ({"ab": "x"}, {"abcde": 1})),
    _typed("dict by length", dict[Annotated[str, StringConstraints(min_length=2)], int], ({"ab": 1},), ({"a": 1}, {"ab": "x"})),
    _typed("set of strings", set[str], ([], ["a", "b"]), ([1],), loose=(["a", "a"],)),
    _typed("set of numbers, bounded", Annotated[set[int], Field(min_length=1, max_length=2)], ([1, 2],), ([], [1, 2, 3]), loose=([1, 1],)),
    _typed("set of an enum", set[Colour], ([], ["blue"], ["blue", "red"]), (["red", "red"], ["green"], ["red", "blue", "red"])),
    _typed("frozen set of literals", frozenset[Literal[1, 2, 3]], ([3, 1, 2],), ([1, 1], [4])),
    _typed("model with dict and set", Order, ({"quantities": {"red": 2}, "chosen": ["blue", "red"]}, {"quantities": {}, "notes": {"a": "b"}}),
           ({"quantities": {"green": 2}}, {"quantities": {}, "chosen": ["red", "red"]}, {})),
    _typed("date and time", datetime.datetime, ("2026-11-29T12:00:00Z",), ("today",)),
    _typed("duration", datetime.timedelta, ("P1DT2H",), ("two hours",)),
    _typed("decimal", decimal.Decimal, (1.5, "1.5"), (None, True)),
    _typed("address of a machine", ipaddress.IPv4Address, ("10.0.0.1",), ("10.0.0",)),
    _typed("id", uuid.UUID, (ID,), ("123",)),
)  # fmt: skip

ZOD = "https://json-schema.org/draft/2020-12/schema"
UUIDS = "^([0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[1-8][0-9a-fA-F]{3}-[89abAB][0-9a-fA-F]{3}-[0-9a-fA-F]{12}|00000000-0000-0000-0000-000000000000)$"
HOSTS = r"^(?=.{1,253}\.?$)[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[-0-9a-zA-Z]{0,61}[0-9a-zA-Z])?)*\.?$"
DURATIONS = r"^P(?:(\d+W)|(?!.*W)(?=\d|T\d)(\d+Y)?(\d+M)?(\d+D)?(T(?=\d)(\d+H)?(\d+M)?(\d+([.,]\d+)?S)?)?)$"


def _zod(name: str, schema: dict[str, Any], *given: tuple[Any, ...], **more: Any) -> Sent:
    return Sent(f"zod {name}", {"$schema": ZOD, **schema}, *given, **more)


def _record(names: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "object", "propertyNames": {"type": "string", **names}, "additionalProperties": {"type": "number"}, **more}


ZODS = (
    _zod("object", {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "number"}}, "required": ["a"], "additionalProperties": False}, ({"a": "x"}, {"a": "x", "b": 1.5}), ({}, {"a": "x", "c": 1})),
    _zod("loose object", {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": {}}, ({"a": "x", "b": [1]},), ({},)),
    _zod("record", _record({}), ({}, {"a": 1}), ({"a": "x"},)),
    _zod("record by enum", _record({"enum": ["a", "b"]}, required=["a", "b"]), ({"a": 1, "b": 2},), ({"a": 1}, {"a": 1, "b": 2, "c": 3})),
    _zod("part of a record by enum", _record({"enum": ["a", "b"]}), ({}, {"b": 2}), ({"c": 1},)),
    _zod("record by pattern", _record({"pattern": "^[a-z]+$"}), ({"ab": 1},), ({"A": 1}, {"ab": "x"})),
    _zod("record by pattern and length", _record({"minLength": 1, "pattern": "^[a-z]+$"}), ({"ab": 1},), ({"": 1},)),
    _zod("record by length", _record({"minLength": 1, "maxLength": 3}), ({"ab": 1},), ({"": 1}, {"abcd": 1})),
    _zod("record by id", _record({"format": "uuid", "pattern": UUIDS}), ({ID: 1},), ({"x": 1},)),
    _zod("record by number", _record({"pattern": r"^-?\d+(?:\.\d+)?$"}), ({"-1.5": 1},), ({"x": 1},)),
    _zod("record by a union", {**_record({}), "propertyNames": {"anyOf": [{"type": "string", "const": "a"}, {"type": "string", "enum": ["b"]}]}}, ({"a": 1, "b": 2},), ({"c": 1},)),
    _zod("JSON", {"$ref": "#/$defs/j", "$defs": {"j": {"anyOf": [
        {"type": "string"}, {"type": "number"}, {"type": "boolean"}, {"type": "null"}, {"type": "array", "items": {"$ref": "#/$defs/j"}},
        {"type": "object", "propertyNames": {"type": "string"}, "additionalProperties": {"$ref": "#/$defs/j"}},
    ]}}}, ({"a": [{"b": None}]}, "x"), ()),
    _zod("record of itself by enum", {"type": "object", "propertyNames": {"enum": ["left", "right"]}, "additionalProperties": {"$ref": "#"}}, ({"left": {"right": {}}},), ({"up": {}}, {"left": 1})),
    _zod("nothing", {"type": "object", "properties": {"a": {"not": {}}}, "additionalProperties": False}, ({},), ({"a": 1},)),
    _zod("discriminated union", {"oneOf": [
        {"type": "object", "properties": {"t": {"type": "string", "const": tag}, "x": inner}, "required": ["t", "x"], "additionalProperties": False}
        for tag, inner in (("a", {"type": "number"}), ("b", {"type": "string"}))
    ]}, ({"t": "a", "x": 1}, {"t": "b", "x": "1"}), ({"t": "a", "x": "1"},)),
    _zod("tuple", {"type": "array", "prefixItems": [{"type": "string"}, {"type": "number"}], "items": False, "minItems": 2, "maxItems": 2}, (["a", 1],), (["a"], ["a", 1, 2])),
    _zod("nullable", {"type": ["string", "null"]}, ("a", None), (1,)),
    _zod("recursive object", {"type": "object", "properties": {"v": {"type": "number"}, "kids": {"type": "array", "items": {"$ref": "#"}}}, "required": ["v", "kids"], "additionalProperties": False},
         ({"v": 1, "kids": [{"v": 2, "kids": []}]},), ({"v": 1},)),
    _zod("begins and ends", {"type": "string", "format": "ends_with", "allOf": [{"pattern": "^a.*"}, {"pattern": ".*b$"}]}, ("ab", "axb"), ("a", "xb")),
    _zod("email", {"type": "string", "format": "email", "pattern": r"^(?:[A-Za-z0-9_'+\-]+\.)*[A-Za-z0-9_'+\-]*[A-Za-z0-9_+-]@(?:[A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$"}, ("a@b.de",), ("a@b", "x")),
    _zod("safe integer", {"type": "integer", "minimum": -9007199254740991, "maximum": 9007199254740991}, (0, -5), (1.5,)),
    _zod("positive halves", {"type": "number", "exclusiveMinimum": 0, "multipleOf": 0.5}, (0.5, 3), (0, 0.3)),
    _zod("host", {"type": "string", "format": "hostname", "pattern": HOSTS}, ("a.example",), ("-a", "a..b")),
    _zod("duration", {"type": "string", "format": "duration", "pattern": DURATIONS}, refused="look-around"),
)  # fmt: skip


def _strict(properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False, **more}


STEP = _strict({"explanation": {"type": "string"}, "output": {"type": "string"}})
STRICT = (
    Sent("OpenAI steps", _strict({"steps": {"type": "array", "items": {"$ref": "#/$defs/step"}}, "final_answer": {"type": "string"}}, **{"$defs": {"step": STEP}}),
         ({"steps": [{"explanation": "a", "output": "b"}], "final_answer": "c"},), ({"steps": []}, {"steps": [{}], "final_answer": "c"})),
    Sent("OpenAI optional field", _strict({"a": {"type": ["string", "null"], "description": "perhaps"}}), ({"a": None}, {"a": "x"}), ({},)),
    Sent("OpenAI recursion", _strict({"kind": {"type": "string", "enum": ["div", "text"]}, "children": {"type": "array", "items": {"$ref": "#"}}}), ({"kind": "div", "children": [{"kind": "text", "children": []}]},), ({"kind": "p", "children": []},)),
    Sent("OpenAI union", _strict({"item": {"anyOf": [_strict({"n": {"type": "number"}}), _strict({"s": {"type": "string"}})]}}), ({"item": {"s": "x"}},), ({"item": {"s": 1}},)),
    Sent("OpenAI linked list", _strict({"list": {"$ref": "#/$defs/one"}}, **{"$defs": {"one": _strict({"value": {"type": "number"}, "next": {"anyOf": [{"$ref": "#/$defs/one"}, {"type": "null"}]}})}}),
         ({"list": {"value": 1, "next": {"value": 2, "next": None}}},), ({"list": None},)),
    Sent("OpenAPI schema", {"$ref": "#/components/schemas/Pet", "components": {"schemas": {"Pet": {"type": "object", "required": ["id"], "properties": {
        "id": {"type": "integer", "format": "int64"}, "status": {"type": "string", "enum": ["sold", "here"], "example": "here"}}, "xml": {"name": "pet"}}}}}, ({"id": 1, "status": "here"},), ({}, {"id": 1, "status": "x"})),
    Sent("OpenAPI parent", {"allOf": [{"$ref": "#/$defs/base"}, {"type": "object", "properties": {"b": {"type": "integer"}}, "required": ["b"]}], "$defs": {
        "base": {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "discriminator": {"propertyName": "a"}}}}, ({"a": "x", "b": 1},), ({"a": "x"},)),
)  # fmt: skip

INTEGER = {"type": "integer"}
METHOD = {"method": {"enum": ["card", "cash"]}, "number": {"type": "string", "pattern": r"^\d{4}$"}, "till": INTEGER}


def _when(method: str, needed: str) -> dict[str, Any]:
    return {"if": {"properties": {"method": {"const": method}}, "required": ["method"]}, "then": {"required": [needed]}}


WRITTEN = (
    Sent("draft 4", {"$schema": "http://json-schema.org/draft-04/schema#", "type": "object", "properties": {"a": {"type": "integer", "minimum": 0, "exclusiveMinimum": True}}, "required": ["a"]}, ({"a": 1},), ({"a": 0},)),
    Sent("draft 7 tuple", {"$schema": "http://json-schema.org/draft-07/schema#", "definitions": {"x": {"const": "x"}}, "type": "array", "items": [{"$ref": "#/definitions/x"}], "additionalItems": False}, (["x"],), (["x", 1],)),
    Sent("draft 7 set", {"$schema": "http://json-schema.org/draft-07/schema#", "type": "array", "items": {"enum": ["a", "b", "c"]}, "uniqueItems": True, "minItems": 1}, (["b"], ["c", "a", "b"]), ([], ["a", "a"])),
    Sent("a list that may repeat", {"type": "array", "items": INTEGER, "uniqueItems": False}, ([1, 1],), (["a"],)),
    Sent("many tags once each", {"type": "array", "items": {"enum": list("abcdefghij")}, "uniqueItems": True}, (list("jihgfedcba"),), (list("abcdefghija"),), (["a", "a"],)),
    Sent("yes and no once each", {"type": "array", "items": {"type": "boolean"}, "uniqueItems": True}, ([True, False], []), ([True, True],)),
    Sent("a card needs its address", {"type": "object", "properties": {"card": INTEGER, "address": {"type": "string"}}, "dependentRequired": {"card": ["address"]}, "additionalProperties": False}, ({}, {"address": "x"}, {"card": 1, "address": "x"}), ({"card": 1},)),
    Sent("the same in draft 7", {"type": "object", "properties": {"card": INTEGER, "address": {"type": "string"}}, "dependencies": {"card": {"required": ["address"]}}}, ({}, {"card": 1, "address": "x"}), ({"card": 1},)),
    Sent("closed by unevaluatedProperties", {"type": "object", "properties": {"a": INTEGER}, "unevaluatedProperties": False}, ({"a": 1},), ({"b": 1},)),
    Sent("parent closed by unevaluatedProperties", {"$ref": "#/$defs/base", "properties": {"b": INTEGER}, "unevaluatedProperties": False, "$defs": {"base": {"type": "object", "properties": {"a": INTEGER}, "required": ["a"]}}},
         ({"a": 1}, {"a": 1, "b": 2}), ({"b": 1}, {"a": 1, "c": 1})),
    Sent("cases by a value", {"type": "object", "properties": METHOD, "required": ["method"], "additionalProperties": False, "allOf": [_when("card", "number"), _when("cash", "till")]},
         ({"method": "card", "number": "1234"}, {"method": "cash", "till": 3}), ({"method": "card"}, {"method": "cash", "number": "1234"}, {"method": "cheque"})),
    Sent("a case and another", {"type": "object", "properties": METHOD, "if": {"properties": {"method": {"const": "card"}}, "required": ["method"]}, "then": {"required": ["number"]}, "else": {"properties": {"number": False}}},
         ({}, {"method": "cash", "till": 1}, {"method": "card", "number": "1234"}), ({"method": "card"}, {"number": "1234"}, {"method": "cash", "number": "1234"})),
    Sent("a case, another and the rest", {"type": "object", "properties": {"k": {"enum": ["a", "b", "c"]}, "x": INTEGER}, "required": ["k"], "if": {"properties": {"k": {"const": "a"}}},
          "else": {"if": {"properties": {"k": {"const": "b"}}}, "then": {"required": ["x"]}, "else": {"properties": {"x": False}}}},
         ({"k": "a"}, {"k": "a", "x": 1}, {"k": "b", "x": 1}, {"k": "c"}), ({"k": "b"}, {"k": "c", "x": 1})),
    Sent("not both", {"type": "object", "properties": {"a": INTEGER, "b": INTEGER}, "not": {"required": ["a", "b"]}}, ({}, {"a": 1}, {"b": 1}), ({"a": 1, "b": 1},)),
    Sent("one of both at least", {"type": "object", "properties": {"a": INTEGER, "b": INTEGER}, "additionalProperties": False, "minProperties": 1}, ({"a": 1}, {"b": 1}, {"a": 1, "b": 1}), ({},)),
    Sent("either is needed", {"type": "object", "properties": {"a": INTEGER, "b": INTEGER}, "anyOf": [{"required": ["a"]}, {"required": ["b"]}]}, ({"a": 1}, {"b": 1}), ({},)),
    Sent("anything but nothing", {"type": ["string", "null", "integer"], "not": {"type": "null"}}, ("a", 1), (None,)),
    Sent("all colours but one", {"enum": ["red", "green", "blue"], "not": {"enum": ["green"]}}, ("red", "blue"), ("green",)),
    Sent("a password", {"type": "string", "pattern": r"^(?=.*[a-z])(?=.*\d)[a-z\d]{4,12}$"}, ("abc1", "1a23"), ("abcd", "1234", "ab1")),
    Sent("extension words", {"type": "object", "x-order": ["a"], "properties": {"a": {"type": "string", "x-hint": {"widget": "text"}, "deprecated": True, "contentMediaType": "text/plain"}}}, ({"a": "x"},), ({"a": 1},)),
    Sent("names that are words", {"type": "object", "properties": {"not": INTEGER, "if": INTEGER, "contains": INTEGER, "uniqueItems": INTEGER}, "additionalProperties": False}, ({"not": 1, "if": 2, "contains": 3, "uniqueItems": 4},), ({"then": 1},)),
    Sent("no a at the beginning", {"type": "string", "pattern": "^(?!a).*$"}, refused="look-around"),
    Sent("the same word twice", {"type": "string", "pattern": r"^(\w+) \1$"}, refused="refers back"),
    Sent("a list that has a one", {"type": "array", "items": INTEGER, "contains": {"const": 1}}, refused="contains: "),
    Sent("no text with an a", {"type": "string", "not": {"pattern": "a"}}, refused="not: "),
    Sent("a case by a number", {"type": "object", "properties": {"n": INTEGER}, "if": {"properties": {"n": {"minimum": 5}}}, "then": {"required": ["m"]}}, refused="if: "),
    Sent("a choice closed as a whole", {"type": "object", "anyOf": [{"properties": {"a": INTEGER}}, {"properties": {"b": INTEGER}}], "unevaluatedProperties": False}, refused="unevaluatedProperties: "),
    Sent("a dynamic reference", {"type": "array", "items": {"$dynamicRef": "#node"}}, refused=r"\$dynamicRef: "),
)  # fmt: skip

ALL = (*PYDANTIC, *ZODS, *STRICT, *WRITTEN)
