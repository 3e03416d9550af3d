"""Ollama's routes with raw requests: shapes, streams, counters, constraints, images, loading, errors, and what happens when a client leaves."""

from __future__ import annotations

import base64
import json
from datetime import datetime
from typing import Any

import httpx
import pytest

from tests.live.conftest import SLOW
from tests.paddock_server import STARTER, PaddockServer, wait_for

TALK: dict[str, Any] = {"model": STARTER, "messages": [{"role": "user", "content": "What is a LoRA?"}], "options": {"temperature": 0, "num_predict": 12}}
COUNTS = {"total_duration", "load_duration", "prompt_eval_count", "prompt_eval_duration", "eval_count", "eval_duration"}


def lines(server: PaddockServer, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    with server.http.stream("POST", path, content=json.dumps(body)) as answer:  # as in Ollama's own examples nothing says that it is JSON
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"] == "application/x-ndjson"
        return [json.loads(line) for line in answer.iter_lines()]


def whole(server: PaddockServer, path: str, body: dict[str, Any]) -> dict[str, Any]:
    return dict(server.ask("POST", path, {**body, "stream": False}))


def refused(server: PaddockServer, path: str, body: Any, status: int = 400) -> str:
    answer = server.http.post(path, json=body)
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]
    return str(answer.json()["error"])


@pytest.mark.parametrize(("path", "more"), [("api/chat", {}), ("api/generate", {"prompt": "What is a LoRA?"}), ("api/generate", {"prompt": "What is", "raw": True})])
def test_a_stream_has_the_pieces_of_the_whole_and_ends_with_counts(server: PaddockServer, path: str, more: dict[str, Any]) -> None:
    body = {**TALK, **more}
    once = whole(server, path, body)
    pieces = lines(server, path, {**body, "model": f"{STARTER}:latest"})
    text = [piece["message"]["content"] if "chat" in path else piece["response"] for piece in pieces]
    assert "".join(text) == (once["message"]["content"] if "chat" in path else once["response"]) != ""
    assert [piece["done"] for piece in pieces] == [False] * (len(pieces) - 1) + [True] and len(pieces) >= 2
    for last in (once, pieces[-1]):
        assert last.keys() >= COUNTS and (last["done_reason"], last["eval_count"]) == ("length", 12)
        assert last["total_duration"] > last["eval_duration"] > 0 and last["prompt_eval_count"] > 1
        assert datetime.fromisoformat(last["created_at"]).tzinfo is not None
    assert (once["model"], pieces[0]["model"]) == (STARTER, f"{STARTER}:latest")


def test_the_reply_is_that_of_the_other_api(server: PaddockServer) -> None:
    own = {"repeat_penalty": 1.0, "top_k": 0, "top_p": 1, "seed": -1, "repeat_last_n": 0}
    theirs = whole(server, "api/chat", {**TALK, "options": {**TALK["options"], **own}})
    ours = server.ask("POST", "v1/chat/completions", {"messages": TALK["messages"], "temperature": 0, "max_tokens": 12})
    assert theirs["message"] == {"role": "assistant", "content": ours["choices"][0]["message"]["content"]}
    assert theirs["prompt_eval_count"] == ours["usage"]["prompt_tokens"]
    with_system = whole(server, "api/generate", {"model": STARTER, "system": "Be brief.", "prompt": "Hello", "options": {"num_predict": 2}})
    both = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    assert with_system["prompt_eval_count"] == server.ask("POST", "v1/internal/chat-prompt", {"messages": both})["length"]


def test_a_format_shapes_the_reply(server: PaddockServer) -> None:
    schema = {"type": "object", "properties": {"answer": {"enum": ["yes", "no"]}}, "required": ["answer"], "additionalProperties": False}
    found = whole(server, "api/chat", {**TALK, "format": schema, "options": {"num_predict": 60}})
    assert json.loads(found["message"]["content"])["answer"] in ("yes", "no")
    assert whole(server, "api/generate", {"model": STARTER, "prompt": "x", "format": "json", "options": {"num_predict": 30}})["response"].lstrip().startswith("{")
    assert "format" in refused(server, "api/chat", {**TALK, "format": "xml"})


def test_tools_are_called_whole_and_their_answers_are_read(server: PaddockServer) -> None:
    parameters = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 12}}, "required": ["city"], "additionalProperties": False}
    tools = [{"type": "function", "function": {"name": "get_weather", "description": "The weather of a city.", "parameters": parameters}}]
    body = {**TALK, "tools": tools, "tool_choice": "required", "options": {"temperature": 0, "num_predict": 200}}
    once = whole(server, "api/chat", body)
    (call, *_) = once["message"]["tool_calls"]
    assert (call["function"]["name"], list(call["function"]["arguments"]), once["done_reason"]) == ("get_weather", ["city"], "stop")
    pieces = lines(server, "api/chat", body)
    assert [piece["message"]["tool_calls"] for piece in pieces if "tool_calls" in piece["message"]] == [once["message"]["tool_calls"]]
    assert "tool_calls" not in pieces[-1]["message"] and pieces[-1]["done"]
    answered = [*TALK["messages"], once["message"], {"role": "tool", "tool_name": "get_weather", "content": "4 degrees"}]
    prompt = whole(server, "api/chat", {**TALK, "messages": answered, "tools": tools})
    assert prompt["prompt_eval_count"] > once["prompt_eval_count"]
    assert "tools" in refused(server, "api/chat", {**TALK, "tools": [{"type": "web_search"}]})


def test_logprobs_and_stop_strings(server: PaddockServer) -> None:
    plain = whole(server, "api/chat", {**TALK, "logprobs": True, "top_logprobs": 2})
    assert len(plain["logprobs"]) == 12 and len(plain["logprobs"][0]["top_logprobs"]) == 2
    assert "".join(row["token"] for row in plain["logprobs"]) == plain["message"]["content"]
    word = plain["message"]["content"].split()[2]
    stopped = whole(server, "api/chat", {**TALK, "options": {**TALK["options"], "stop": [word]}})
    assert word not in stopped["message"]["content"] and stopped["done_reason"] == "stop"


def test_the_oldest_messages_are_left_out_and_counted_or_all_is_refused(server: PaddockServer) -> None:
    turns = [{"role": role, "content": "a word " * 60} for _ in range(15) for role in ("user", "assistant")]
    long = {**TALK, "messages": [*turns, *TALK["messages"]]}
    shortened = whole(server, "api/chat", long)
    assert 0 < shortened["dropped_messages"] < len(turns) and lines(server, "api/chat", long)[-1]["dropped_messages"] == shortened["dropped_messages"]
    assert "context" in refused(server, "api/chat", {**long, "truncate": False})
    assert "dropped_messages" not in whole(server, "api/chat", TALK)


def test_models_are_listed_shown_and_loaded(server: PaddockServer) -> None:
    (row, *_) = server.ask("GET", "api/tags")["models"]
    assert row["name"] == row["model"] == STARTER and len(row["digest"]) == 64 and row["size"] > 0 and row["details"]["format"] == "gguf"
    assert datetime.fromisoformat(row["modified_at"]).year > 2000
    (running,) = server.ask("GET", "api/ps")["models"]
    assert running["name"] == STARTER and running["context_length"] > 0 and datetime.fromisoformat(running["expires_at"]).tzinfo is not None
    for body in ({"model": STARTER}, {"name": f"{STARTER}:latest", "verbose": True}):
        shown = server.ask("POST", "api/show", body)
        assert "completion" in shown["capabilities"] and "messages" in shown["template"]
        assert shown["model_info"][f"{shown['details']['family']}.context_length"] == running["context_length"]
    assert server.ask("GET", "api/version")["version"].count(".") == 2
    for path, done in (("api/chat", {"messages": []}), ("api/generate", {})):
        loaded = server.ask("POST", path, {"model": STARTER, **done})
        assert (loaded["done"], loaded["done_reason"]) == (True, "load")
    assert "There is no model" in refused(server, "api/show", {"model": "none such:latest"}, 404)
    assert "There is no model" in refused(server, "api/chat", {**TALK, "model": "none such"}, 404)


def test_nothing_to_say_and_no_time_to_live_unloads(server: PaddockServer) -> None:
    gone = server.ask("POST", "api/generate", {"model": f"{STARTER}:latest", "keep_alive": "0s"})
    assert gone["done_reason"] == "unload" and server.loaded() == ""
    assert server.ask("POST", "api/generate", {"model": STARTER, "keep_alive": 0})["done_reason"] == "unload", "it is not there any more, as was wanted"
    assert whole(server, "api/chat", {**TALK, "keep_alive": "5m"})["load_duration"] > 0, "it comes back when it is named"
    assert server.loaded() == STARTER


def test_vectors(server: PaddockServer) -> None:
    found = server.ask("POST", "api/embed", {"model": STARTER, "input": ["A LoRA", "Größe"]})
    assert len(found["embeddings"]) == 2 and found["prompt_eval_count"] > 2
    assert sum(value * value for value in found["embeddings"][0]) == pytest.approx(1, abs=1e-4)
    assert len(server.ask("POST", "api/embed", {"model": STARTER, "input": "A LoRA", "dimensions": 8})["embeddings"][0]) == 8
    assert len(server.ask("POST", "api/embeddings", {"model": STARTER, "prompt": "A LoRA"})["embedding"]) == len(found["embeddings"][0])
    assert server.ask("POST", "api/embed", {"model": STARTER, "input": []})["embeddings"] == []


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("api/pull", {"model": "llama3"}, "Models page"),
        ("api/create", {"model": "x"}, "Models page"),
        ("api/chat", {"messages": [{"role": "nobody", "content": "x"}]}, "role"),
        ("api/chat", {"messages": "x"}, "messages"),
        ("api/chat", {"messages": [{"role": "user", "content": "x", "images": ["no image"]}]}, "base64"),
        ("api/chat", {"messages": [{"role": "user", "content": "x"}], "options": {"temperature": 99}}, "temperature"),
        ("api/generate", {"prompt": "x", "suffix": "y"}, "suffix"),
        ("api/generate", {"prompt": "x", "template": "{{ .Prompt }}"}, "template"),
        ("api/generate", {"prompt": "x", "raw": True, "images": ["x"]}, "images"),
        ("api/generate", {"prompt": "x", "keep_alive": []}, "keep_alive"),
    ],
)
def test_what_is_not_possible_is_said(server: PaddockServer, path: str, body: dict[str, Any], words: str) -> None:
    assert words in refused(server, path, body)


def test_addresses_and_bodies_that_are_none(server: PaddockServer) -> None:
    assert [server.http.head(path).status_code for path in ("", "api/version", "api/tags")] == [200] * 3
    assert server.http.get("api/nothing/at/all").json() == {"error": "There is nothing at this address."}
    assert server.http.request("DELETE", "api/delete", json={"model": STARTER}).status_code == 400
    assert "JSON" in server.http.post("api/chat", content=b"{").json()["error"]
    assert server.http.get("api/tags", headers={"sec-fetch-site": "cross-site"}).status_code == 403
    image = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(9 << 20)).decode()
    answer = server.http.post("api/chat", json={"model": STARTER, "messages": [{"role": "user", "content": "x", "images": [image]}]})
    assert answer.status_code == 400 and "image" in answer.json()["error"], "large, and this model does not see"


def test_a_client_that_leaves_frees_its_slot(slow: PaddockServer) -> None:
    before = slow.counters()["cancelled"]
    with httpx.stream("POST", f"{slow.url}api/chat", json={**TALK, "model": SLOW, "options": {"num_predict": -1, "ban_eos": True}}, timeout=60) as answer:
        next(answer.iter_lines())
        wait_for(lambda: slow.counters()["running"] == 1, "it is counted")
    wait_for(lambda: slow.counters()["running"] == 0, "its slot is free")
    assert slow.counters()["cancelled"] == before + 1
    assert slow.http.head("").status_code == 200 and slow.http.get("").text.startswith("Paddock is running"), "also without the page"
