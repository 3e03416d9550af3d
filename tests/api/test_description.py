"""The page about the API: every route and field in words, examples that fit, nothing from elsewhere and no scripts."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from html import unescape
from typing import Any

import jsonschema_rs
import pytest

from modules.api.app import build_api
from modules.api.description_page import SHOWN, written
from modules.api.description_schemas import Schemas
from modules.core.settings import Settings
from modules.services.app import build_app


@pytest.fixture(scope="module")
def description(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    folder = tmp_path_factory.mktemp("described")
    places = {name: folder / name for name in ("models_dir", "loras_dir", "datasets_dir", "presets_dir", "templates_dir", "characters_dir", "state_dir")}
    return build_api(build_app(Settings(**places, model="none"))).openapi()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "integer", "minimum": 1, "maximum": 1048576}, "whole number, 1 to 1,048,576"),
        ({"anyOf": [{"type": "number", "exclusiveMinimum": 0, "maximum": 0.5}, {"type": "null"}]}, "number, above 0 to 0.5"),
        ({"type": "number", "minimum": 2}, "number, at least 2"),
        ({"type": "number", "maximum": 2}, "number, at most 2"),
        ({"type": "string", "maxLength": 10}, "text, up to 10 characters"),
        ({"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 3}, "list of text, 1 to 3 entries"),
        ({"anyOf": [{"type": "string"}, {"type": "array", "items": {}}]}, "text or list of any value"),
        ({"enum": ["a", "b"], "type": "string"}, "a | b"),
        ({"$ref": "#/components/schemas/Thing"}, "Thing"),
        ({"type": "boolean"}, "true | false"),
        ({}, "any value"),
    ],
)
def test_values_are_told_in_words(schema: dict[str, Any], words: str) -> None:
    assert Schemas({"components": {"schemas": {"Thing": {"type": "object", "properties": {}}}}}).kind(schema) == words


def test_every_route_has_its_place_and_every_field_its_words(description: Mapping[str, Any]) -> None:
    page = written(description, "http://here:1/llm", needs_key=True)
    operations = [(path, verb) for path, rows in description["paths"].items() if path.startswith(SHOWN) for verb in rows]
    assert len(operations) > 40 and page.count("<section") == len(operations)
    targets = re.findall(r'href="#([^"]+)"', page)
    assert len(set(targets)) == len(operations) and all(f'id="{target}"' in page for target in targets)
    assert "Keeps the k likeliest tokens" in page and "whole number, 0 to 1,000" in page and "AdapterChoice" in page
    assert "<script" not in page and re.findall(r'(?:src|href)="(?!#|openapi\.json")', page) == []
    assert "curl -X POST http://here:1/llm/v1/chat/completions" in page and "Authorization: Bearer $PADDOCK_API_KEY" in page
    assert "Authorization" not in written(description, "http://here:1", needs_key=False).replace("<code>Authorization: Bearer …</code>", "")
    assert "<b>&" not in written({"paths": {"/v1/x": {"get": {"description": "<b>&"}}}}, "http://here:1", needs_key=False)


def test_the_examples_fit_what_they_are_examples_of(description: Mapping[str, Any]) -> None:
    schemas = Schemas(description)
    shown = unescape(written(description, "http://here:1", needs_key=False))
    checked = 0
    for path, rows in description["paths"].items():
        for row in rows.values() if path.startswith(SHOWN) else ():
            body = row.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
            if body is not None:
                example = schemas.example(next((one for one in body.get("anyOf", ()) if one.get("type") != "null"), body))
                jsonschema_rs.validate({**body, "components": description["components"]}, example)
                assert json.dumps(example, ensure_ascii=False) in shown, path
                checked += 1
    assert checked > 15
