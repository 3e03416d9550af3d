"""Bodies of very many small values: counted while they come, refused before they are read, and what is wrong with them told by the first thing that is."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from pydantic import BaseModel, ValidationError

from modules.api.anthropic_errors import AnthropicErrors
from modules.api.anthropic_schemas import MessagesRequest
from modules.api.chat_parts import MANY_MESSAGES, beside
from modules.api.embeddings import EmbeddingBody
from modules.api.guard import Guard
from modules.api.internal import TokensBody
from modules.api.json_count import MOST_GROUPS, MOST_VALUES, JsonCount, limits_of
from modules.api.ollama_bodies import ChatBody, EmbedBody, GenerateBody
from modules.api.responses_schemas import ResponsesRequest
from modules.api.schemas import ChatRequest, CompletionRequest
from modules.core.errors import InvalidRequest

BLOCK = {"type": "text", "text": "a"}


def counted(*pieces: bytes) -> tuple[int, int]:
    count = JsonCount()
    for piece in pieces:
        count.add(piece)
    return count.groups, count.values


def slowly(body: bytes) -> tuple[int, int]:
    """The same, character by character."""
    groups = commas = 0
    inside = escaped = False
    for letter in body.decode():
        if inside:
            escaped, inside = letter == "\\" and not escaped, letter != '"' or escaped
        else:
            inside = letter == '"'
            groups += letter in "[{"
            commas += letter == ","
    return groups, groups + commas


@pytest.mark.parametrize("seed", range(300))
def test_what_is_in_strings_does_not_count_wherever_the_body_is_cut(seed: int) -> None:
    chance = random.Random(seed)
    text = "".join(chance.choice('"\\,[]{}a\n') for _ in range(chance.randint(0, 12)))
    body = json.dumps(chance.choice([[text, {text: [text, 1]}], {"a": text, "b": [[], text]}, [[text] * 3, [text]], text])).encode()
    cuts = sorted(chance.sample(range(len(body)), min(len(body), chance.randint(0, 8))))
    pieces = [body[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    assert counted(*pieces) == slowly(body)


def test_another_encoding_hides_nothing() -> None:
    body = json.dumps({'"': [[]] * 50}).encode("utf-16")
    assert counted(body)[0] == counted(body[:3], body[3:7], body[7:])[0] == 52


def test_only_what_is_read_as_json_is_counted() -> None:
    assert limits_of("/v1/chat/completions", "") is not None
    assert limits_of("/ui/conversations", "application/json") is not None
    assert limits_of("/ui/conversations/import", "application/json") is None
    assert limits_of("/ui/datasets/upload", "application/octet-stream") is None
    assert limits_of("/gradio_api/upload", "application/json") is None


@pytest.fixture
def client() -> Iterator[httpx.AsyncClient]:
    api = FastAPI()

    @api.post("/{path:path}")
    async def read(request: Request) -> int:
        return len(await request.body())

    yield httpx.AsyncClient(transport=httpx.ASGITransport(app=AnthropicErrors(Guard(api))), base_url="http://127.0.0.1:7860")  # type: ignore[arg-type]


async def test_a_body_of_very_many_values_is_refused_before_it_is_read(client: httpx.AsyncClient) -> None:
    many = {"max_tokens": 1, "messages": [{"role": "user", "content": [BLOCK] * 200_000}]}
    for path in ("v1/chat/completions", "v1/responses", "api/chat"):
        answer = await client.post(path, json=many)
        assert answer.status_code == 413
        assert f"200,004 lists and objects or more, and at most {MOST_GROUPS:,} are accepted" in answer.json()["error"]["message"]
    answer = await client.post("v1/messages", json=many)
    assert (answer.status_code, answer.json()["error"]["type"]) == (413, "request_too_large")
    few = {"messages": [{"role": "user", "content": [BLOCK] * (MOST_GROUPS - 4)}]}
    assert (await client.post("v1/chat/completions", json=few)).status_code == 200
    keys = await client.post("v1/chat/completions", json={f"k{number}": 1 for number in range(MOST_VALUES + 1)})
    assert (keys.status_code, f"at most {MOST_VALUES:,} are accepted" in keys.text) == (413, True)
    assert (await client.post("v1/completions", json={"prompt": [1] * 1_000_000})).status_code == 200
    assert (await client.post("v1/completions", json={"prompt": [1] * 1_200_001})).status_code == 413


NULLS = [None] * 50_000
USER = [{"role": "user", "content": NULLS}]


@pytest.mark.parametrize(("kind", "body"), [
    (CompletionRequest, {"prompt": NULLS}), (CompletionRequest, {"prompt": [[1, None]] * 2000}), (CompletionRequest, {"prompt": "a", "adapters": NULLS[:9000]}),
    (CompletionRequest, {"prompt": "a", "stop": NULLS[:9000]}), (EmbeddingBody, {"input": NULLS}), (EmbeddingBody, {"input": "a", "adapters": NULLS}), (TokensBody, {"tokens": NULLS}),
    (EmbedBody, {"input": NULLS}), (GenerateBody, {"prompt": "a", "context": NULLS, "images": NULLS}), (ChatBody, {"messages": NULLS, "tools": NULLS}),
    (ChatRequest, {"messages": NULLS}), (ChatRequest, {"messages": USER}), (ChatRequest, {"messages": [{"role": "assistant", "tool_calls": NULLS}]}),
    (MessagesRequest, {"max_tokens": 1, "messages": USER, "system": NULLS[:9000], "stop_sequences": NULLS[:9000]}), (MessagesRequest, {"max_tokens": 1, "messages": NULLS}),
    (ResponsesRequest, {"input": NULLS, "include": NULLS[:9000]}), (ResponsesRequest, {"input": USER}), (ResponsesRequest, {"input": [{"type": "reasoning", "summary": NULLS}]}),
])  # fmt: skip
def test_a_wrong_list_is_told_by_the_first_thing_that_is_wrong(kind: type[BaseModel], body: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        kind.model_validate(body)
    assert caught.value.error_count() <= 8


@pytest.mark.parametrize("body", [{"samplers": [1] * 10_001}, {"custom_token_bans": "a," * 50_000}, {"dry_sequence_breakers": ["a"] * 10_001}])
def test_lists_of_parameters_have_a_length(body: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="a list has at most 10000 values; got 10001"):
        CompletionRequest.model_validate({"prompt": [1] * 20_000, **body})


async def test_a_long_conversation_is_put_together_beside_what_else_goes_on() -> None:
    assert await beside(threading.get_ident, MANY_MESSAGES) == threading.get_ident()
    assert await beside(threading.get_ident, MANY_MESSAGES + 1) != threading.get_ident()
