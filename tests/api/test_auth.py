"""The key: where it is asked for, that a good one always works, that bad ones are slowed down."""

from __future__ import annotations

import httpx
import pytest
from fastapi import FastAPI

from modules.api.auth import FAILURES_PER_MINUTE, KeyCheck, KeyGate, login_router

KEY = "correct horse battery staple"


def gated(*, page: bool, root_path: str = "") -> httpx.AsyncClient:
    check = KeyCheck(KEY)
    api = FastAPI()
    api.include_router(login_router(check))

    @api.get("/")
    @api.get("/v1/models")
    @api.get("/ui/models")
    async def read() -> dict[str, bool]:
        return {"read": True}

    api.add_middleware(KeyGate, check=check, page=page)  # type: ignore[arg-type]
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=api, root_path=root_path), base_url="http://127.0.0.1")


async def test_the_api_needs_the_key() -> None:
    async with gated(page=False) as client:
        refused = await client.get("/v1/models")
        assert refused.status_code == 401
        assert refused.json()["error"]["code"] == "invalid_api_key"
        assert (await client.get("/v1/models", headers={"authorization": f"Bearer {KEY}"})).status_code == 200
        assert (await client.get("/v1/models", headers={"x-api-key": KEY})).status_code == 200
        assert (await client.get(f"/v1/models?api_key={KEY}")).status_code == 401  # a key in an address ends in logs
        assert (await client.get("/")).status_code == 200  # on this machine the page itself stays open


async def test_the_login_of_a_proxy_hides_no_key_and_counts_as_no_guess() -> None:
    proxy = "Basic dXNlcjpwYXNz"
    async with gated(page=False) as client:
        for authorization in (proxy, proxy.lower(), "Bearer wrong"):
            assert (await client.get("/v1/models", headers={"authorization": authorization, "x-api-key": KEY})).status_code == 200
        assert (await client.get("/v1/models", headers={"authorization": f"bearer {KEY}", "x-api-key": "wrong"})).status_code == 200
        statuses = {(await client.get("/v1/models", headers={"authorization": proxy})).status_code for _ in range(FAILURES_PER_MINUTE + 2)}
        assert statuses == {401}


async def test_the_key_is_needed_below_the_prefix_of_a_proxy_too() -> None:
    async with gated(page=True, root_path="/llm") as client:
        assert (await client.get("/llm/v1/models")).status_code == 401
        assert (await client.get("/llm/login")).status_code == 200
        answer = await client.get("/llm/")
        assert (answer.status_code, answer.headers["location"]) == (303, "/llm/login")


async def test_the_page_asks_once_when_others_can_reach_it() -> None:
    async with gated(page=True) as client:
        first = await client.get("/")
        assert first.status_code == 303
        assert first.headers["location"].endswith("/login")
        assert (await client.get("/ui/models")).status_code == 401
        wrong = await client.post("/login", data={"key": "wrong"})
        assert wrong.status_code == 401
        assert "not the key" in wrong.text
        opened = await client.post("/login", data={"key": KEY})
        assert opened.status_code == 303
        assert "httponly" in opened.headers["set-cookie"].lower()
        assert (await client.get("/")).status_code == 200
        assert (await client.get("/ui/models")).status_code == 200


async def test_a_session_ends_with_the_server() -> None:
    assert not KeyCheck(KEY).good_session(KeyCheck(KEY).session())


async def test_guessing_is_slowed_down_but_the_good_key_always_works() -> None:
    async with gated(page=False) as client:
        statuses = [(await client.get("/v1/models", headers={"authorization": f"Bearer {n}"})).status_code for n in range(FAILURES_PER_MINUTE + 2)]
        assert statuses == [401] * FAILURES_PER_MINUTE + [429, 429]
        assert (await client.get("/v1/models", headers={"authorization": f"Bearer {KEY}"})).status_code == 200


@pytest.mark.parametrize("cookie", ["paddock_session=", "paddock_session=x", 'paddock_session="é"', "a;b;=;;"])
async def test_odd_cookies_open_nothing(cookie: str) -> None:
    async with gated(page=True) as client:
        assert (await client.get("/ui/models", headers={"cookie": cookie.encode()})).status_code == 401
