"""Anthropic's dialect without a model: what a body says to our own chat, and what parts of a reply become."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.testclient import TestClient
from pydantic import ValidationError

from modules.api import anthropic_blocks
from modules.api.anthropic_blocks import joined
from modules.api.anthropic_errors import AnthropicErrors
from modules.api.anthropic_events import MessageEvents, message_head, whole_message
from modules.api.anthropic_schemas import MessagesRequest
from modules.api.auth import KeyCheck, KeyGate
from modules.api.chat_parts import CallPiece, ChatCall, ChatPart, ChatWhole
from modules.api.dialects import events_of
from modules.api.errors import install_error_handlers, validation_message
from modules.core.errors import Busy, EngineCrashed, InvalidRequest
from modules.core.generation import Delta, GenerationRequest, Started, TextPrompt, Usage
from tests.tiny_vision import picture

PNG = base64.b64encode(picture(1)).decode()
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"where": "Bonn"}}
TOOL = {"name": "look", "description": "Looks.", "input_schema": {"type": "object", "properties": {"where": {"type": "string"}}}, "cache_control": {"type": "ephemeral"}}


def body(**fields: Any) -> MessagesRequest:
    return MessagesRequest.model_validate({"max_tokens": 5, "messages": [{"role": "user", "content": "Hello"}], **fields})


def said(*turns: tuple[str, Any]) -> list[dict[str, Any]]:
    """The messages of our own chat that these turns become, without what is empty."""
    chat = body(messages=[{"role": role, "content": content} for role, content in turns]).chat()
    return [message.to_message().model_dump(exclude_defaults=True) for message in chat.messages]


def text(value: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": value, **more}


def test_blocks_become_messages_in_the_order_that_templates_want() -> None:
    messages = said(
        ("user", [text("Look.", cache_control={"type": "ephemeral"}), text("Well."), IMAGE, text("Now?")]),
        ("assistant", [{"type": "thinking", "thinking": "hm", "signature": "s"}, {"type": "redacted_thinking", "data": "x"}, text("I look."), CALL]),
        ("user", [text("And?"), {"type": "tool_result", "tool_use_id": "toolu_1", "content": [text("rain")], "is_error": True}]),
        ("user", "Go on."),
    )
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "user"]
    first, reply, result, last = messages
    assert first["content"] == "Look.\n\nWell.Now?" and first["images"][0]["at"] == len("Look.\n\nWell.")
    assert reply["content"] == "I look." and reply["tool_calls"][0]["function"] == {"name": "look", "arguments": '{"where": "Bonn"}'}
    assert (result["tool_call_id"], result["content"]) == ("toolu_1", "Error: rain")
    assert last["content"] == "And?\n\nGo on.", "turns of one role are one"


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ({"type": "document", "title": "Notes", "context": "Of May.", "source": {"type": "text", "media_type": "text/plain", "data": "one"}}, ("Of May.", "“Notes”", "one")),
        ({"type": "document", "source": {"type": "content", "content": [text("one"), text("two")]}}, ("one\n\ntwo",)),
        ({"type": "search_result", "title": "Found", "source": "a.txt", "content": [text("one")]}, ("Found (a.txt)", "one")),
    ],
)
def test_documents_are_text(block: dict[str, Any], words: tuple[str, ...]) -> None:
    content = said(("user", [block, text("What?")]))[0]["content"]
    assert all(word in content for word in words) and content.endswith("\n\nWhat?")


def test_settings_are_told_under_our_names() -> None:
    chat = body(
        system=[text("Be kind."), text("")], stop_sequences=["END"], top_k=3, min_p=0.1, thinking={"type": "enabled", "budget_tokens": 1024}, prompt_template="ChatML",
        output_config={"effort": "max", "format": {"type": "json_schema", "schema": {"type": "object"}}}, metadata={"user_id": "me"}, service_tier="auto", stream=True,
    ).chat()  # fmt: skip
    assert chat.messages[0].to_message().content == "Be kind." and chat.messages[0].role == "system"
    given = chat.given()
    assert {name: given[name] for name in ("stop", "top_k", "min_p")} == {"stop": ("END",), "top_k": 3, "min_p": 0.1}
    assert json.loads(given["json_schema"] if isinstance(given["json_schema"], str) else json.dumps(given["json_schema"])) == {"type": "object"}
    assert (chat.max_tokens, chat.user, chat.prompt_template, chat.stream) == (5, "me", "ChatML", True)
    assert chat.chat_template_kwargs == {"enable_thinking": True, "reasoning_effort": "high"}
    assert body(thinking={"type": "disabled"}).chat().chat_template_kwargs == {"enable_thinking": False}
    assert body(thinking={"type": "adaptive"}).chat().chat_template_kwargs == {}


def test_the_last_message_of_the_model_is_continued_and_nothing_is_written_with_no_tokens() -> None:
    begun = body(messages=[{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good "}], max_tokens=0).chat()
    assert begun.continue_final_message and begun.messages[-1].to_message().content == "Good "
    assert begun.given()["prompt_only"] and begun.max_tokens is None
    for blocks in ([CALL], [{"type": "thinking", "thinking": "hm", "signature": ""}]):  # nothing of it can be continued
        assert not body(messages=[{"role": "user", "content": "Hello"}, {"role": "assistant", "content": blocks}]).chat().continue_final_message


def test_tools_are_told_in_the_form_of_our_chat() -> None:
    chat = body(tools=[TOOL], tool_choice={"type": "any", "disable_parallel_tool_use": True}).chat()
    assert chat.tools == [{"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": TOOL["input_schema"]}}]
    assert (chat.tool_choice, chat.parallel_tool_calls, chat.must_call()) == ("required", False, ("look",))
    assert body(tools=[TOOL], tool_choice={"type": "tool", "name": "look"}).chat().must_call() == ("look",)
    assert body(tools=[TOOL], tool_choice={"type": "none"}).chat().offered_tools() == () != body(tools=[TOOL]).chat().offered_tools()


@pytest.mark.parametrize(
    ("fields", "where", "words"),
    [
        ({"messages": [{"role": "user", "content": [{"type": "server_tool_use"}]}]}, "messages.0.content.0", "server_tool_use"),
        ({"messages": [{"role": "user", "content": [CALL]}]}, "messages.0", "a message of the role user has no blocks of the type tool_use"),
        ({"messages": [{"role": "user", "content": [{**IMAGE, "source": {"type": "url", "url": "https://x/a.png"}}]}]}, "messages.0.content.0.image", "fetches no addresses"),
        ({"messages": [{"role": "user", "content": [{**IMAGE, "source": {"type": "base64", "data": "AAAA"}}]}]}, "messages.0.content.0.image", "no PNG, JPEG"),
        ({"messages": [{"role": "user", "content": [{"type": "document", "source": {"type": "base64", "data": "x"}}]}]}, "messages.0.content.0.document", "reads no PDF here"),
        ({"messages": [{"role": "user", "content": [{"type": "document", "source": {"type": "text", "data": "x"}, "citations": {"enabled": True}}]}]},
         "messages.0.content.0.document", "citations are not supported"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools.0.type", "tools of the type “web_search_20250305” are not supported"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool"}}, "tool_choice", "needs the name of the tool"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "other"}}, "body", "not among the tools"),
        ({"mcp_servers": [{"url": "x"}]}, "mcp_servers", "Paddock runs no tools"),
        ({"stop_sequences": [""]}, "stop_sequences", "1 to 1000 characters"),
        ({"n": 2}, "n", "one message is written at a time"),
        ({"top_k": 5000}, "top_k", "less than or equal to 1000"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_by_its_name(fields: dict[str, Any], where: str, words: str) -> None:
    with pytest.raises((ValidationError, InvalidRequest)) as caught:
        body(**fields).chat()
    error = caught.value
    message, field = (error.message, error.details["field"]) if isinstance(error, InvalidRequest) else validation_message(RequestValidationError(error.errors()))
    assert field == where and words in message, message


# ---- events --------------------------------------------------------------------------------------------------------


class Told:
    """A generation that says what a test gives it."""

    model = "tiny"
    started = Started(prompt_tokens=9, reused_tokens=4, dropped_messages=0, seed=1)

    def __init__(self, *deltas: Delta | Exception, pause: asyncio.Event | None = None) -> None:
        self._deltas, self._pause, self.closed = deltas, pause, False

    async def __aiter__(self) -> AsyncIterator[Delta]:
        if self._pause is not None:
            await self._pause.wait()
        for delta in self._deltas:
            if isinstance(delta, Exception):
                raise delta
            yield delta

    async def aclose(self) -> None:
        self.closed = True


def part(thinking: str = "", said: str = "", calls: tuple[CallPiece, ...] = (), end: str | None = None, stop_string: str | None = None) -> ChatPart:
    usage = Usage(prompt_tokens=9, reused_tokens=4, completion_tokens=7) if end else None
    return ChatPart(thinking, said, calls, Delta(finish_reason="stop" if end else None, stop_string=stop_string, usage=usage), end)


def events(*parts: ChatPart) -> list[dict[str, Any]]:
    """The events of a message, their names compared with their types."""
    told = MessageEvents(Told(), ["END"])
    found = []
    for frame in (frame for one in parts for frame in told.part(one)):
        name, data = frame.decode().strip().split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def assembled(found: list[dict[str, Any]]) -> dict[str, Any]:
    """The message that a client puts together from the events."""
    message: dict[str, Any] = {}
    raw = ""
    for event in found:
        match event["type"]:
            case "message_start":
                message = event["message"]
            case "content_block_start":
                assert event["index"] == len(message["content"])
                message["content"].append(dict(event["content_block"]))
                raw = ""
            case "content_block_delta":
                block, delta = message["content"][event["index"]], event["delta"]
                assert event["index"] == len(message["content"]) - 1
                for name in ("text", "thinking", "signature"):
                    block.update({name: block[name] + delta[name]} if name in delta else {})
                raw += delta.get("partial_json", "")
                block.update({"input": json.loads(raw)} if raw and block["type"] == "tool_use" and raw.endswith("}") else {})
            case "message_delta":
                message |= event["delta"] | {"usage": event["usage"]}
    return message


@pytest.mark.parametrize("end", ["stop", "length", "tool_calls"])
def test_a_stream_says_the_same_as_a_whole_message(end: str) -> None:
    calls = (CallPiece(0, "call_a", "look", '{"where":'), CallPiece(0, arguments=' "Bonn"}'), CallPiece(1, "call_b", "wait"))
    found = events(part("I th"), part("ink", "So"), part("", " it is"), *(part(calls=(piece,)) for piece in calls), part(end=end))
    kinds = [event["type"] for event in found]
    assert kinds[:2] == ["message_start", "ping"] and kinds[-2:] == ["message_delta", "message_stop"]
    assert kinds.count("content_block_start") == kinds.count("content_block_stop") == 4
    assert found[0]["message"]["usage"] == {"input_tokens": 5, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 4, "output_tokens": 0}
    whole = ChatWhole(text="So it is", thinking="I think", usage=Usage(prompt_tokens=9, reused_tokens=4, completion_tokens=7), finish_reason=end)
    whole.calls = [ChatCall("call_a", "look", '{"where": "Bonn"}'), ChatCall("call_b", "wait", "")]
    expected = whole_message(message_head(Told()), whole, ["END"])
    streamed = assembled(found)
    assert {**streamed, "id": ""} == {**expected, "id": ""}
    assert streamed["stop_reason"] == {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}[end]
    assert [block["type"] for block in streamed["content"]] == ["thinking", "text", "tool_use", "tool_use"] and streamed["content"][0]["signature"]


def test_ends_that_have_their_own_form() -> None:
    stopped = assembled(events(part(said="a"), part(end="stop", stop_string="END")))
    assert (stopped["stop_reason"], stopped["stop_sequence"]) == ("stop_sequence", "END")
    own = assembled(events(part(said="a"), part(end="stop", stop_string="<|im_end|>")))
    assert (own["stop_reason"], own["stop_sequence"]) == ("end_turn", None), "a stop string of the template is no sequence of the client's"
    assert assembled(events(part(end="stop")))["content"] == [{"type": "text", "text": ""}]
    odd = ChatWhole(calls=[ChatCall("call_a", "look", "no JSON")], finish_reason="tool_calls")
    assert whole_message({}, odd, [])["content"][0]["input"] == {"arguments": "no JSON"}


async def test_a_stream_shows_life_while_it_waits_and_is_left_at_once() -> None:
    asked = GenerationRequest(prompt=TextPrompt(text="x"))
    pause = asyncio.Event()
    generation = Told(Delta(text="a"), EngineCrashed("The engine ended."), pause=pause)
    stream = events_of(generation, asked, MessageEvents(generation, []), waiting_s=0.001)
    assert [await anext(stream) for _ in range(2)] == [b'event: ping\ndata: {"type":"ping"}\n\n'] * 2
    pause.set()
    rest = [frame async for frame in stream]
    assert rest[-1] == b'event: error\ndata: {"type":"error","error":{"type":"api_error","message":"The engine ended."}}\n\n' and generation.closed
    left = Told(pause=asyncio.Event())
    stream = events_of(left, asked, MessageEvents(left, []), waiting_s=0.001)
    await anext(stream)
    await stream.aclose()
    assert left.closed


# ---- errors --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def failing() -> Iterator[TestClient]:
    api = FastAPI()
    install_error_handlers(api)

    @api.post("/v1/messages")
    @api.post("/v1/models")
    async def fail(value: int) -> None:
        raise Busy("Too many wait.") if value else RuntimeError

    api.add_middleware(KeyGate, check=KeyCheck("the key"), page=False)
    api.add_middleware(AnthropicErrors)
    with TestClient(api, raise_server_exceptions=False, headers={"x-api-key": "the key"}) as client:
        yield client


def test_errors_have_their_shape_where_their_dialect_is_spoken(failing: TestClient) -> None:
    answer = failing.post("/v1/messages?value=1")
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
    assert answer.json() == {"type": "error", "error": {"type": "rate_limit_error", "message": "Too many wait."}}
    assert failing.post("/v1/messages?value=x").json()["error"]["type"] == "invalid_request_error"
    assert failing.get("/v1/messages").json()["error"]["message"] == "This address takes no GET requests."
    assert failing.post("/v1/models?value=1").json()["error"]["code"] == "Busy"
    keyless = failing.post("/v1/messages?value=1", headers={"x-api-key": "another"})
    assert (keyless.status_code, keyless.json()["error"]["type"]) == (401, "authentication_error")
    assert failing.post("/v1/models?value=1", headers={"anthropic-version": "2023-06-01"}).json()["type"] == "error"


def test_turns_of_one_role_are_put_together_once_however_many_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each was joined to all before it: ten thousand of them held up everybody for seconds."""
    seen: list[int] = []

    def counted(parts: Any) -> Any:
        taken = list(parts)
        seen.append(len(taken))
        return joined(taken)

    monkeypatch.setattr(anthropic_blocks, "joined", counted)
    turns: list[Any] = [{"role": "user", "content": text} for text in ("a", "", "b", "c")] + [{"role": "assistant", "content": "d"}, {"role": "assistant", "content": "e"}]
    found = MessagesRequest.model_validate({"max_tokens": 1, "messages": turns}).told()["messages"]
    assert [(message["role"], message["content"]) for message in found] == [
        ("user", [{"type": "text", "text": "a\n\nb\n\nc"}]), ("assistant", [{"type": "text", "text": "d\n\ne"}]),
    ]  # fmt: skip
    assert seen == [4, 2]
