"""A JSON schema in the words that llguidance knows: what others say is said with those, exactly or, for `uniqueItems`, as far as it goes.

What cannot be said so is refused. What comes out never allows more than the schema does, but for `uniqueItems` of values that are not few. The library
joins what `allOf` lists, so most words become one more part of it. Works on the schema itself. Knows no tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations
from math import perm
from types import MappingProxyType
from typing import Any

from modules.engine.regex_bounds import split_ahead
from modules.engine.schema_names import keep_names
from modules.engine.schema_parts import (
    Schema,
    SchemaError,
    add,
    allowed_values,
    followed,
    is_anything,
    key,
    types_of,
    without_notes,
)

VALUES = frozenset({"enum", "const", "default", "examples", "example"})  # keywords whose values are no schemas
NAMES = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies"})  # keywords with schemas by names, which may be any of those words
COMBINED = ("$ref", "allOf", "anyOf", "oneOf", "if", "dependentSchemas", "dependencies")
SILENT = ("$dynamicAnchor", "$recursiveAnchor", "$vocabulary")  # say nothing about a text
# What came with later drafts says nothing in a schema of an earlier one
SINCE_2019 = ("unevaluatedProperties", "unevaluatedItems", "dependentRequired", "dependentSchemas", "minContains", "maxContains", "$dynamicRef", "$recursiveRef")
SINCE_7 = (*SINCE_2019, "if", "then", "else")
UNKNOWN = MappingProxyType({"draft-07": SINCE_2019, "draft-06": SINCE_7, "draft-04": (*SINCE_7, "propertyNames", "contains")})
LEFT = MappingProxyType({
    "contains": "what a list has to contain cannot be kept to while it is written; describe its items, or its first ones with prefixItems",
    "$dynamicRef": "only $ref is followed; write that",
    "$recursiveRef": "only $ref is followed; write that",
    "unevaluatedItems": "beside other schemas of the list it cannot be kept to; close the list with items: false",
})  # fmt: skip
MOST_COUNTED = 50  # properties one of which has to come
MOST_ORDERS = 120  # of one list of different values: all of five
MOST_PLACES = 1_200  # in all such lists together: two of five values


def put_plainly(schema: Schema) -> None:
    """Replace all words that llguidance does not know; a schema without them stays as it is.

    Raises:
        SchemaError: the schema says what cannot be kept to.
    """
    silent = (*SILENT, *next((words for draft, words in UNKNOWN.items() if f"/{draft}/" in str(schema.get("$schema"))), ()))
    try:
        for part in inner_schemas(schema):
            for word in silent:
                part.pop(word, None)
        for part in inner_schemas(schema):
            if "unevaluatedProperties" in part:
                _close_properties(schema, part)
        room, waiting = MOST_PLACES, [schema]
        for whole in waiting:
            for part in inner_schemas(whole):
                if "propertyNames" in part:
                    waiting += keep_names(schema, part)
                room -= _put(schema, part, room)
    except (TypeError, AttributeError) as error:
        raise SchemaError("one of its keywords has a value of a type that JSON Schema does not give it") from error


def _put(root: Schema, part: Schema, room: int) -> int:
    """One part; how many places the orders of its values take."""
    if isinstance(part.get("pattern"), str) and (patterns := split_ahead(part["pattern"])):
        part["pattern"] = patterns.pop()
        for pattern in patterns:
            add(part, {"pattern": pattern})
    _depend(part)
    _decide(root, part)
    if "not" in part:
        _exclude(root, part)
    taken = _differ(root, part, room) if "uniqueItems" in part else 0
    _close_items(part)
    _contain(part)
    _count_properties(part)
    for word, cure in LEFT.items():
        if word in part:
            raise SchemaError(f"{word}: {cure}")
    return taken


def inner_schemas(schema: Schema) -> Iterator[Schema]:
    """The schema and all in it, those that were put in on the way too; names and values that are only compared are left out."""
    waiting: list[tuple[Any, bool]] = [(schema, False)]  # and whether its keys are names
    while waiting:
        part, has_names = waiting.pop()
        if isinstance(part, dict):
            if not has_names:
                yield part
            waiting += [(inner, not has_names and key in NAMES) for key, inner in part.items() if has_names or key not in VALUES]
        elif isinstance(part, list):
            waiting += [(inner, False) for inner in part]


# ---- what is not named elsewhere -------------------------------------------------------------------------------------


def _close_properties(root: Schema, part: Schema) -> None:
    """`unevaluatedProperties`: where all that is described is known without a text, the same as `additionalProperties` with all of it."""
    others = part.pop("unevaluatedProperties")
    if is_anything(others) or "additionalProperties" in part:
        return
    if not any(word in part for word in COMBINED):
        part["additionalProperties"] = others
        return
    if others is not False:
        raise SchemaError("unevaluatedProperties: beside other schemas of the object only false can be kept to")
    names: Schema = {}
    patterns: Schema = {}
    if _describes_all(root, part, names, patterns, set()):
        return
    add(part, {"properties": names, **({"patternProperties": patterns} if patterns else {}), "additionalProperties": False})


def _describes_all(root: Schema, part: Any, names: Schema, patterns: Schema, seen: set[int], hops: int = 0) -> bool:
    """Collects the names and patterns that a schema and those it is made of describe; whether they speak of every other name too."""
    if not isinstance(part, dict) or id(part) in seen:
        return False
    seen.add(id(part))
    if any(word in part for word in ("anyOf", "oneOf", "if", "dependentSchemas", "dependencies")) or hops > 64:
        raise SchemaError("unevaluatedProperties: beside a choice of schemas it cannot be kept to; say additionalProperties: false in each")
    if "additionalProperties" in part or "unevaluatedProperties" in part:
        return True
    for found, word in ((names, "properties"), (patterns, "patternProperties")):
        found.update(dict.fromkeys(part.get(word) or (), True))
    further = [*(part.get("allOf") or ()), *([followed(root, {"$ref": part["$ref"]})] if "$ref" in part else ())]
    answers = [_describes_all(root, inner, names, patterns, seen, hops + 1) for inner in further]  # all of them, as each collects
    return any(answers)


def _close_items(part: Schema) -> None:
    """`unevaluatedItems` of a list that no other schema speaks of."""
    if "unevaluatedItems" not in part or any(word in part for word in (*COMBINED, "contains")):
        return
    others = part.pop("unevaluatedItems")
    if isinstance(part.get("items"), list):
        part.setdefault("additionalItems", others)
    else:
        part.setdefault("items", others)


# ---- what depends on something ---------------------------------------------------------------------------------------


def _depend(part: Schema) -> None:
    """Either the name is not there, or what it asks for holds."""
    found = [item for word in ("dependentRequired", "dependentSchemas", "dependencies") for item in dict(part.pop(word, None) or {}).items()]
    for name, asked in found:
        holds = {"required": [name, *asked]} if isinstance(asked, list) else {"required": [name], "allOf": [asked]}
        add(part, {"anyOf": [{"properties": {name: False}}, holds]})


def _decide(root: Schema, part: Schema, around: tuple[Schema, ...] = ()) -> None:
    """`if`: the cases in which it holds, each with `then`, and those in which it does not, with `else`. Those in `allOf`, `then` and `else` see the properties around them."""
    scope = (part, *around)
    members = [member for member in part.get("allOf") or () if isinstance(member, dict) and "if" in member]
    for one in (part, *members):
        condition, then, otherwise = one.pop("if", None), one.pop("then", True), one.pop("else", True)
        if condition is None or (is_anything(then) and is_anything(otherwise)):
            continue
        holds, fails = _cases(root, condition, scope)
        for result in (then, otherwise):
            if isinstance(result, dict):
                _decide(root, result, scope)
        add(one, {"anyOf": [{"anyOf": cases, "allOf": [result]} for cases, result in ((holds, then), (fails, otherwise))]})


def _cases(root: Schema, condition: Any, scope: tuple[Schema, ...]) -> tuple[list[Schema], list[Schema]]:
    """Schemas one of which fits where a condition holds, and where it does not."""
    asked = without_notes(condition) if isinstance(condition, dict) else {}
    if asked.get("type") == "object":
        del asked["type"]
    needed = asked.get("required", [])
    if set(asked) == {"required"} and len(needed) == 1:
        return [{"required": needed}], [{"properties": {needed[0]: False}}]
    tested = asked.get("properties")
    if asked.keys() <= {"properties", "required"} and isinstance(tested, dict) and len(tested) == 1 and {*needed} <= {*tested}:
        name = next(iter(tested))
        wanted = allowed_values(root, tested[name])
        listed = (allowed_values(root, (part.get("properties") or {}).get(name)) for part in scope)
        known = next((values for values in listed if values is not None), None)
        if wanted is not None and known is not None:
            keys = {*map(key, wanted)}
            hits, misses = [value for value in known if key(value) in keys], [value for value in known if key(value) not in keys]
            comes = any(name in (part.get("required") or ()) for part in scope)
            absent = [{"properties": {name: False}}] if needed and not comes else []
            return [{"properties": {name: {"enum": hits}}, "required": needed}], [{"properties": {name: {"enum": misses}}, "required": [name]}, *absent]
    raise SchemaError("if: only whether a property is there, or which of the values that an enum beside it lists it has, can be kept to; write anyOf with a schema for each case")


# ---- what is excluded ------------------------------------------------------------------------------------------------


def _exclude(root: Schema, part: Schema) -> None:
    """`not` of everything, of names, of types, or of some of the values that an enum beside it lists."""
    waiting = [part.pop("not")]
    while waiting:
        excluded = waiting.pop()
        if excluded is False:
            continue
        asked = without_notes(excluded) if isinstance(excluded, dict) else {}
        if not asked:
            part["enum"] = []
        elif set(asked) == {"anyOf"} and isinstance(asked["anyOf"], list):
            waiting += asked["anyOf"]
        elif {"required"} <= set(asked) <= {"required", "type"} and asked.get("type", "object") == "object":
            if types_of(part) != ["object"]:
                raise SchemaError("not: names can be excluded where the type is object and nothing else")
            add(part, {"anyOf": [{"properties": {name: False}} for name in asked["required"]] or [{"enum": []}]})
        elif set(asked) == {"type"}:
            _exclude_types(part, types_of(asked))
        else:
            _exclude_values(root, part, asked)


def _exclude_types(part: Schema, excluded: list[str]) -> None:
    left = [name for name in types_of(part) if name not in excluded and not (name == "integer" and "number" in excluded)]
    if "integer" in excluded and "number" in left:
        raise SchemaError("not: numbers that are no integers cannot be asked for; leave it out")
    part.update({"type": left if len(left) > 1 else left[0]} if left else {"enum": []})


def _exclude_values(root: Schema, part: Schema, asked: Schema) -> None:
    excluded = allowed_values(root, asked) if set(asked) <= {"enum", "const", "type"} else None
    known = allowed_values(root, {key: value for key, value in part.items() if key in ("enum", "const", "type")})
    if excluded is None or known is None:
        raise SchemaError("not: only names, types and values that an enum beside it lists can be excluded; say what may be written instead")
    part.pop("const", None)
    keys = {*map(key, excluded)}
    part["enum"] = [value for value in known if key(value) not in keys]


# ---- how often -------------------------------------------------------------------------------------------------------


def _differ(root: Schema, part: Schema, room: int) -> int:
    """`uniqueItems`: of few values all orders, of more at most as many as there are, of others nothing. How many places the orders take."""
    values = allowed_values(root, part.get("items")) if part.pop("uniqueItems") is True else None
    if values is None or part.keys() & {"prefixItems", "additionalItems", "contains", *COMBINED}:
        return 0
    most: int = min(len(values), part.get("maxItems", len(values)))
    orders = perm(len(values), most) if most <= MOST_ORDERS else MOST_ORDERS + 1
    part["maxItems"] = most
    if part.get("type") != "array" or most < 2 or orders > MOST_ORDERS or orders * most > room:
        return 0
    counts = {"minItems": part.pop("minItems", 0), "maxItems": part.pop("maxItems")}
    del part["items"]
    part["anyOf"] = [
        # As lists of all drafts say it: the library goes by `additionalItems`
        {"type": "array", "items": [{"enum": [value]} for value in order], "additionalItems": False, **counts}
        for order in permutations(values, most)
    ]
    return orders * most


def _contain(part: Schema) -> None:
    """`contains` of anything is a count, and without it its counts say nothing."""
    least, most = part.pop("minContains", 1), part.pop("maxContains", None)
    if "contains" not in part:
        return
    if is_anything(part["contains"]):
        del part["contains"]
        part["minItems"] = max(least, part.get("minItems", 0))
        if most is not None:
            part["maxItems"] = min(most, part.get("maxItems", most))
    elif least == 0 and most is None:
        del part["contains"]


def _count_properties(part: Schema) -> None:
    """At least one of the properties that there can be, which the library counts only where all have to come."""
    names, needed = part.get("properties"), part.get("required") or ()
    if not isinstance(names, dict) or part.get("additionalProperties") is not False or "patternProperties" in part or set(names) <= {*needed} or len(names) > MOST_COUNTED:
        return
    if "maxProperties" in part and part["maxProperties"] >= len(names):
        del part["maxProperties"]
    if "minProperties" in part and part["minProperties"] <= max(1, len(needed)):
        least = part.pop("minProperties")
        if len(needed) < least:
            add(part, {"anyOf": [{"required": [name]} for name in names]})
