"""Fields beyond OpenAI's, sent as the official client sends them (`extra_body`): each is seen to act."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from tests.paddock_server import STARTER

QUESTION = [{"role": "user", "content": "What is a LoRA?"}]
GREEDY = {"model": STARTER, "messages": QUESTION, "temperature": 0, "max_tokens": 30}
WILD = {"model": STARTER, "messages": QUESTION, "temperature": 5, "max_tokens": 30, "seed": 1}  # too wild to be repeated exactly: rounding shows
LOOSE = {**WILD, "messages": [{"role": "user", "content": "Tell me a story."}], "temperature": 1.5}
# Cuts that leave one token to choose from: however high the temperature, the text is the greedy one
STRICT_CUTS = (
    {"top_k": 1},
    {"min_p": 1},
    {"top_n_sigma": 1e-6},
    {"top_p": 1e-6},
)


def text(client: openai.OpenAI, asked: dict[str, Any], **extra: Any) -> str:
    """The reply to a question with fields of ours."""
    return client.chat.completions.create(**asked, extra_body=extra).choices[0].message.content


@pytest.fixture(scope="module")
def greedy(client: openai.OpenAI) -> str:
    return text(client, GREEDY)


@pytest.mark.parametrize("fields", STRICT_CUTS, ids=lambda fields: next(iter(fields)))
def test_a_cut_that_leaves_one_token_is_greedy(client: openai.OpenAI, greedy: str, fields: dict[str, Any]) -> None:
    assert text(client, WILD) != greedy
    assert text(client, WILD, **fields) == greedy


def test_samplers_that_are_left_out_of_the_order_are_off(client: openai.OpenAI, greedy: str) -> None:
    assert text(client, WILD, top_k=1, sampler_order=["top_k", "temperature"]) == greedy
    assert text(client, WILD, top_k=1, sampler_order=["temperature"]) != greedy


def test_xtc_removes_the_best_choices(client: openai.OpenAI, greedy: str) -> None:
    calm = {**WILD, "temperature": 0.01}
    assert text(client, calm) == greedy
    assert text(client, calm, xtc_probability=1, xtc_threshold=0.0001) != greedy


def test_penalties_and_dry_keep_it_from_repeating(client: openai.OpenAI) -> None:
    loop = {**GREEDY, "max_tokens": 120, "messages": [{"role": "user", "content": "one two three one two three one two three"}]}
    plain = text(client, loop, ban_eos=True)
    for fields in ({"repetition_penalty": 1.5}, {"dry_multiplier": 2.0, "dry_allowed_length": 1}):
        words = text(client, loop, ban_eos=True, **fields).split()
        assert len(set(words)) / len(words) > len(set(plain.split())) / len(plain.split()), fields


def test_tokens_can_be_banned_and_favoured(client: openai.OpenAI, greedy: str) -> None:
    reply = client.chat.completions.create(**{**GREEDY, "max_tokens": 5}, logit_bias={"300": 100})
    once = client.chat.completions.create(**{**GREEDY, "max_tokens": 1}, logit_bias={"300": 100}, logprobs=True).choices[0]
    token = once.logprobs.content[0].token
    assert reply.choices[0].message.content.strip() == (token * 5).strip()
    assert text(client, {**GREEDY, "logit_bias": {"300": 100}}, banned_tokens=[300]) != token * 30


def test_a_reply_without_an_end_token(client: openai.OpenAI) -> None:
    ended = client.chat.completions.create(**{**GREEDY, "max_tokens": 100})
    endless = client.chat.completions.create(**{**GREEDY, "max_tokens": 100}, extra_body={"ban_eos": True})
    assert (ended.choices[0].finish_reason, endless.choices[0].finish_reason) == ("stop", "length")


def test_a_preset_gives_what_the_request_leaves_out(client: openai.OpenAI, greedy: str) -> None:
    open_ended = {key: value for key, value in WILD.items() if key != "temperature"}
    assert text(client, open_ended, preset="Deterministic") == greedy
    assert text(client, WILD, preset="Deterministic") != greedy  # what the request says comes first


def test_a_prompt_template_replaces_the_models_own(client: openai.OpenAI) -> None:
    one = {**GREEDY, "max_tokens": 1}
    own = client.chat.completions.create(**one).usage.prompt_tokens
    assert client.chat.completions.create(**one, extra_body={"prompt_template": "ChatML"}).usage.prompt_tokens == own
    assert client.chat.completions.create(**one, extra_body={"prompt_template": "Alpaca"}).usage.prompt_tokens > own + 10


def test_the_last_message_is_continued(client: openai.OpenAI, greedy: str) -> None:
    begun = greedy[: greedy.index(" writes")]
    messages = [*QUESTION, {"role": "assistant", "content": begun}]
    continued = text(client, {**GREEDY, "messages": messages}, continue_final_message=True)
    assert begun + continued == greedy
    answered = text(client, {**GREEDY, "messages": messages})
    assert begun + answered != greedy


def test_a_continued_message_has_its_shape_as_a_whole(client: openai.OpenAI) -> None:
    messages = [*QUESTION, {"role": "assistant", "content": '{"mood": "sun'}]
    schema = {"type": "object", "properties": {"mood": {"enum": ["sunny", "sunk"]}, "days": {"enum": [1, 2]}}, "required": ["mood", "days"], "additionalProperties": False}
    continued = text(client, {**GREEDY, "max_tokens": 60, "messages": messages}, continue_final_message=True, json_schema=schema)
    assert set(json.loads('{"mood": "sun' + continued)) == {"mood", "days"}
    messages[-1]["content"] = "Well"
    with pytest.raises(openai.BadRequestError, match="What the reply begins with does not fit the JSON schema"):
        text(client, {**GREEDY, "messages": messages}, continue_final_message=True, json_schema=schema)


@pytest.mark.parametrize("fields", [{"mirostat_mode": 2, "mirostat_tau": 0.1}, {"typical_p": 0.05}, {"dynamic_temperature_range": 4.5}])
def test_other_samplers_change_the_text(client: openai.OpenAI, fields: dict[str, Any]) -> None:
    assert text(client, LOOSE, **fields) != text(client, LOOSE)


def test_guidance_goes_from_the_negative_prompt_to_the_prompt(client: openai.OpenAI, greedy: str) -> None:
    other = "<|im_start|>user\nTell me a story.<|im_end|>\n<|im_start|>assistant\n"
    assert text(client, GREEDY, guidance_scale=1, negative_prompt=other) == greedy
    told = client.chat.completions.create(**GREEDY, extra_body={"guidance_scale": 0, "negative_prompt": other})
    asked = client.completions.create(model=STARTER, prompt=other, temperature=0, max_tokens=30).choices[0].text
    assert told.choices[0].message.content.strip() == asked.strip() != greedy
    assert told.usage.prompt_tokens == client.chat.completions.create(**{**GREEDY, "max_tokens": 1}).usage.prompt_tokens
    with pytest.raises(openai.BadRequestError, match="deterministic to false"):
        text(client, GREEDY, guidance_scale=2, deterministic=True)


def test_fields_that_change_no_text_are_taken(client: openai.OpenAI, greedy: str) -> None:
    ignored = {
        "store": True, "metadata": {"a": "b"}, "service_tier": "flex", "prediction": {"type": "content", "content": "A LoRA"}, "modalities": ["text"],
        "prompt_cache_key": "k", "prompt_cache_retention": "24h", "safety_identifier": "me", "user": "me", "parallel_tool_calls": True, "no_such_field": 1,
    }  # fmt: skip
    assert text(client, GREEDY, **ignored) == greedy
    assert text(client, GREEDY, reasoning_effort="low", verbosity="medium") == greedy, "a template that does not read them writes the same"
