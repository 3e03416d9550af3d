"""What cannot be saved is told with its cure; every other surprise of the machine is a defect of ours. A body that does not hold is refused in a short sentence."""

from __future__ import annotations

import dataclasses
import errno
import os
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from pydantic import BaseModel, ValidationError

from modules.api.anthropic_schemas import MessagesRequest
from modules.api.app import build_api
from modules.api.embeddings import EmbeddingBody
from modules.api.errors import NOT_WRITABLE, install_error_handlers, validation_message
from modules.api.ollama_bodies import ChatBody
from modules.api.ollama_names import OllamaRoute
from modules.api.responses_schemas import ResponsesRequest
from modules.api.schemas import ChatRequest, CompletionRequest
from modules.core.errors import AppError, Busy, InvalidRequest, QuotaExceeded
from modules.core.settings import GIVEN_LIMIT, WHERE_LIMIT, Settings, validation_sentence
from modules.services.app import build_app


async def answer_to(number: int) -> httpx.Response:
    """What a client gets when a route ends with this error of the machine."""
    api = FastAPI()
    install_error_handlers(api)

    @api.post("/note")
    async def keep() -> None:
        raise OSError(number, os.strerror(number), "/a/secret/folder/notes.json")

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=api, raise_app_exceptions=False), base_url="http://127.0.0.1") as client:
        return await client.post("/note")


@pytest.mark.parametrize("number", sorted(NOT_WRITABLE), ids=lambda number: errno.errorcode[number])
async def test_what_cannot_be_saved_is_told_with_a_cure(number: int) -> None:
    answer = await answer_to(number)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"]) == (500, "server_error")
    assert error["message"] == f"This could not be saved: {os.strerror(number)}. Free some space, or make the folder writable, then try again."


def test_a_full_and_a_read_only_disk_are_among_them() -> None:
    assert {errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM} <= NOT_WRITABLE


async def test_another_error_of_the_machine_is_a_defect() -> None:
    answer = await answer_to(errno.EBADF)
    assert answer.status_code == 500
    assert answer.json()["error"]["message"].startswith("Something in Paddock itself went wrong; the server goes on.")


async def test_a_defect_is_told_in_the_shape_that_the_route_speaks(tmp_path: Path) -> None:
    """What answers defects stands outside of what tells all other errors anew."""
    places = {name: tmp_path / name for name in ("models_dir", "loras_dir", "datasets_dir", "presets_dir", "templates_dir", "characters_dir", "state_dir")}
    app = build_app(Settings(**places, model="none"))  # type: ignore[arg-type]
    await app.start()
    broken: Any = None
    api = build_api(dataclasses.replace(app, generation=broken))
    body = {"model": "a", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
    try:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=api, raise_app_exceptions=False), base_url="http://127.0.0.1") as client:
            openai, anthropic, ollama = [await client.post(path, json=body) for path in ("/v1/chat/completions", "/v1/messages", "/api/chat")]
    finally:
        await app.close()
    assert [answer.status_code for answer in (openai, anthropic, ollama)] == [500, 500, 500]
    sentence = openai.json()["error"]["message"]
    assert sentence.startswith("Something in Paddock itself went wrong")
    assert anthropic.json() == {"type": "error", "error": {"type": "api_error", "message": sentence}}
    assert ollama.json() == {"error": sentence}


# ---- bodies that do not hold ---------------------------------------------------------------------------------------

LONG = "heron " * 2000
HELLO = {"role": "user", "content": "Hello"}
SAID = {"role": "user", "content": LONG}
LOOK = {"type": "function", "function": {"name": "look", "description": LONG}}
ANTHROPIC = {"messages": [SAID], "max_tokens": 5}


def said_of(kind: type[BaseModel], values: dict[str, Any]) -> tuple[str, str]:
    """What is said of a body that does not hold, over the API and by the services."""
    with pytest.raises((ValidationError, InvalidRequest)) as caught:
        body: Any = kind.model_validate(values)
        body.chat()
    error = caught.value
    return (error.message, error.message) if isinstance(error, InvalidRequest) else (validation_message(error)[0], validation_sentence(error))


@pytest.mark.parametrize(
    ("kind", "values", "words"),
    [
        (ChatRequest, {"messages": [HELLO], "response_format": {"type": "xml"}}, "json_schema; got 'xml'."),
        (ChatRequest, {"messages": [HELLO], "response_format": {"type": LONG}}, "json_schema; got 'heron heron"),
        (ChatRequest, {"messages": [SAID], "tool_choice": LONG}, "a function; got 'heron"),
        (ChatRequest, {"messages": [SAID], "tools": [LOOK], "tool_choice": {"type": "function", "function": {"name": "other"}}}, "'other', which is not among the tools."),
        (ChatRequest, {"messages": [{"role": "user", "content": [{"type": LONG}]}]}, "are not supported yet; send text"),
        (ChatRequest, {"messages": [{"role": LONG, "content": "x"}]}, "heron"),
        (ChatRequest, {"messages": [HELLO], "structured_outputs": {"structural" + LONG: 1}}, "is not supported; use json"),
        (CompletionRequest, {"prompt": {"text": LONG}}, "prompt"),
        (MessagesRequest, {"messages": [SAID]}, "max_tokens: Field required."),
        (MessagesRequest, {**ANTHROPIC, "tool_choice": {"type": LONG}}, "tool_choice.type: Input should be 'auto', 'any', 'tool' or 'none'; got 'heron"),
        (MessagesRequest, {**ANTHROPIC, "tool_choice": LONG}, "tool_choice"),
        (MessagesRequest, {**ANTHROPIC, "tools": [{"name": "look"}], "tool_choice": {"type": "tool", "name": LONG}}, "which is not among the tools."),
        (MessagesRequest, {**ANTHROPIC, "tools": [{"type": LONG, "name": "x"}]}, "describe a tool of your own"),
        (MessagesRequest, {**ANTHROPIC, "messages": [{"role": "user", "content": [{"type": LONG}]}]}, "messages.0"),
        (MessagesRequest, {"messages": LONG, "max_tokens": 5}, "messages"),
        (ResponsesRequest, {"input": LONG, "tool_choice": {"type": LONG}}, "tool_choice"),
        (ResponsesRequest, {"input": [{"type": LONG}]}, "are not supported"),
        (ResponsesRequest, {"input": {"a": LONG}}, "input"),
        (EmbeddingBody, {"input": {"a": LONG}}, "input"),
        (ChatBody, {"messages": LONG}, "messages"),
    ],
)  # fmt: skip
def test_a_sentence_quotes_a_value_once_and_never_much_of_it(kind: type[BaseModel], values: dict[str, Any], words: str) -> None:
    for message in said_of(kind, values):
        assert words.lower() in message.lower() and message.endswith(".") and message.count("; got ") <= 1, message
        assert message.count("heron ") * len("heron ") <= 200, message
        assert len(message) <= 600


def test_the_name_of_a_field_is_shortened_too() -> None:
    class Strict(BaseModel, extra="forbid"):
        known: int = 1

    with pytest.raises(ValidationError) as caught:
        Strict.model_validate({LONG: 1})
    assert len(validation_message(caught.value)[0]) < WHERE_LIMIT + GIVEN_LIMIT
    assert len(validation_sentence(caught.value)) < WHERE_LIMIT + GIVEN_LIMIT


@pytest.mark.parametrize("given", [{}, {"json_schema": {"name": "x"}}, {"json_schema": {"name": "x", "schema": None}}, {"json_schema": None}, {"schema": ""}])
def test_a_schema_is_missed_where_one_is_promised(given: dict[str, Any]) -> None:
    said, _ = said_of(ChatRequest, {"messages": [HELLO], "response_format": {"type": "json_schema", **given}})
    assert said.startswith("response_format: the type json_schema needs a schema, as json_schema.schema; send one, or the type json_object for any object")
    told, _ = said_of(ResponsesRequest, {"input": "Hi", "text": {"format": {"type": "json_schema", "name": "x"}}})
    assert "schema" in told


def test_a_schema_may_stand_in_either_place() -> None:
    for given in ({"json_schema": {"name": "x", "schema": {"enum": [1]}}}, {"schema": {"enum": [1]}}, {"json_schema": {"schema": True}}):
        asked = ChatRequest.model_validate({"messages": [HELLO], "response_format": {"type": "json_schema", **given}})
        assert asked.shape()["json_schema"] in ({"enum": [1]}, True)


@pytest.mark.parametrize(("error", "after"), [(Busy("Full."), "1"), (QuotaExceeded("Enough.", retry_after_s=77), "77"), (InvalidRequest("No."), None)])
async def test_every_dialect_says_when_to_ask_again(error: AppError, after: str | None) -> None:
    async def refused() -> None:
        raise error

    api, ollama, ours = FastAPI(), APIRouter(prefix="/api", route_class=OllamaRoute), APIRouter(prefix="/v1")
    install_error_handlers(api)
    for router in (ollama, ours):
        router.add_api_route("/chat", refused, methods=["POST"])
        api.include_router(router)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=api), base_url="http://127.0.0.1") as client:
        for path in ("/api/chat", "/v1/chat"):
            answer = await client.post(path, json={})
            assert answer.headers.get("retry-after") == after and answer.status_code == (429 if after else 400), path
