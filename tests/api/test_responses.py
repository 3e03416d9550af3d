"""The Responses dialect without a model: what items say to our own chat, and what parts of a reply become."""

from __future__ import annotations

import base64
import json
from typing import Any

import openai
import pytest
from fastapi.exceptions import RequestValidationError
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter, ValidationError

from modules.api.chat_parts import CallPiece, ChatPart
from modules.api.errors import validation_message
from modules.api.responses_events import Answer, AnswerEvents
from modules.api.responses_items import ReasoningItem, ReasoningPart, chat_messages
from modules.api.responses_schemas import ResponsesRequest
from modules.core.errors import ContextOverflow, EngineCrashed
from modules.core.generation import Delta, TokenLogprob, Usage
from tests.tiny_vision import picture

HEAD = {"model": "tiny", "tools": [], "tool_choice": "auto", "parallel_tool_calls": True}
USAGE = Usage(prompt_tokens=9, reused_tokens=4, completion_tokens=7)
KNOWN = TypeAdapter(ResponseStreamEvent)


def body(**fields: Any) -> ResponsesRequest:
    return ResponsesRequest.model_validate({"input": "Hello", **fields})


def said(*items: Any, **fields: Any) -> list[dict[str, Any]]:
    return [message.to_message().model_dump(exclude_defaults=True) for message in body(input=list(items), **fields).chat().messages]


def message(role: str, *parts: tuple[str, str]) -> dict[str, Any]:
    return {"type": "message", "role": role, "content": [{"type": kind, "text": text} for kind, text in parts]}


def test_items_become_messages() -> None:
    address = f"data:image/png;base64,{base64.b64encode(picture(1)).decode()}"
    call = {"type": "function_call", "call_id": "call_1", "name": "look", "arguments": "{}", "id": "fc_1", "status": "completed"}
    messages = said(
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "input_text", "text": "Look."}, {"type": "input_image", "image_url": address, "detail": "auto"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}], "encrypted_content": "x"},
        message("assistant", ("output_text", "I look.")), call, {**call, "call_id": "call_2"},
        {"type": "function_call_output", "call_id": "call_1", "output": "rain"},
        {"type": "function_call_output", "call_id": "call_2", "output": [{"type": "input_text", "text": "sun"}]},
        message("assistant", ("refusal", ""), ("output_text", "Both.")),
        instructions="Be kind.",
    )  # fmt: skip
    assert [one["role"] for one in messages] == ["system", "developer", "user", "assistant", "tool", "tool", "assistant"]
    assert messages[0]["content"] == "Be kind." and len(messages[2]["images"]) == 1
    assert messages[3]["content"] == "I look." and [one["id"] for one in messages[3]["tool_calls"]] == ["call_1", "call_2"]
    assert [(one["tool_call_id"], one["content"]) for one in messages[4:6]] == [("call_1", "rain"), ("call_2", "sun")]
    assert said({"type": "function_call", "call_id": "a", "name": "f"}, message("assistant", ("output_text", "After.")))[1]["content"] == "After."


def test_what_was_thought_is_passed_over_and_not_gathered() -> None:
    """Ten thousand thoughts put together one by one held up everybody for seconds, and were then left out."""
    items = [ReasoningItem(type="reasoning", summary=[ReasoningPart(text="hm")]) for _ in range(3)]
    assert chat_messages(None, items) == [{"role": "assistant", "content": []}]


def test_settings_are_told_under_our_names() -> None:
    chat = body(
        max_output_tokens=5, reasoning={"effort": "minimal", "summary": "auto"}, text={"format": {"type": "json_schema", "name": "x", "schema": {"type": "object"}}, "verbosity": "low"},
        top_k=3, preset="Deterministic", include=["message.output_text.logprobs", "reasoning.encrypted_content"], top_logprobs=2, store=True, stream=True, user="me",
        stream_options={"include_obfuscation": False}, metadata={"a": "b"}, prompt_cache_key="k", service_tier="auto", max_tool_calls=3,
    ).chat()  # fmt: skip
    assert (chat.max_tokens, chat.top_k, chat.preset, chat.logprobs, chat.top_logprobs, chat.user) == (5, 3, "Deterministic", True, 2, "me")
    assert chat.chat_template_kwargs == {"enable_thinking": True, "reasoning_effort": "low", "verbosity": "low"}
    assert chat.given()["json_schema"] == {"type": "object"}
    assert body(reasoning={"effort": "none"}, chat_template_kwargs={"x": 1}).chat().chat_template_kwargs == {"enable_thinking": False, "x": 1}
    assert body(text={"format": {"type": "json_object"}}).chat().given()["json_schema"] == {"type": "object"}
    assert body(text={"format": {"type": "text"}}).chat().response_format is None


@pytest.mark.parametrize(
    ("fields", "where", "words"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id", "send the whole conversation in input"),
        ({"conversation": {"id": "conv_1"}}, "conversation", "send the whole conversation in input"),
        ({"background": True}, "background", "none can be fetched later"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt", "prompts are not stored here"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type", "tools of the type “web_search” are not supported"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input.0", "send the items themselves"),
        ({"input": [{"type": "computer_call"}]}, "input.0", "items of type “computer_call” are not supported"),
        ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "x"}]}]}, "input.0.message.content.0", "parts of type “input_file”"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "x"}]}]}, "input.0.message.content.0", "fetches no addresses"),
        ({"input": [{"type": "reasoning", "summary": []}]}, "input", "there is nothing to answer"),
        ({"input": []}, "input", "at least 1 item"),
        ({"n": 2}, "n", "one answer is written at a time"),
    ],
)
def test_what_cannot_be_done_is_refused_by_its_name(fields: dict[str, Any], where: str, words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        body(**fields)
    message, field = validation_message(RequestValidationError(caught.value.errors()))
    assert field == where and words in message, message


# ---- events --------------------------------------------------------------------------------------------------------


def part(thinking: str = "", text: str = "", calls: tuple[CallPiece, ...] = (), end: str | None = None) -> ChatPart:
    entries = (TokenLogprob(1, text, -0.5),) if text else ()
    return ChatPart(thinking, text, calls, Delta(token_ids=(1,) * bool(thinking or text), logprobs=entries, usage=USAGE if end else None), end)


CALLS = (CallPiece(0, "call_a", "look", '{"where":'), CallPiece(0, arguments=' "Bonn"}'), CallPiece(1, "call_b", "wait"))
REPLY = (part("I th"), part("ink", ""), part("", "So"), part("", " it is"), *(part(calls=(piece,)) for piece in CALLS))


def events(answer: Answer, *parts: ChatPart) -> list[Any]:
    """The events of an answer as the official client's own types, numbered without a gap."""
    told = AnswerEvents(answer)
    frames = [*told.opened(), *(frame for one in parts for frame in told.part(one))]
    found = [KNOWN.validate_json(frame.decode().partition("data: ")[2]) for frame in frames]
    assert [event.sequence_number for event in found] == list(range(len(found)))
    return found


@pytest.mark.parametrize("summarised", [False, True])
def test_the_official_client_puts_the_events_together(summarised: bool) -> None:
    answer = Answer(HEAD, summarised=summarised, logprobs=True)
    found = events(answer, *REPLY, part(end="tool_calls"))
    kinds = [event.type for event in found]
    assert kinds[:2] == ["response.created", "response.in_progress"] and kinds[-1] == "response.completed"
    assert kinds.count("response.output_item.added") == kinds.count("response.output_item.done") == 4
    state: ResponseStreamState[Any] = ResponseStreamState(input_tools=[], text_format=openai.omit)
    for event in found:
        state.handle_event(event)  # raises where the order is not OpenAI's
    whole = Response.model_validate(answer.whole)
    assert found[-1].response.model_dump() == whole.model_dump()
    thought, spoken, first, second = whole.output
    assert (thought.summary if summarised else thought.content)[0].text == "I think"
    assert whole.output_text == "So it is" and [entry.token for entry in spoken.content[0].logprobs] == ["So", " it is"]
    assert (first.name, first.call_id, json.loads(first.arguments)) == ("look", "call_a", {"where": "Bonn"})
    assert (second.name, second.arguments, second.status) == ("wait", "", "completed")
    assert (whole.usage.input_tokens, whole.usage.input_tokens_details.cached_tokens, whole.usage.output_tokens_details.reasoning_tokens) == (9, 4, 2)
    deltas = {kind: "".join(event.delta for event in found if event.type == kind) for kind in kinds if kind.endswith(".delta")}
    thinking = "response.reasoning_summary_text.delta" if summarised else "response.reasoning_text.delta"
    assert deltas == {thinking: "I think", "response.output_text.delta": "So it is", "response.function_call_arguments.delta": '{"where": "Bonn"}'}


@pytest.mark.parametrize(("text", "tokens", "thought"), [("", 6, 6), ("So it", 6, 3), ("S", 6, 5), ("So it is. " * 9, 6, 0), ("So it", 1, 0), ("So it", 0, 0)])
def test_a_part_in_which_a_thought_ends_is_not_all_thought(text: str, tokens: int, thought: int) -> None:
    """Several tokens come in one part where they were drafted, or the machine is busy."""
    answer = Answer(HEAD, summarised=False, logprobs=False)
    events(answer, ChatPart("I th.", text, (), Delta(token_ids=(1,) * tokens)), part(end="stop"))
    assert answer.whole["usage"]["output_tokens_details"]["reasoning_tokens"] == thought


def test_an_answer_that_is_cut_off_or_empty_or_fails() -> None:
    cut = Answer(HEAD, summarised=False, logprobs=False)
    assert events(cut, part(text="So"), part(end="length"))[-1].type == "response.incomplete"
    assert cut.whole["incomplete_details"] == {"reason": "max_output_tokens"} and cut.whole["output"][0]["status"] == "incomplete"
    assert cut.whole["output"][0]["content"][0]["logprobs"] == []
    empty = Answer(HEAD, summarised=False, logprobs=False)
    events(empty, part(end="stop"))
    assert Response.model_validate(empty.whole).output_text == "" and empty.whole["output"][0]["role"] == "assistant"
    for error, code in ((EngineCrashed("The engine ended."), "server_error"), (ContextOverflow("Too long."), "invalid_prompt")):
        broken = Answer(HEAD, summarised=False, logprobs=False)
        events(broken, part(text="So"))
        last = [KNOWN.validate_python(event | {"sequence_number": 0}) for event in broken.failed(error)][-1]
        assert (last.type, last.response.status, last.response.error.code, last.response.error.message) == ("response.failed", "failed", code, error.message)
        assert last.response.output_text == "So"
