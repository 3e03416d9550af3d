"""The names that other servers give to what shapes a text, as fields of ours.

OpenAI: `response_format`. vLLM: `structured_outputs`, and the older `guided_…`. llama-server's `grammar` and `json_schema` are called so here too.
Sources: the public API references of OpenAI, vLLM and llama.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, Field, field_validator

from modules.core.text_shape import MOST_CHOICES

ANY_OBJECT: Mapping[str, Any] = MappingProxyType({"type": "object"})
STRUCTURED = MappingProxyType({"json": "json_schema", "regex": "regex", "choice": "choices", "grammar": "grammar", "json_object": "json_schema"})
Schema = str | dict[str, Any] | bool


class ShapeFields(BaseModel):
    """Fields of a request body that shape the text, under other servers' names. At most one shape may be given."""

    response_format: dict[str, Any] | None = Field(None, description="OpenAI's: text, json_object, or json_schema with a schema.")
    structured_outputs: dict[str, Any] | None = Field(None, description="vLLM's: one of json, regex, choice, grammar, json_object.")
    guided_json: Schema | None = Field(None, description="json_schema, as older versions of vLLM call it.")
    guided_regex: str | None = Field(None, description="regex, as older versions of vLLM call it.")
    guided_choice: list[str] | None = Field(None, max_length=MOST_CHOICES, description="choices, as older versions of vLLM call it.")
    guided_grammar: str | None = Field(None, description="grammar, as older versions of vLLM call it.")

    @field_validator("response_format")
    @classmethod
    def _known_format(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        kind = (value or {}).get("type", "text")
        if kind not in ("text", "json_object", "json_schema"):
            raise ValueError(f"there are the types text, json_object and json_schema; got {str(kind)[:40]!r}")
        inner = (value or {}).get("json_schema")
        if inner is not None and not isinstance(inner, dict):
            raise ValueError("json_schema is an object with a name and a schema")
        if kind == "json_schema" and (inner or value or {}).get("schema") in (None, ""):
            raise ValueError("the type json_schema needs a schema, as json_schema.schema; send one, or the type json_object for any object")
        return value

    @field_validator("structured_outputs")
    @classmethod
    def _known_structure(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        unknown = [name for name, inner in (value or {}).items() if inner is not None and name.startswith("structural")]
        if unknown:
            raise ValueError(f"{unknown[0][:60]} is not supported; use json, regex, choice or grammar")
        return value

    def shape(self) -> dict[str, Any]:
        """The shapes that these fields ask for, by our names."""
        asked: dict[str, Any] = {}
        wanted = self.response_format or {}
        if wanted.get("type") == "json_object":
            asked["json_schema"] = wanted.get("schema") or dict(ANY_OBJECT)
        elif wanted.get("type") == "json_schema":
            inner = wanted.get("json_schema") or wanted
            asked["json_schema"] = inner["schema"]
        for name, inner in (self.structured_outputs or {}).items():
            if name in STRUCTURED and inner not in (None, False):
                asked[STRUCTURED[name]] = dict(ANY_OBJECT) if name == "json_object" else inner
        older = {"json_schema": self.guided_json, "regex": self.guided_regex, "choices": self.guided_choice, "grammar": self.guided_grammar}
        return asked | {name: value for name, value in older.items() if value is not None}
