"""Clients of other makers, unmodified: each is asked the same, and gets what the routes say when they are asked without any client."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.clients.conftest import Facts, Run
from tests.clients.scripts import asked
from tests.paddock_server import STARTER, PaddockServer

EVERY = frozenset({"text", "usage", "streamed", "stopped", "shaped", "wrong key", "unknown model", "too long"})
pytestmark = pytest.mark.timeout(300)
CALLS = ("called", "called streamed")
OPENAI_ERRORS = ("AuthenticationError", "NotFoundError", "BadRequestError")
SENTENCES = ("This server needs its key", "There is no model", "there is room for 1,023")
# Script, what it finds out besides, and how it names the three errors
CLIENTS = (
    ("with_openai.py", {*CALLS, "after the tool", "models", "pieces", "streamed_usage", "vectors", "version"}, OPENAI_ERRORS),
    ("with_langchain.py", {*CALLS, "after the tool", "pieces", "streamed_usage", "vectors"}, (*OPENAI_ERRORS[:2], "OpenAIContextOverflowError")),
    ("with_llama_index.py", {"called", "pieces", "vectors", "continued"}, OPENAI_ERRORS),
    ("with_litellm.py", {"called", "models", "pieces", "streamed_usage", "vectors"}, OPENAI_ERRORS),
    ("with_llm.py", {"models", "offered tools"}, SENTENCES),
    ("with_anthropic.py", {*CALLS, "after the tool", "counted", "models", "pieces", "streamed_usage"}, OPENAI_ERRORS),
    ("with_ollama.py", {"generated", "models", "offered tools", "pieces", "streamed_usage", "vectors"}, ("ResponseError 401: This server needs its key", "ResponseError 404: There is no model", "ResponseError 400: The last message")),
    ("with_openai.mjs", {*CALLS, "models", "pieces", "streamed_usage", "vectors"}, OPENAI_ERRORS),
    ("with_ai.mjs", {*CALLS, "pieces", "streamed_usage", "vectors"}, ("AI_APICallError 401", "AI_APICallError 404", "AI_APICallError 400")),
)


@pytest.fixture(scope="module")
def right(server: PaddockServer) -> Facts:
    """The answers of the routes themselves."""

    def chat(**more: Any) -> Any:
        return server.ask("POST", "v1/chat/completions", {**body, **more})

    body = {"model": STARTER, "messages": asked.MESSAGES, "temperature": 0, "max_tokens": asked.MAX_TOKENS}
    whole = chat()
    tools = chat(tools=[asked.TOOL], tool_choice="required")
    vectors = server.ask("POST", "v1/embeddings", {"model": STARTER, "input": asked.TEXTS})
    return {
        "text": whole["choices"][0]["message"]["content"],
        "usage": [whole["usage"]["prompt_tokens"], whole["usage"]["completion_tokens"]],
        "vectors": [row["embedding"] for row in vectors["data"]],
        "called": [[call["function"]["name"], json.loads(call["function"]["arguments"])] for call in tools["choices"][0]["message"]["tool_calls"]],
        "alone": chat(messages=asked.MESSAGES[1:])["usage"]["prompt_tokens"],
    }


@pytest.mark.parametrize(("script", "more", "errors"), CLIENTS, ids=[script for script, *_ in CLIENTS])
def test_a_client_gets_what_the_routes_say(run: Run, right: Facts, script: str, more: set[str], errors: tuple[str, str, str]) -> None:
    found = run(script)
    assert set(found) == EVERY | more
    assert found["text"] == found["streamed"] == found.get("generated", right["text"]) == right["text"]
    assert found["usage"] == found.get("streamed_usage", right["usage"]) == right["usage"]
    assert found["usage"][0] == found.get("counted", found["usage"][0]) > right["alone"], "the system prompt did not come along"
    assert found["stopped"] == right["text"].partition(asked.STOP)[0]
    assert found.get("pieces", 2) >= 2  # what comes faster than it is read comes together
    assert set(found["shaped"]) == {"color", "count"} and found["shaped"]["color"] in ("red", "green", "blue") and found["shaped"]["count"] in range(1, 10)
    assert STARTER in found.get("models", [STARTER, "paddock"]) or "paddock" in found["models"]
    assert all(vector == pytest.approx(other, abs=1e-6) for vector, other in zip(found.get("vectors", right["vectors"]), right["vectors"], strict=True))
    for way in CALLS:
        assert found.get(way, right["called"]) == right["called"] and right["called"][0][0] == "weather"
    assert found.get("after the tool", "x") and found.get("offered tools", "x")
    for what, name in zip(("wrong key", "unknown model", "too long"), errors, strict=True):
        assert name in found[what], f"{what}: {found[what]}"
