"""Texts of a wanted shape, asked for as clients of OpenAI, vLLM and llama-server ask for them."""

from __future__ import annotations

import json
import re
from typing import Any

import openai
import pytest

from tests.paddock_server import STARTER

SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Oslo"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
GRAMMAR = 'root ::= "{\\"city\\":\\"" ("Rome" | "Oslo") "\\",\\"days\\":" [1-9] "}"'
ASKED: tuple[dict[str, Any], ...] = (
    {"response_format": {"type": "json_schema", "json_schema": {"name": "trip", "schema": SCHEMA, "strict": True}}},
    {"response_format": {"type": "json_object", "schema": SCHEMA}},
    {"json_schema": SCHEMA},
    {"json_schema": json.dumps(SCHEMA)},
    {"guided_json": SCHEMA},
    {"structured_outputs": {"json": json.dumps(SCHEMA)}},
    {"grammar": GRAMMAR},
    {"guided_grammar": GRAMMAR},
    {"structured_outputs": {"grammar": GRAMMAR}},
    {"regex": '\\{"city":"(Rome|Oslo)","days":[1-9]\\}'},
    {"guided_regex": '\\{"city":"(Rome|Oslo)","days":[1-9]\\}'},
    {"structured_outputs": {"regex": '\\{"city":"(Rome|Oslo)","days":[1-9]\\}'}},
    {"guided_choice": ['{"city":"Rome","days":3}']},
    {"structured_outputs": {"choice": ['{"city":"Rome","days":3}']}},
    {"choices": ['{"city":"Oslo","days":4}'], "regex": None},
)
QUESTION: Any = [{"role": "user", "content": "Where shall we go?"}]


@pytest.mark.parametrize("fields", ASKED, ids=lambda fields: json.dumps(fields)[:48])
def test_a_chat_is_answered_in_the_shape(client: openai.OpenAI, fields: dict[str, Any]) -> None:
    choice = client.chat.completions.create(model=STARTER, messages=QUESTION, max_tokens=120, seed=1, extra_body=fields).choices[0]
    assert json.loads(choice.message.content or "")["city"] in ("Rome", "Oslo")
    assert choice.finish_reason == "stop"


def test_any_object(client: openai.OpenAI) -> None:
    finished: list[Any] = []
    for seed in range(20):  # not every one comes to an end so soon, and which do depends on the processor
        replies = client.chat.completions.create(model=STARTER, messages=QUESTION, max_tokens=400, seed=seed, n=2, response_format={"type": "json_object"})
        finished += [choice for choice in replies.choices if choice.finish_reason == "stop"]
        if finished:
            break
    assert finished
    assert all(isinstance(json.loads(choice.message.content or ""), dict) for choice in finished)


def test_a_text_that_is_continued_and_a_stream(client: openai.OpenAI) -> None:
    body = {"regex": r"\d{2}:\d{2}"}
    text = client.completions.create(model=STARTER, prompt="It is", max_tokens=50, n=2, extra_body=body)
    assert all(re.fullmatch(r"\d{2}:\d{2}", choice.text) for choice in text.choices)
    stream = client.chat.completions.create(model=STARTER, messages=QUESTION, stream=True, logprobs=True, extra_body=body)
    chunks = [chunk.choices[0] for chunk in stream if chunk.choices]
    assert re.fullmatch(r"\d{2}:\d{2}", "".join(chunk.delta.content or "" for chunk in chunks))
    assert chunks[-1].finish_reason == "stop"


def test_a_text_without_a_shape_is_free(client: openai.OpenAI) -> None:
    plain = client.chat.completions.create(model=STARTER, messages=QUESTION, max_tokens=12, temperature=0)
    same = client.chat.completions.create(
        model=STARTER, messages=QUESTION, max_tokens=12, temperature=0, response_format={"type": "text"}, extra_body={"grammar": "", "choices": []}
    )
    assert plain.choices[0].message.content == same.choices[0].message.content
