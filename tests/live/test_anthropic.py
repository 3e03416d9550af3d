"""Anthropic's Messages API over plain HTTP: whole messages, events, counts, errors, and clients that go away."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.live.conftest import SLOW
from tests.paddock_server import STARTER, PaddockServer, wait_for
from tests.tiny_vision import picture

QUESTION = "What is a LoRA?"
ANSWER = "A LoRA is a small adapter"
GREEDY = {"model": STARTER, "max_tokens": 60, "temperature": 0, "messages": [{"role": "user", "content": QUESTION}]}
THOUGHTFUL = {"regex": "<think>[a-z]{3}</think>[a-z]{4}", "max_tokens": 40}  # what makes a model think that never learned to
HEADERS = {"anthropic-version": "2023-06-01", "x-api-key": "none"}


@pytest.fixture(scope="module")
def http(server: PaddockServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{server.url}v1", headers=HEADERS, timeout=60) as client:
        yield client


def ask(http: httpx.Client, **fields: Any) -> dict[str, Any]:
    answer = http.post("/messages", json={**GREEDY, **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()


def events(http: httpx.Client, **fields: Any) -> list[dict[str, Any]]:
    with http.stream("POST", "/messages", json={**GREEDY, "stream": True, **fields}) as answer:
        assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/event-stream")
        return [json.loads(line.removeprefix("data: ")) for line in answer.iter_lines() if line.startswith("data: ")]


def deltas(found: list[dict[str, Any]], name: str) -> str:
    return "".join(event["delta"].get(name, "") for event in found if event["type"] == "content_block_delta")


def test_a_whole_message_and_its_count(http: httpx.Client) -> None:
    message = ask(http)
    assert (message["type"], message["role"], message["model"], message["stop_reason"], message["stop_sequence"]) == ("message", "assistant", STARTER, "end_turn", None)
    assert message["id"].startswith("msg_") and [block["type"] for block in message["content"]] == ["text"]
    assert message["content"][0]["text"].startswith(ANSWER)
    again = ask(http)["usage"]
    counted = http.post("/messages/count_tokens", json={name: GREEDY[name] for name in ("model", "messages")}).json()["input_tokens"]
    assert again["input_tokens"] + again["cache_read_input_tokens"] == counted > 5
    assert again["cache_read_input_tokens"] == counted - 1 and again["output_tokens"] == message["usage"]["output_tokens"] > 5
    with_system = {"model": STARTER, "messages": GREEDY["messages"], "system": [{"type": "text", "text": "Be kind."}], "prompt_template": "ChatML"}
    assert http.post("/messages/count_tokens", json=with_system).json()["input_tokens"] > counted


def test_events_say_the_same_as_a_whole_message(http: httpx.Client) -> None:
    whole, found = ask(http), events(http)
    kinds = [event["type"] for event in found]
    assert kinds[:3] == ["message_start", "ping", "content_block_start"] and kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert deltas(found, "text") == whole["content"][0]["text"]
    assert found[-2]["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    start, end = found[0]["message"]["usage"], found[-2]["usage"]
    assert start["input_tokens"] + start["cache_read_input_tokens"] == end["input_tokens"] + end["cache_read_input_tokens"] > 5
    assert end["output_tokens"] == whole["usage"]["output_tokens"]


def test_thoughts_come_in_a_block_of_their_own(http: httpx.Client) -> None:
    whole, found = ask(http, **THOUGHTFUL), events(http, **THOUGHTFUL, thinking={"type": "enabled", "budget_tokens": 1024})
    thought, text = whole["content"]
    assert (thought["type"], len(thought["thinking"]), text["type"], len(text["text"])) == ("thinking", 3, "text", 4)
    assert [event["content_block"]["type"] for event in found if event["type"] == "content_block_start"] == ["thinking", "text"]
    assert [deltas(found, name) for name in ("thinking", "text", "signature")] == [thought["thinking"], text["text"], thought["signature"]]
    back = [*GREEDY["messages"], {"role": "assistant", "content": whole["content"]}, {"role": "user", "content": "And?"}]
    assert ask(http, messages=back)["usage"]["output_tokens"] > 0, "what it thought can be sent back as it came"


LOOK = {"name": "look", "description": "Looks.", "input_schema": {"type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}}, "required": ["city"]}}
WAIT = {"type": "custom", "name": "wait", "input_schema": {"type": "object"}, "cache_control": {"type": "ephemeral"}}


@pytest.mark.parametrize("choice", [{"type": "tool", "name": "look"}, {"type": "any", "disable_parallel_tool_use": True}])
def test_tools_are_called_and_their_results_told(http: httpx.Client, choice: dict[str, Any]) -> None:
    asked = {"tools": [LOOK, WAIT] if "name" in choice else [LOOK], "tool_choice": choice, "max_tokens": 300}
    whole, found = ask(http, **asked), events(http, **asked)
    call = whole["content"][0]
    assert (whole["stop_reason"], call["type"], call["name"]) == ("tool_use", "tool_use", "look") and call["input"]["city"] in ("Rome", "Oslo") and call["id"]
    start = next(event["content_block"] for event in found if event["type"] == "content_block_start")
    assert (start["type"], start["name"], start["input"]) == ("tool_use", "look", {}) and start["id"]
    first = next(event["index"] for event in found if event["type"] == "content_block_start")
    said = "".join(event["delta"]["partial_json"] for event in found if event["type"] == "content_block_delta" and event["index"] == first)
    assert json.loads(said) == call["input"] and found[-2]["delta"]["stop_reason"] == "tool_use"
    result = {"type": "tool_result", "tool_use_id": call["id"], "content": [{"type": "text", "text": "rain"}]}
    turns = [*GREEDY["messages"], {"role": "assistant", "content": [call]}, {"role": "user", "content": [result, {"type": "text", "text": "So?"}]}]
    after = ask(http, messages=turns, tools=asked["tools"], tool_choice={"type": "none"})
    assert after["stop_reason"] in ("end_turn", "max_tokens") and after["content"][0]["text"]
    counted = http.post("/messages/count_tokens", json={"model": STARTER, "messages": GREEDY["messages"], "tools": asked["tools"], "tool_choice": choice}).json()["input_tokens"]
    assert counted == sum(whole["usage"][name] for name in ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")), "tools are in the prompt"


def test_every_end(http: httpx.Client) -> None:
    text = ask(http)["content"][0]["text"]
    stopped = ask(http, stop_sequences=["never said", text[20:26]])
    assert (stopped["stop_reason"], stopped["stop_sequence"]) == ("stop_sequence", text[20:26])
    assert stopped["content"][0]["text"] == text[: text.index(text[20:26])]
    assert events(http, stop_sequences=[text[20:26]])[-2]["delta"] == {"stop_reason": "stop_sequence", "stop_sequence": text[20:26]}
    cut = ask(http, max_tokens=3)
    assert (cut["stop_reason"], cut["usage"]["output_tokens"]) == ("max_tokens", 3)
    begun = text[: text.index(" writes")]
    rest = ask(http, messages=[*GREEDY["messages"], {"role": "assistant", "content": begun}])["content"][0]["text"]
    assert begun + rest == text, "the last message of the model is continued"
    read = ask(http, max_tokens=0)
    assert (read["content"], read["usage"]["output_tokens"]) == ([{"type": "text", "text": ""}], 0)


def test_fields_of_ours_act(http: httpx.Client) -> None:
    assert ask(http, regex="[a-c]{5}")["content"][0]["text"].strip("abc") == ""
    shaped = ask(http, output_config={"format": {"type": "json_schema", "schema": {"enum": ["yes"]}}})
    assert json.loads(shaped["content"][0]["text"]) == "yes"
    wild = ask(http, temperature=5, seed=1, top_k=1)
    assert wild["content"][0]["text"] == ask(http)["content"][0]["text"]


def test_models_in_their_shape(http: httpx.Client) -> None:
    listed = http.get("/models?limit=1000").json()
    assert not listed["has_more"] and listed["first_id"] == STARTER
    one = http.get(f"/models/{STARTER}").json()
    assert one == next(model for model in listed["data"] if model["id"] == STARTER)
    assert (one["type"], one["display_name"], one["max_input_tokens"]) == ("model", STARTER, 1024)


PNG = base64.b64encode(picture(1)).decode()
SHOWN = [{"role": "user", "content": [{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}]}]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fields", "status", "kind", "words"),
    [
        ({"max_tokens": None}, 400, "invalid_request_error", "max_tokens: Field required"),
        ({"messages": []}, 400, "invalid_request_error", "messages: "),
        ({"model": "no-such-model"}, 404, "not_found_error", "There is no model “no-such-model”"),
        ({"preset": "No Such Preset"}, 404, "not_found_error", "No Such Preset"),
        ({"messages": [{"role": "user", "content": "word " * 2000}]}, 400, "invalid_request_error", "The conversation needs"),
        ({"messages": SHOWN}, 400, "invalid_request_error", "image"),
    ],
)
def test_errors_have_their_shape(http: httpx.Client, stream: bool, fields: dict[str, Any], status: int, kind: str, words: str) -> None:
    for path in ("/messages", "/messages/count_tokens") if "model" in fields else ("/messages",):
        answer = http.post(path, json={**GREEDY, "stream": stream, **fields})
        error = answer.json()
        assert (answer.status_code, error["type"], error["error"]["type"]) == (status, "error", kind)
        assert words in error["error"]["message"] and error["error"]["message"].endswith(".")


def test_refusals_before_any_route_have_their_shape_too(http: httpx.Client) -> None:
    rebound = http.post("/messages", json=GREEDY, headers={"host": "example.com"})
    assert (rebound.status_code, rebound.json()["error"]["type"]) == (421, "permission_error")
    foreign = http.post("/messages", json=GREEDY, headers={"origin": "https://example.com"})
    assert (foreign.status_code, foreign.json()["error"]["type"]) == (403, "permission_error")
    assert http.post("/messages", content=b"{", headers={"content-type": "application/json"}).json()["error"]["type"] == "invalid_request_error"
    batches = http.post("/messages/batches", json={})
    assert batches.status_code == 404 and "There are no batches" in batches.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body"),
    [("messages", {"max_tokens": 2000, "messages": [{"role": "user", "content": "Hello"}]}), ("responses", {"max_output_tokens": 2000, "input": "Hello"})],
)
def test_whoever_leaves_a_stream_frees_its_slot(slow: PaddockServer, path: str, body: dict[str, Any]) -> None:
    before = slow.counters()
    with slow.http.stream("POST", f"v1/{path}", json={"model": SLOW, "ban_eos": True, "stream": True, **body}) as answer:
        next(line for line in answer.iter_lines() if '"delta"' in line)
    wait_for(lambda: slow.counters()["running"] == 0, "the slot is free", 5)
    after = slow.counters()
    assert after["cancelled"] == before["cancelled"] + 1
    assert after["decode_tokens"] - before["decode_tokens"] < 1000
