"""Words that the library does not know, said with those it knows: the same documents fit, and what needs no change gets none."""

from __future__ import annotations

import copy
import functools
import itertools
import json
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from modules.core.errors import InvalidRequest
from modules.core.params import GenerationParams
from modules.engine.constraints import Constraints
from modules.engine.plain_schemas import MOST_ORDERS, MOST_PLACES, put_plainly
from modules.engine.schema_parts import SchemaError
from modules.engine.shapes import json_rule
from tests.engine.sent_schemas import ALL
from tests.fakes import EOS, VOCAB_SIZE, ByteTokenizer

WORDS = ("propertyNames", "uniqueItems", "dependentRequired", "dependentSchemas", "dependencies", "unevaluatedProperties", "unevaluatedItems", "if", "not",
         "contains", "minContains", "minProperties", "(?=")  # fmt: skip
INTEGER, TEXT = {"type": "integer"}, {"type": "string"}


@functools.cache
def constraints() -> Constraints:
    return Constraints(ByteTokenizer(), VOCAB_SIZE)


def plain(schema: Any) -> Any:
    put_plainly(schema)
    return schema


def fits(schema: Any, document: Any) -> bool:
    one = constraints().constraint(GenerationParams(json_schema=schema), {EOS})
    assert one is not None
    for byte in json.dumps(document, separators=(",", ":")).encode():
        if not one.allows(byte):
            return False
        one.advance(byte)
    return one.allows(EOS)


# ---- what is the same ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [one for one in ALL if not one.refused and not any(word in json.dumps(one.schema) for word in WORDS)], ids=lambda sent: sent.name)
def test_a_schema_that_needs_no_change_goes_out_as_it_came(sent: Any) -> None:
    assert json.dumps(plain(copy.deepcopy(sent.schema))) == json.dumps(sent.schema)


def test_names_and_values_that_read_like_words_are_left_alone() -> None:
    words = dict.fromkeys((*WORDS, "then", "else"), INTEGER)
    schema = {"properties": words, "$defs": words, "default": {"not": {}}, "examples": [{"contains": 1}], "const": {"if": True}, "required": ["not"]}
    assert plain(copy.deepcopy(schema)) == schema


@pytest.mark.parametrize(("draft", "words"), [
    ("http://json-schema.org/draft-04/schema#", {"propertyNames": {"enum": []}, "contains": {"const": 1}, "if": {"minimum": 1}, "then": False, "$dynamicRef": "#a"}),
    ("http://json-schema.org/draft-06/schema#", {"if": {"minimum": 1}, "then": False, "dependentRequired": {"a": ["b"]}}),
    ("http://json-schema.org/draft-07/schema#", {"unevaluatedProperties": False, "anyOf": [{"type": "object"}], "dependentSchemas": {"a": False}, "minContains": 1}),
])  # fmt: skip
def test_words_of_later_drafts_say_nothing(draft: str, words: dict[str, Any]) -> None:
    schema = {"$schema": draft, "type": "object", **words}
    assert jsonschema_rs.validator_for(schema).is_valid({"a": 1})
    assert fits(schema, {"a": 1})


NAMES = ("a", "b", "c")
DOCUMENTS = [dict(zip(names, values, strict=True)) for count in range(4) for names in itertools.combinations(NAMES, count) for values in itertools.product((1, "x"), repeat=count)]
TYPES = st.sampled_from([INTEGER, TEXT, {"enum": [1, "x"]}, {"enum": ["x"]}, True, False, {"not": {}}])
SOME = st.lists(st.sampled_from(NAMES), unique=True, max_size=3).map(sorted)


def one_word() -> st.SearchStrategy[dict[str, Any]]:
    """Words that are changed, alone."""
    names = st.one_of(
        SOME.map(lambda listed: {"enum": listed}), st.sampled_from(NAMES).map(lambda name: {"const": name}), st.sampled_from(["^a$", "[bc]", "^[a-b]+$", "^(?=b)b"]).map(lambda text: {"pattern": text}),
        st.sampled_from([{}, True, False, TEXT, INTEGER, {"minLength": 2}, {"maxLength": 1}, {"type": "string", "minLength": 1, "pattern": "^[ac]+$"}, {"$ref": "#/$defs/names"}]),
    )  # fmt: skip
    test = st.one_of(
        st.sampled_from(NAMES).map(lambda name: {"required": [name]}),
        st.builds(lambda name, values, needed: {"properties": {name: values}, **({"required": [name]} if needed else {})}, st.sampled_from(NAMES), st.sampled_from([{"const": 1}, {"enum": ["x"]}]), st.booleans()),
    )
    result = st.one_of(SOME.map(lambda needed: {"required": needed}), st.builds(lambda name, schema: {"properties": {name: schema}}, st.sampled_from(NAMES), TYPES), st.booleans())
    return st.one_of(
        names.map(lambda schema: {"propertyNames": schema}),
        st.builds(lambda schema, count: {"propertyNames": schema, **count}, names, st.sampled_from([{"minProperties": 1}, {"maxProperties": 1}, {"unevaluatedProperties": False}])),
        st.dictionaries(st.sampled_from(NAMES), SOME, max_size=2).map(lambda asked: {"dependentRequired": asked}),
        st.dictionaries(st.sampled_from(NAMES), result, max_size=2).map(lambda asked: {"dependentSchemas": asked}),
        st.dictionaries(st.sampled_from(NAMES), st.one_of(SOME, result), max_size=2).map(lambda asked: {"dependencies": asked, "$schema": "http://json-schema.org/draft-07/schema#"}),
        st.builds(lambda test, then, otherwise: {"if": test, "then": then, "else": otherwise}, test, result, result),
        st.builds(lambda test, then, other, third: {"allOf": [{"if": test, "then": then, "else": {"if": other, "then": third}}]}, test, result, test, result),
        SOME.filter(bool).map(lambda names: {"not": {"required": names}}),
        st.sampled_from([{"unevaluatedProperties": False}, {"unevaluatedProperties": INTEGER}, {"minProperties": 1}, {"allOf": [{"properties": {"c": True}}], "unevaluatedProperties": False}]),
    )


OBJECTS = st.builds(
    lambda properties, required, others, keyed, word: {
        "type": "object", "properties": {name: properties[name] for name in sorted(properties)}, "required": required, **others, **keyed, **word, "$defs": {"names": {"enum": ["a", "c"]}},
    },
    st.dictionaries(st.sampled_from(NAMES), TYPES), SOME, st.sampled_from([{}, {"additionalProperties": False}, {"additionalProperties": INTEGER}]),
    st.sampled_from([{}, {}, {"patternProperties": {"^[bc]$": INTEGER}}]), one_word(),
)  # fmt: skip


def written(schema: Any) -> list[Any]:
    """The documents that may be written."""
    try:
        return [document for document in DOCUMENTS if fits(schema, document)]
    except InvalidRequest as error:
        assume("No text fits" in error.message or "Unsatisfiable" in error.message)
        return []


@settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(schema=OBJECTS)
def test_the_same_documents_fit(schema: Any) -> None:
    """Of objects with up to three members, each with one of two values, in any schema of them that is not refused."""
    valid = jsonschema_rs.validator_for(schema).is_valid
    right = [document for document in DOCUMENTS if valid(document)]
    found = written(schema)
    assert [document for document in found if document not in right] == []
    missing = [document for document in right if document not in found]
    # Names come in the order of the parts of a schema, so only another order may be missing
    assert [document for document in missing if not any(fits(schema, dict(order)) for order in itertools.permutations(document.items()))] == []


@settings(max_examples=50, deadline=None, derandomize=True)
@given(values=st.lists(st.sampled_from([1, 2, "a", True, None, 1.0, "b"]), max_size=6), least=st.integers(0, 2), most=st.one_of(st.none(), st.integers(0, 4)))
def test_lists_of_few_different_values_are_exact(values: list[Any], least: int, most: int | None) -> None:
    """JSON's values: true is no number, and 1.0 is 1."""
    schema = {"type": "array", "items": {"enum": values}, "uniqueItems": True, "minItems": least, **({} if most is None else {"maxItems": most})}
    valid = jsonschema_rs.validator_for(schema).is_valid
    different = [1, 2, "a", True, None, "b"]
    few = len({json.dumps(value) for value in values} - {"1.0"}) <= 4
    for document in ([*listed] for count in range(4) for listed in itertools.product(different, repeat=count) if len({*map(repr, listed)}) >= count - 1):
        try:
            allowed = fits(schema, document)
        except InvalidRequest as error:
            assert "nsatisfiable" in error.message or "No text fits" in error.message
            allowed = False
        assert allowed == valid(document) if few else allowed >= valid(document), document


def test_orders_are_written_out_only_while_there_is_room() -> None:
    tags = {"type": "array", "items": {"enum": list("abcde")}, "uniqueItems": True}
    schema = plain({"properties": {str(number): copy.deepcopy(tags) for number in range(9)}})
    exact = [part for part in schema["properties"].values() if "anyOf" in part]
    assert len(exact) == MOST_PLACES // (MOST_ORDERS * 5)
    assert all(part["maxItems"] == 5 and "uniqueItems" not in part for part in schema["properties"].values() if part not in exact)
    assert plain({"type": "array", "items": {"enum": list(range(6))}, "uniqueItems": True}) == {"type": "array", "items": {"enum": list(range(6))}, "maxItems": 6}


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("schema", "words"), [
    ({"propertyNames": {"not": {}}}, "propertyNames: only enum"),
    ({"propertyNames": {"$ref": "#/$defs/x"}}, "no '#/\\$defs/x' in the schema"),
    ({"propertyNames": {"$ref": "#/$defs/x"}, "$defs": {"x": {"$ref": "#/$defs/x"}}}, "in a circle"),
    ({"propertyNames": {"$ref": "other.json"}}, "no place in the schema"),
    ({"propertyNames": {"allOf": [{"pattern": "a"}, {"pattern": "b"}]}}, "of allOf only one"),
    ({"propertyNames": {"pattern": "^a+b$", "maxLength": 3}}, "write the length into the pattern"),
    ({"propertyNames": {"pattern": "^a"}, "patternProperties": {"b": {}}}, "write one of the two"),
    ({"propertyNames": {"pattern": "^a"}, "properties": {"a": {}}, "additionalProperties": INTEGER}, "write patternProperties"),
    ({"propertyNames": {"pattern": "^a"}, "anyOf": [{"additionalProperties": INTEGER}]}, "beside other schemas"),
    ({"propertyNames": {"enum": ["a"]}, "patternProperties": {"(": {}}}, "the pattern '\\(' cannot be used"),
    ({"propertyNames": {"pattern": "^(?!a)"}, "properties": {"b": {}}}, "look-around"),
    ({"propertyNames": {"pattern": "((a{1000}){1000}){1000}"}, "properties": {"b": {}}}, "too large when its repeats are written out"),
    ({"propertyNames": {"enum": [str(number) for number in range(100)]}, "patternProperties": {str(number): {} for number in range(100)}}, "too many to compare"),
    ({"unevaluatedProperties": False, "anyOf": [{}]}, "additionalProperties: false in each"),
    ({"unevaluatedProperties": INTEGER, "allOf": [{}]}, "only false can be kept to"),
    ({"unevaluatedItems": False, "anyOf": [{}]}, "items: false"),
    ({"contains": {"const": 1}}, "prefixItems"),
    ({"not": {"required": ["a"]}}, "where the type is object"),
    ({"type": "number", "not": {"type": "integer"}}, "no integers"),
    ({"type": "string", "not": {"const": "a"}}, "only names, types and values"),
    ({"if": {"properties": {"a": {"const": 1}}}, "then": {"required": ["b"]}}, "write anyOf"),
    ({"dependentRequired": 5}, "of a type that JSON Schema does not give it"),
    ({"allOf": 5, "propertyNames": {"enum": ["a"]}}, "of a type that JSON Schema does not give it"),
    ({"propertyNames": {"minLength": "a"}}, "of a type that JSON Schema does not give it"),
])  # fmt: skip
def test_what_cannot_be_said_is_refused_with_a_cure(schema: Any, words: str) -> None:
    with pytest.raises(SchemaError, match=words):
        put_plainly(schema)


@pytest.mark.parametrize(("name", "title"), [("json_schema", "The JSON schema"), ("tools", "The parameters of a tool")])
def test_a_refusal_says_of_what_it_speaks(name: str, title: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^{title} cannot be used: contains: .*\\.$"):
        json_rule('{"contains":{"const":1}}', name)
    with pytest.raises(InvalidRequest, match="no text fits it"):
        json_rule('{"not":{}}', name)


def test_no_pattern_keeps_it_busy() -> None:
    """Python's own expressions would need longer than anybody lives."""
    schema = {"type": "object", "propertyNames": {"pattern": "^(a+)+$"}, "properties": {"a" * 60 + "!": INTEGER, "aé": INTEGER, "aa": INTEGER}, "additionalProperties": False}
    assert plain(schema)["properties"] == {"a" * 60 + "!": False, "aé": False, "aa": INTEGER}


def test_cases_in_each_other_are_not_multiplied() -> None:
    def deep(levels: int) -> Any:
        test = {"if": {"properties": {"k": {"const": 1}}, "required": ["k"]}, "then": {"required": ["a"]}}
        return {**test, "else": deep(levels - 1)} if levels else {}

    schema = plain({"properties": {"k": {"enum": [1, 2]}}, **deep(20)})
    assert len(json.dumps(schema)) < 10_000


def test_what_is_wanted_often_is_written_once() -> None:
    schema: Any = {"enum": ["x" * 1_000]}
    for _ in range(12):
        schema = {"propertyNames": {"enum": list("abcdefgh")}, "patternProperties": {"^a": {}}, "additionalProperties": schema}
    assert len(json.dumps(plain(schema))) < 10_000
    assert "propertyNames" not in json.dumps(schema)


def doubling(word: str, depth: int, end: Any) -> dict[str, Any]:
    """Schemas each of which refers to the next one twice."""
    return {**{f"d{number}": {word: [{"$ref": f"#/$defs/d{number + 1}"}] * 2} for number in range(depth)}, f"d{depth}": end}


def test_references_are_followed_once() -> None:
    names = {"propertyNames": {"$ref": "#/$defs/d0"}, "$defs": doubling("anyOf", 28, {"enum": ["a"]})}
    assert plain(names)["allOf"] == [{"properties": {"a": True}, "additionalProperties": False}]
    closed = {"$ref": "#/$defs/d0", "unevaluatedProperties": False, "$defs": doubling("allOf", 28, {"properties": {"a": {}}})}
    assert plain(closed)["allOf"] == [{"properties": {"a": True}, "additionalProperties": False}]
    with pytest.raises(SchemaError, match="too many schemas in each other"):
        plain({"propertyNames": {"$ref": "#/$defs/d0"}, "$defs": doubling("anyOf", 900, {"enum": ["a"]})})
    assert plain({"propertyNames": {"$ref": "#/$defs/x"}, "$defs": {"x": {"anyOf": [{"$ref": "#/$defs/x"}, {"const": "a"}]}}})["allOf"]


ANY = st.recursive(st.one_of(st.none(), st.booleans(), st.integers(-3, 3), st.sampled_from(["a", "#", "^a", "object", "string"])), lambda inner: st.one_of(
    st.lists(inner, max_size=3), st.dictionaries(st.sampled_from([*WORDS[:-1], "type", "properties", "required", "enum", "items", "allOf", "$ref", "pattern", "maxItems", "then"]), inner, max_size=4),
))  # fmt: skip


@settings(max_examples=400, deadline=None, derandomize=True)
@given(schema=st.dictionaries(st.sampled_from([*WORDS[:-1], "type", "properties", "required", "enum", "items", "allOf", "$ref", "pattern", "maxItems", "then"]), ANY, max_size=5))
def test_nonsense_is_refused_or_taken_and_nothing_else(schema: Any) -> None:
    try:
        json_rule(json.dumps(schema), "json_schema")
    except InvalidRequest as error:
        assert error.message.endswith(".")
