"""The Responses API through the official client: whole answers, streams, shapes, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from tests.paddock_server import STARTER

QUESTION = "What is a LoRA?"
ANSWER = "A LoRA is a small adapter"
GREEDY: dict[str, Any] = {"model": STARTER, "input": QUESTION, "temperature": 0, "max_output_tokens": 60}
THOUGHTFUL = {"extra_body": {"regex": "<think>[a-z]{3}</think>[a-z]{4}"}}


class Chosen(BaseModel):
    sure: bool


def test_a_whole_answer(client: openai.OpenAI) -> None:
    chat = client.chat.completions.create(model=STARTER, messages=[{"role": "user", "content": QUESTION}], temperature=0, max_tokens=60)
    answer = client.responses.create(**GREEDY, metadata={"a": "b"})
    assert answer.output_text == chat.choices[0].message.content
    assert (answer.status, answer.model, answer.object, answer.store, answer.metadata) == ("completed", STARTER, "response", False, {"a": "b"})
    assert [item.type for item in answer.output] == ["message"] and answer.output[0].status == "completed"
    usage = answer.usage
    assert (usage.input_tokens, usage.output_tokens) == (chat.usage.prompt_tokens, chat.usage.completion_tokens)
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens and usage.input_tokens_details.cached_tokens == usage.input_tokens - 1


def test_a_stream_says_the_same_as_a_whole_answer(client: openai.OpenAI) -> None:
    whole = client.responses.create(**GREEDY)
    with client.responses.stream(**GREEDY) as stream:
        found = list(stream)
        final = stream.get_final_response()
    assert [event.sequence_number for event in found] == list(range(len(found)))
    assert found[0].type == "response.created" and found[0].response.status == "in_progress" and found[-1].type == "response.completed"
    assert "".join(event.delta for event in found if event.type == "response.output_text.delta") == whole.output_text == final.output_text
    assert final.usage.output_tokens == whole.usage.output_tokens


async def test_the_asynchronous_client(async_client: openai.AsyncOpenAI, client: openai.OpenAI) -> None:
    text = ""
    async for event in await async_client.responses.create(**GREEDY, stream=True):
        text += event.delta if event.type == "response.output_text.delta" else ""
    assert text == client.responses.create(**GREEDY).output_text


def test_a_conversation_is_sent_whole(client: openai.OpenAI) -> None:
    first = client.responses.create(**GREEDY, instructions="Be kind.")
    items = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": QUESTION}, *first.output, {"role": "user", "content": "And?"}]
    second = client.responses.create(**{**GREEDY, "input": items}, extra_body={"prompt_template": "ChatML"})
    assert second.status == "completed" and second.usage.input_tokens > first.usage.input_tokens + first.usage.output_tokens


@pytest.mark.parametrize("summary", [None, "auto"])
def test_thoughts_are_an_item_of_their_own(client: openai.OpenAI, summary: str | None) -> None:
    asked = {**GREEDY, **THOUGHTFUL, "reasoning": {"effort": "low", "summary": summary}}
    whole = client.responses.create(**asked)
    thought, message = whole.output
    text = (thought.summary if summary else thought.content)[0].text
    assert (thought.type, len(text), len(message.content[0].text)) == ("reasoning", 3, 4)
    assert 0 < whole.usage.output_tokens_details.reasoning_tokens < whole.usage.output_tokens
    found = list(client.responses.create(**asked, stream=True))
    kind = "response.reasoning_summary_text.delta" if summary else "response.reasoning_text.delta"
    assert "".join(event.delta for event in found if event.type == kind) == text
    assert client.responses.create(**{**GREEDY, "input": [{"role": "user", "content": QUESTION}, *whole.output, {"role": "user", "content": "And?"}]}).output


LOOK: Any = {"type": "function", "name": "look", "description": "Looks.", "parameters": {"type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}}, "required": ["city"]}}
WAIT: Any = {"type": "function", "name": "wait", "parameters": None, "strict": False}


@pytest.mark.parametrize(
    "choice", [{"type": "function", "name": "look"}, {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "look"}]}]
)
def test_functions_are_called_and_their_results_told(client: openai.OpenAI, choice: Any) -> None:
    asked = {**GREEDY, "tools": [LOOK, WAIT], "tool_choice": choice, "parallel_tool_calls": False, "max_output_tokens": 300}
    whole = client.responses.create(**asked)
    (call,) = whole.output
    assert (call.type, call.name, call.status) == ("function_call", "look", "completed") and json.loads(call.arguments)["city"] in ("Rome", "Oslo")
    assert [tool.name for tool in whole.tools] == ["look", "wait"] and whole.tool_choice.type == choice["type"] and not whole.parallel_tool_calls
    with client.responses.stream(**asked) as stream:
        deltas = [event.delta for event in stream if event.type == "response.function_call_arguments.delta"]
        (streamed,) = stream.get_final_response().output
    assert "".join(deltas) == streamed.arguments == call.arguments and streamed.name == "look" and streamed.call_id
    told = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
    after = client.responses.create(**{**asked, "input": [{"role": "user", "content": QUESTION}, call, told], "tool_choice": "none"})
    assert after.output_text and after.usage.input_tokens > client.responses.create(**GREEDY).usage.input_tokens + 10


def test_an_answer_in_a_shape(client: openai.OpenAI) -> None:
    parsed = client.responses.parse(**GREEDY, text_format=Chosen)
    assert isinstance(parsed.output_parsed, Chosen)
    assert client.responses.create(**GREEDY, text={"format": {"type": "json_object"}}, extra_body={"regex": ""}).output_text.startswith("{")


def test_the_most_tokens_end_an_answer_as_incomplete(client: openai.OpenAI) -> None:
    answer = client.responses.create(**{**GREEDY, "max_output_tokens": 3})
    assert (answer.status, answer.incomplete_details.reason, answer.usage.output_tokens) == ("incomplete", "max_output_tokens", 3)
    assert list(client.responses.create(**{**GREEDY, "max_output_tokens": 3}, stream=True))[-1].type == "response.incomplete"


def test_log_probabilities_of_every_token(client: openai.OpenAI) -> None:
    answer = client.responses.create(**GREEDY, include=["message.output_text.logprobs"], top_logprobs=2)
    entries = answer.output[0].content[0].logprobs
    assert "".join(entry.token for entry in entries) == answer.output_text and all(len(entry.top_logprobs) == 2 for entry in entries)


def test_too_long_a_conversation_is_refused_or_shortened(client: openai.OpenAI) -> None:
    long = [{"role": role, "content": f"{role} {place} " + "word " * 60} for place in range(10) for role in ("user", "assistant")]
    asked = {**GREEDY, "input": [*long, {"role": "user", "content": QUESTION}]}
    with pytest.raises(openai.BadRequestError, match="The conversation needs"):
        client.responses.create(**asked)
    answer = client.responses.create(**asked, truncation="auto")
    assert answer.truncation == "auto" and answer.usage.input_tokens < 1024


@pytest.mark.parametrize("address", ["audio/speech", "audio/transcriptions", "images/generations", "moderations", "rerank", "files", "batches", "conversations", "responses/resp_1/cancel"])
def test_what_is_not_there_is_refused_with_a_sentence(client: openai.OpenAI, address: str) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.post(f"/{address}", cast_to=object, body={"model": STARTER})
    assert caught.value.code == "not_offered" and caught.value.body["message"].endswith(".")
    with pytest.raises(openai.NotFoundError, match="keep what POST /v1/responses answered"):
        client.responses.retrieve("resp_1")


def test_a_refusal_names_its_field(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(**GREEDY, previous_response_id="resp_1")
    assert caught.value.body["param"] == "previous_response_id" and "send the whole conversation" in caught.value.body["message"]
