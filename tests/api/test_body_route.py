"""The short way of a good body is no other way: what is answered, refused and described is what the framework's own route answers, refuses and describes."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, field_validator

from modules.api.body_route import BodyRoute
from modules.api.errors import install_error_handlers
from modules.core.errors import Busy

TYPES = ("application/json", "application/json; charset=utf-8", "APPLICATION/JSON", "application/vnd.api+json", "text/plain", "application/x-www-form-urlencoded", None)


class Body(BaseModel):
    """With what the real ones have: bounds, lists, validators."""

    model: str = ""
    n: int = Field(1, ge=1, le=8)
    prompt: str | list[int] = ""

    @field_validator("model")
    @classmethod
    def _known(cls, value: str) -> str:
        if value == "unknown":
            raise ValueError("there is no such model")
        return value


def api_with(route: type[APIRoute]) -> FastAPI:
    """One route that tells what it got."""
    api, router = FastAPI(), APIRouter(route_class=route)
    install_error_handlers(api)

    @router.post("/write", response_model=None)
    async def write(body: Body, request: Request) -> Response:
        """Tell it."""
        if body.model == "busy":
            raise Busy("Busy.")
        return JSONResponse({"body": body.model_dump(), "set": sorted(body.model_fields_set), "by": request.headers["user-agent"]})

    api.include_router(router)
    return api


APIS = tuple(api_with(route) for route in (APIRoute, BodyRoute))


def answers(content: bytes, kind: str | None) -> list[tuple[int, Any]]:
    """Status and body of both."""

    async def ask(api: FastAPI) -> tuple[int, Any]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=api, raise_app_exceptions=False), base_url="http://127.0.0.1") as client:
            answer = await client.post("/write", content=content, headers={} if kind is None else {"content-type": kind})
            return answer.status_code, answer.json()

    async def ask_both() -> list[tuple[int, Any]]:
        return [await ask(api) for api in APIS]

    return asyncio.run(ask_both())


values = st.recursive(st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(["", "unknown", "busy", "a", "3"]), lambda inner: st.lists(inner, max_size=3), max_leaves=4)
bodies = st.dictionaries(st.sampled_from(["model", "n", "prompt", "more"]), values) | values


@given(bodies, st.sampled_from(TYPES))
@example({"prompt": [1, 2], "n": 2}, TYPES[0])
@example(None, TYPES[0])
def test_any_json_is_answered_as_by_the_framework(body: Any, kind: str | None) -> None:
    by_framework, by_us = answers(json.dumps(body).encode(), kind)
    assert by_us == by_framework


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b'{"n": NaN}', b'{"n": 1e999}', b"[" * 100_000, b"prompt=a"])
@pytest.mark.parametrize("kind", TYPES)
def test_what_is_no_json_is_too(content: bytes, kind: str | None) -> None:
    by_framework, by_us = answers(content, kind)
    assert by_us == by_framework


async def test_a_body_that_is_broken_off_is_not_read_on() -> None:
    """The guard tells of a body beyond its limits as of a client that left; what comes after that is not to be read."""
    assert await broken_off(APIS[0]) == await broken_off(APIS[1]) == (400, 2)


async def broken_off(api: FastAPI) -> tuple[int, int]:
    """The status, and how many events were asked for."""
    events = iter([{"type": "http.request", "body": b'{"n"', "more_body": True}, {"type": "http.disconnect"}, {"type": "http.request", "body": b": 1}"}])
    asked = status = 0

    async def receive() -> Any:
        nonlocal asked
        asked += 1
        return next(events)

    async def send(event: Any) -> None:
        nonlocal status
        status = event.get("status", status)

    scope = {"type": "http", "method": "POST", "path": "/write", "query_string": b"", "headers": [(b"content-type", b"application/json")], "http_version": "1.1"}
    await api(scope, receive, send)
    return status, asked


def test_it_is_described_alike() -> None:
    described = [api.openapi() for api in APIS]
    assert described[0] == described[1]


def test_it_is_for_one_kind_of_function() -> None:
    router = APIRouter(route_class=BodyRoute)

    async def with_query(body: Body, request: Request, more: str = "") -> Response:
        return Response()

    async def without_request(body: Body) -> Response:
        return Response()

    async def of_anything(body: dict[str, Any], request: Request) -> Response:
        return Response()

    async def told_by_fastapi(body: Body, request: Request) -> dict[str, Any]:
        return {}

    for wrong in (with_query, without_request, of_anything):
        with pytest.raises(TypeError, match="BodyRoute|no model"):
            router.add_api_route("/wrong", wrong, methods=["POST"], response_model=None)
    with pytest.raises(TypeError, match="BodyRoute"):
        router.add_api_route("/wrong", told_by_fastapi, methods=["POST"])
