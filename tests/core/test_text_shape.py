"""Shapes of a text are bounded and brought into one form before anything reads them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from modules.core.params import GenerationParams
from modules.core.text_shape import DEEPEST_SCHEMA, LONGEST_SHAPE, canonical_schema


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth - 1):
        value = {"items": value}
    return value


@pytest.mark.parametrize(("given", "text"), [
    ({"type": "object", "properties": {"b": True, "a": {"enum": ["é", 1.5, None]}}}, '{"type":"object","properties":{"b":true,"a":{"enum":["é",1.5,null]}}}'),
    ('{ "type":\n "null" }', '{"type":"null"}'),
    (" \n", ""), ("", ""), (True, "true"), (False, "false"), ("{}", "{}"),
])  # fmt: skip
def test_a_schema_has_one_form_with_its_properties_in_order(given: Any, text: str) -> None:
    assert GenerationParams(json_schema=given).json_schema == text
    assert canonical_schema(text) == text


@pytest.mark.parametrize(("given", "words"), [
    ("{", "no JSON"), ("[]", "got list"), (5, "got int"), (None, "got NoneType"), ("NaN", "got float"), ({"minimum": float("nan")}, "no JSON"), ({"a": {1}}, "no JSON"),
    ("[" * 60_000, "no JSON"), (nested(DEEPEST_SCHEMA + 1), "at most 64 objects"), (json.dumps(nested(200)), "at most 64 objects"),
    ({"const": "x" * LONGEST_SHAPE}, "at most 65536 characters; got 65548"), ("{" + " " * LONGEST_SHAPE + "}", "at most 65536 characters; got 65538"),
    ('{"a":' + "9" * 5_000 + "}", "no JSON"),
])  # fmt: skip
def test_what_is_no_schema_is_refused(given: Any, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        GenerationParams(json_schema=given)


def test_the_deepest_schema_is_taken() -> None:
    assert GenerationParams(json_schema=nested(DEEPEST_SCHEMA)).json_schema.count("{") == DEEPEST_SCHEMA


def test_choices_are_named_once_and_bounded() -> None:
    assert GenerationParams(choices=("b", "a", "b")).choices == ("b", "a")
    for choices, words in (((), ""), (("a", ""), "an empty text is no choice"), (("x" * 40_000, "y" * 40_000), "at most 65536 characters; got 80000")):
        if words:
            with pytest.raises(ValidationError, match=words):
                GenerationParams(choices=choices)
        else:
            assert GenerationParams(choices=choices) == GenerationParams()


def test_a_text_has_one_shape() -> None:
    with pytest.raises(ValidationError, match="a text has one shape: grammar and choices are given"):
        GenerationParams(grammar='root ::= "a"', choices=("a",))
    assert GenerationParams(grammar='root ::= "a"', json_schema="", regex="", choices=()).changed() == {"grammar": 'root ::= "a"'}
