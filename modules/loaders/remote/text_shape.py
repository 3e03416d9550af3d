"""What shapes a text, under the names of another server. A kind that is not known to keep to a shape is not asked to: the request is refused.

By their documentation as known in 2026; no such server was at hand to try it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from modules.core.errors import InvalidRequest
from modules.core.params import GenerationParams
from modules.core.text_shape import SHAPE_FIELDS
from modules.loaders.remote.kinds import spec_of
from modules.loaders.remote.options import Kind

Write = Callable[[Any], dict[str, Any]]


def shape_fields(params: GenerationParams, kind: Kind, *, is_chat: bool) -> dict[str, Any]:
    """The fields of a request that say what its text looks like; none where the text is free.

    Raises:
        InvalidRequest: this kind of server cannot do it.
    """
    name = next((name for name in SHAPE_FIELDS if getattr(params, name)), None)
    if name is None or kind == "paddock":  # which gets all fields under their own names
        return {}
    writers = {**_ANYWHERE.get(kind, {}), **(_CHAT.get(kind, {}) if is_chat else {})}
    if name not in writers:
        title, where = spec_of(kind).title, "a chat" if is_chat else "a text that is continued"
        can = " or ".join(writers) or "no shape at all"
        raise InvalidRequest(f"{title} is not known to keep {where} to {name}; there it takes {can}. Leave it empty, or use a model of this machine.", field=name)
    return writers[name](getattr(params, name))


def _openai(schema: str) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "reply", "schema": json.loads(schema), "strict": True}}}


def _tgi(schema: str) -> dict[str, Any]:
    return {"response_format": {"type": "json_object", "value": json.loads(schema)}}


def _as_gbnf(choices: tuple[str, ...]) -> str:
    """Choices as a grammar; every character by its number, so that none means anything else."""
    return "root ::= " + " | ".join('"' + "".join(f"\\U{ord(letter):08X}" for letter in choice) + '"' for choice in choices)


def _as_regex(choices: tuple[str, ...]) -> str:
    return "(" + "|".join(re.escape(choice) for choice in choices) + ")"


_VLLM: Mapping[str, Write] = MappingProxyType({
    "json_schema": _openai,
    "regex": lambda regex: {"structured_outputs": {"regex": regex}},
    "choices": lambda choices: {"structured_outputs": {"choice": list(choices)}},
    "grammar": lambda grammar: {"structured_outputs": {"grammar": grammar}},
})
_SGLANG: Mapping[str, Write] = MappingProxyType({
    "json_schema": lambda schema: {"json_schema": schema},
    "regex": lambda regex: {"regex": regex},
    "choices": lambda choices: {"regex": _as_regex(choices)},
    "grammar": lambda grammar: {"ebnf": grammar},
})
_LLAMA_SERVER: Mapping[str, Write] = MappingProxyType({
    "json_schema": lambda schema: {"json_schema": json.loads(schema)},
    "choices": lambda choices: {"grammar": _as_gbnf(choices)},
    "grammar": lambda grammar: {"grammar": grammar},
})
_ANYWHERE: Mapping[Kind, Mapping[str, Write]] = MappingProxyType({"vllm": _VLLM, "sglang": _SGLANG, "llama-server": _LLAMA_SERVER})
_CHAT: Mapping[Kind, Mapping[str, Write]] = MappingProxyType({
    "sglang": MappingProxyType({"json_schema": _openai}),
    "ollama": MappingProxyType({"json_schema": _openai}),
    "tgi": MappingProxyType({"json_schema": _tgi, "regex": lambda regex: {"response_format": {"type": "regex", "value": regex}}}),
    "openai": MappingProxyType({"json_schema": _openai}),
})
