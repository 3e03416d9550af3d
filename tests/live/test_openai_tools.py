"""Calls of tools as the official client of OpenAI asks for them and puts them together. The starter model knows no tools: what it must write is forced."""

from __future__ import annotations

import json
from typing import Any, Literal

import httpx
import openai
import pytest
from pydantic import BaseModel, Field

from tests.paddock_server import STARTER, PaddockServer
from tests.prompts.real_templates import NAMES, template_text

WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Rome", "Oslo"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
            "required": ["city", "days"],
        },
        "strict": True,
    },
}
CLOCK: Any = {"type": "function", "function": {"name": "now"}}
TOOLS: Any = [WEATHER, CLOCK]
QUESTION: Any = [{"role": "user", "content": "Where shall we go?"}]
NAMED: Any = {"type": "function", "function": {"name": "get_weather"}}


def ask(client: openai.OpenAI, **fields: Any) -> Any:
    return client.chat.completions.create(**{"model": STARTER, "messages": QUESTION, "tools": TOOLS, "max_tokens": 200, "seed": 3, **fields})


def fits(arguments: str) -> bool:
    value = json.loads(arguments)
    return value["city"] in ("Rome", "Oslo") and 1 <= value["days"] <= 9 and len(value) == 2


def test_a_named_function_is_called_and_its_answer_is_told(client: openai.OpenAI) -> None:
    reply = ask(client, tool_choice=NAMED, parallel_tool_calls=False, n=2)
    for choice in reply.choices:
        (call,) = choice.message.tool_calls
        assert (call.type, call.function.name, choice.finish_reason, choice.message.content) == ("function", "get_weather", "tool_calls", None)
        assert fits(call.function.arguments)
    message = reply.choices[0].message
    answer: Any = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "Sunny"}
    after = ask(client, messages=[*QUESTION, message.model_dump(exclude_none=True), answer], tool_choice="none")
    assert after.choices[0].finish_reason in ("stop", "length")
    assert after.choices[0].message.content
    assert after.choices[0].message.tool_calls is None


@pytest.mark.parametrize("choice", ["required", {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [NAMED]}}])
def test_streamed_calls_have_their_name_first_and_no_mark_in_the_text(client: openai.OpenAI, choice: Any) -> None:
    why = {"type": "string", "minLength": 200, "maxLength": 250}  # takes more than a moment
    parameters = WEATHER["function"]["parameters"]
    longer = {**parameters, "properties": {**parameters["properties"], "why": why}, "required": ["city", "days", "why"]}
    tools = [{"type": "function", "function": {**WEATHER["function"], "parameters": longer}}, CLOCK]
    came_in_parts = []
    for seed in range(20):  # what one of them writes depends on the processor
        pieces, words, names = [], "", set()
        for chunk in ask(client, tools=tools, tool_choice=choice, stream=True, stop=["Nevermore"], logprobs=True, seed=seed, max_tokens=400):
            delta = chunk.choices[0].delta
            assert not delta.content
            assert not (delta.tool_calls and chunk.choices[0].finish_reason), "the end comes behind the calls"
            pieces += delta.tool_calls or ()
            words = chunk.choices[0].finish_reason or words
        if words == "length":  # many calls, of which the last is not whole
            continue
        calls: dict[int, list[str]] = {}
        for piece in pieces:
            if piece.id:
                assert piece.type == "function"
                calls[piece.index] = [piece.function.name, ""]
                names.add(piece.function.name)
            calls[piece.index][1] += piece.function.arguments
        assert words == "tool_calls"
        assert names <= ({"get_weather", "now"} if choice == "required" else {"get_weather"})
        for name, arguments in calls.values():
            value = json.loads(arguments)
            assert set(value) == ({"city", "days", "why"} if name == "get_weather" else set())
            assert name == "now" or 200 <= len(value["why"]) <= 250
        came_in_parts.append("get_weather" in names and len(pieces) > len(calls))
        if came_in_parts[-1]:
            break
    assert any(came_in_parts), "arguments come while they are written"


class Place(BaseModel):
    """Where to go."""

    city: Literal["Rome", "Oslo"]
    days: int = Field(ge=1, le=9)


def test_the_helpers_of_the_client_read_calls(client: openai.OpenAI) -> None:
    asked: Any = {
        "model": STARTER, "messages": QUESTION, "tools": [openai.pydantic_function_tool(Place)], "tool_choice": "required", "parallel_tool_calls": False, "max_tokens": 200,
    }  # fmt: skip
    (call,) = client.chat.completions.parse(**asked).choices[0].message.tool_calls or ()
    assert isinstance(call.function.parsed_arguments, Place)
    with client.chat.completions.stream(**asked) as events:
        kinds = {event.type for event in events}
        (call,) = events.get_final_completion().choices[0].message.tool_calls or ()
    assert {"tool_calls.function.arguments.delta", "tool_calls.function.arguments.done"} <= kinds
    assert isinstance(call.function.parsed_arguments, Place)


def test_where_the_model_chooses_text_stays_text(client: openai.OpenAI) -> None:
    free = ask(client, temperature=0)
    assert free.choices[0].message.tool_calls is None
    assert free.choices[0].message.content
    schema = {"type": "object", "properties": {"yes": {"type": "boolean"}}, "required": ["yes"], "additionalProperties": False}
    either = ask(client, response_format={"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}, parallel_tool_calls=False).choices[0]
    assert (either.finish_reason == "tool_calls") == bool(either.message.tool_calls)
    assert isinstance(json.loads(either.message.tool_calls[0].function.arguments if either.message.tool_calls else either.message.content), dict)


FAMILIES = (
    "Qwen3.5-4B", "GLM-4.6", "Mistral-Small-3.2-24B-Instruct-2506", "mistralai-Mistral-Nemo-Instruct-2407", "deepseek-ai-DeepSeek-V3.1", "meta-llama-Llama-3.1-8B-Instruct",
    "google-gemma-4-31B-it", "openai-gpt-oss-120b", "google-gemma-2-2b-it",
)  # fmt: skip


@pytest.mark.skipif(not NAMES, reason="the templates of real models are not here")
@pytest.mark.parametrize("family", FAMILIES)
def test_a_call_is_forced_and_told_under_the_template_of_each_family(server: PaddockServer, client: openai.OpenAI, family: str) -> None:
    """The marks are letters to the starter model; as special tokens they are tested with the engine alone."""
    file = server.log_path.parent / "templates" / f"{family}.yaml"
    file.write_text(json.dumps({"description": "Of a test.", "template": template_text(family)}), encoding="utf-8")  # JSON is YAML
    try:
        fields: dict[str, Any] = {"prompt_template": family, "chat_template_kwargs": {"enable_thinking": False, "thinking": False}}
        messages: Any = [{"role": "system", "content": "Be brief."}, *QUESTION]  # in place of long ones of the templates
        reply = ask(client, messages=messages, tools=[WEATHER], tool_choice=NAMED, parallel_tool_calls=False, max_tokens=300, extra_body=fields).choices[0]
        (call,) = reply.message.tool_calls
        assert (call.function.name, fits(call.function.arguments), reply.message.content, reply.finish_reason) == ("get_weather", True, None, "tool_calls")
        answer: Any = {"role": "tool", "tool_call_id": call.id, "content": "Sunny"}
        after = ask(client, tools=[WEATHER], messages=[*messages, reply.message.model_dump(exclude_none=True), answer], extra_body=fields).choices[0]
        assert after.finish_reason in ("stop", "length", "tool_calls")
    finally:
        file.unlink()


REFUSED: tuple[tuple[dict[str, Any], str], ...] = (
    ({"tools": [{"type": "web_search"}]}, "do not run here"),
    ({"tools": [CLOCK, CLOCK]}, "two tools have the name"),
    ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "letters, digits"),
    ({"tools": [CLOCK] * 129}, "limit of 128"),
    ({"tools": [{"type": "function", "function": {"name": "a", "description": "x" * 400_001}}]}, "the limit is 400,000"),
    ({"tools": [{"type": "function", "function": {"name": "a", "parameters": {"not": {}}}}], "tool_choice": "required"}, "parameters of a tool"),
    ({"tool_choice": {"type": "function", "function": {"name": "other"}}}, "not among the tools"),
    ({"tools": None, "tool_choice": "required"}, "send tools"),
    ({"tool_choice": "maybe"}, "none, auto, required"),
    ({"functions": [{"name": "f"}]}, "send tools"),
    ({"messages": [{"role": "user", "content": "a", "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]}]}, "assistant"),
    ({"messages": [{"role": "assistant", "tool_calls": [{"id": "1"}]}]}, "a call is"),
)


@pytest.mark.parametrize(("fields", "words"), REFUSED, ids=lambda value: value if isinstance(value, str) else "")
def test_what_is_wrong_is_told(server: PaddockServer, fields: dict[str, Any], words: str) -> None:
    answer = httpx.post(f"{server.url}v1/chat/completions", json={"model": STARTER, "messages": QUESTION, "tools": TOOLS, "max_tokens": 4, **fields}, timeout=60)
    assert answer.status_code == 400, answer.text
    assert words in answer.json()["error"]["message"]
