"""What Ollama's bodies become in ours: options, messages with tools and images, names and words."""

from __future__ import annotations

import base64
import json
from types import MappingProxyType
from typing import Any

import pytest
from pydantic import ValidationError

from modules.api.ollama_bodies import DEFAULTS, ChatBody, EmbedBody, GenerateBody, params_of
from modules.api.ollama_names import capabilities, details
from modules.core.errors import InvalidRequest
from modules.core.model import ModelInfo

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(20)).decode()
OFF = MappingProxyType({"penalty_range": 0, "repetition_penalty": 1.0, "frequency_penalty": 0.0, "presence_penalty": 0.0})


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ({}, {}),
        ({"num_predict": 7, "seed": 3, "stop": ["a"], "min_p": 0.1}, {"max_tokens": 7, "seed": 3, "stop": ["a"], "min_p": 0.1}),
        ({"num_predict": -1, "seed": -1}, {}),
        ({"num_predict": -2, "num_ctx": 512, "num_gpu": 3, "tfs_z": 1.0, "none such": 1}, {}),
        ({"num_predict": 0}, {"prompt_only": True}),
        ({"num_predict": 10**9}, {"max_tokens": 1_048_576}),
        ({"num_predict": float("inf")}, {"max_tokens": 1_048_576}),
        ({"repeat_penalty": 1.3, "repeat_last_n": -1}, {"repetition_penalty": 1.3, "penalty_range": 0}),
        ({"repeat_penalty": 1.3, "repeat_last_n": 0, "presence_penalty": 1}, OFF),
        ({"mirostat": 2, "mirostat_tau": 3.0, "typical_p": 0.5}, {"mirostat_mode": 2, "mirostat_tau": 3.0, "typical_p": 0.5}),
        ({"top_p": 0, "top_k": 5}, {"top_p": 1.0, "top_k": 1}),
        ({"dry_multiplier": 0.8, "temperature": 0}, {"dry_multiplier": 0.8, "temperature": 0}),
        ({"temperature": None}, {}),
    ],
)
def test_options_become_sampling_fields_and_the_rest_is_as_in_ollama(options: dict[str, Any], asked: dict[str, Any]) -> None:
    assert params_of(options) == {**DEFAULTS, **asked}


def test_a_chat_with_tools_and_images_becomes_one_of_openai() -> None:
    calls = [{"function": {"name": name, "arguments": {"city": city}}} for name, city in (("weather", "Graz"), ("time", "Linz"))]
    asked = [
        {"role": "user", "content": "Look", "images": [PNG]},
        {"role": "assistant", "content": "", "tool_calls": calls},
        {"role": "tool", "tool_name": "time", "content": "noon"},
        {"role": "tool", "content": "sun"},
    ]
    body = ChatBody.model_validate({"model": "m", "messages": asked, "think": "low", "options": None, "format": None, "keep_alive": "10m"}).request()
    look, called, time, weather = (message.to_message() for message in body.messages)
    assert (look.content, look.images[0].kind, look.images[0].at) == ("Look", "png", 0)
    assert called.tool_calls is not None
    assert [json.loads(call["function"]["arguments"]) for call in called.tool_calls] == [{"city": "Graz"}, {"city": "Linz"}]
    assert (time.name, time.tool_call_id, weather.name, weather.tool_call_id) == ("time", called.tool_calls[1]["id"], "weather", called.tool_calls[0]["id"])
    assert body.chat_template_kwargs == {"enable_thinking": True, "reasoning_effort": "low"}
    assert body.given()["temperature"] == DEFAULTS["temperature"] and body.stream and not body.logprobs


def test_a_prompt_is_a_question_or_a_text() -> None:
    asked = GenerateBody.model_validate({"prompt": "Hi", "system": "Be brief.", "format": {"type": "string"}, "think": False, "logprobs": True, "stream": False})
    body = asked.request()
    assert [(message.role, message.content) for message in body.messages] == [("system", "Be brief."), ("user", "Hi")]
    assert (body.chat_template_kwargs, body.logprobs, body.top_logprobs, body.stream) == ({"enable_thinking": False}, True, 0, False)
    assert json.loads(body.given()["json_schema"] if isinstance(body.given()["json_schema"], str) else json.dumps(body.given()["json_schema"])) == {"type": "string"}
    assert asked.model_copy(update={"raw": True}).raw_request().prompt == "Hi"
    with pytest.raises(InvalidRequest, match="a raw prompt takes none"):
        GenerateBody(prompt="Hi", images=[PNG], raw=True).raw_request()


@pytest.mark.parametrize(("keep_alive", "unloads"), [(0, True), ("0", True), ("0s", True), ("0m", True), ("", False), (None, False), (-1, False), ("5m", False), ("-1", False)])
def test_no_time_to_live_unloads(keep_alive: Any, unloads: bool) -> None:
    assert ChatBody.model_validate({"keep_alive": keep_alive}).unloads is unloads


def test_what_a_model_can_do() -> None:
    info = ModelInfo(name="m", path="m.gguf", format="gguf", architecture="llama", parameters=7_600_000_000, quantization="Q4_K_M", sees=True)
    assert details(info) | {"parent_model": ""} == {
        "parent_model": "", "format": "gguf", "family": "llama", "families": ["llama"], "parameter_size": "7.6B", "quantization_level": "Q4_K_M",
    }  # fmt: skip
    assert capabilities(info, None) == ["completion", "tools", "vision"]
    assert capabilities(info.model_copy(update={"can_write": False, "sees": False}), None) == ["embedding"]


@pytest.mark.parametrize("texts", [["a"] * 2049, ["a" * 2_000_001] * 2, "a" * 4_000_001])
def test_vectors_are_made_of_so_many_texts_at_a_time(texts: str | list[str]) -> None:
    with pytest.raises(ValidationError, match="at a time"):
        EmbedBody(input=texts)
    assert EmbedBody(input=[]).input == [] and EmbedBody(input=["a"] * 2048).input
