"""The guard: who is let through, who is refused, and what every response carries."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request

from modules.api.guard import IMAGES_LIMIT_BYTES, JSON_LIMIT_BYTES, Guard

HOME = "http://127.0.0.1:7860"


def guarded(root_path: str = "", **options: Any) -> httpx.AsyncClient:
    api = FastAPI()

    @api.get("/v1/models")
    @api.get("/")
    @api.get("/gradio_api/runs/1")
    async def read() -> dict[str, bool]:
        return {"read": True}

    @api.post("/v1/completions")
    @api.post("/v1/chat/completions")
    @api.post("/ui/datasets/upload")
    async def write(request: Request) -> dict[str, int]:
        return {"bytes": len(await request.body())}

    return httpx.AsyncClient(transport=httpx.ASGITransport(app=Guard(api, **options), root_path=root_path), base_url=HOME)  # type: ignore[arg-type]


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost", "LOCALHOST:7860", "localhost.", "[::1]:7860"])
async def test_own_names_are_let_through(host: str) -> None:
    async with guarded() as client:
        assert (await client.get("/", headers={"host": host})).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.nip.io", "a@evil", "", "127.0.0.1:7860:1", "localhost evil"])
async def test_foreign_host_names_are_refused(host: str) -> None:
    async with guarded() as client:
        response = await client.get("/", headers={"host": host})
    assert response.status_code == 421
    assert "--allowed-host" in response.json()["error"]["message"]


async def test_an_allowed_host_is_let_through() -> None:
    async with guarded(allowed_hosts=("llm.home",)) as client:
        assert (await client.get("/", headers={"host": "llm.home"})).status_code == 200
    async with guarded(allowed_hosts=("FD00::5",)) as client:  # as --host has it; clients send it in brackets
        assert (await client.get("/", headers={"host": "[fd00::5]:7860"})).status_code == 200


async def test_the_rules_hold_below_the_prefix_of_a_proxy() -> None:
    async with guarded(root_path="/llm") as client:
        assert (await client.get("/llm/v1/models")).status_code == 200
        assert (await client.get("/llm/gradio_api/runs/1")).status_code == 404
        assert (await client.get("/llm/v1/models", headers={"sec-fetch-site": "cross-site"})).status_code == 403


async def test_two_host_headers_are_refused() -> None:
    async with guarded() as client:
        response = await client.get("/", headers=[("host", "127.0.0.1:7860"), ("host", "evil.example")])
    assert response.status_code == 421


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:9999", "https://localhost.evil.example"])
async def test_foreign_origins_cannot_write(origin: str) -> None:
    async with guarded() as client:
        assert (await client.post("/v1/chat/completions", json={}, headers={"origin": origin})).status_code == 403
        preflight = await client.options("/v1/chat/completions", headers={"origin": origin, "access-control-request-method": "POST"})
    assert preflight.status_code == 403
    assert "access-control-allow-origin" not in preflight.headers


async def test_the_own_origin_and_programs_can_write() -> None:
    async with guarded() as client:
        assert (await client.post("/v1/chat/completions", json={}, headers={"origin": HOME})).status_code == 200
        assert (await client.post("/v1/chat/completions", json={})).status_code == 200


async def test_a_cross_site_navigation_reads_no_data() -> None:
    async with guarded() as client:
        assert (await client.get("/v1/models", headers={"sec-fetch-site": "cross-site"})).status_code == 403
        assert (await client.get("/", headers={"sec-fetch-site": "cross-site"})).status_code == 200  # following a link to the page


async def test_an_allowed_origin_gets_cors_headers() -> None:
    async with guarded(allowed_origins=("https://app.home",)) as client:
        response = await client.post("/v1/chat/completions", json={}, headers={"origin": "https://app.home"})
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == "https://app.home"


async def test_forbidden_routes_do_not_exist() -> None:
    async with guarded() as client:
        assert (await client.get("/gradio_api/runs/1")).status_code == 404
        assert (await client.get("/gradio_api/file=http://127.0.0.1/")).status_code == 404


@pytest.mark.parametrize(("path", "limit"), [("/v1/completions", JSON_LIMIT_BYTES), ("/v1/chat/completions", IMAGES_LIMIT_BYTES)])
async def test_a_long_body_is_refused_by_its_length_and_by_its_bytes(path: str, limit: int) -> None:
    async def chunks() -> Any:
        for _ in range(limit // (1 << 20) + 2):
            yield b"x" * (1 << 20)

    async with guarded() as client:
        declared = await client.post(path, content=b"x" * (limit + 1))
        counted = await client.post(path, content=chunks())
    assert declared.status_code == 413
    assert counted.status_code == 413
    assert str(limit) in counted.json()["error"]["message"]


async def test_a_slow_body_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modules.api.guard.BODY_TIME_LIMIT_S", 0.2)

    async def drip() -> Any:
        yield b"{"
        await asyncio.sleep(5)
        yield b"}"

    async with guarded() as client:
        response = await asyncio.wait_for(client.post("/v1/chat/completions", content=drip()), 4)
    assert response.status_code == 413


async def test_the_file_of_a_data_set_may_be_long_and_no_other_body(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modules.api.guard.JSON_LIMIT_BYTES", 1000)
    monkeypatch.setattr("modules.api.guard.DATASET_LIMIT_BYTES", 5000)
    async with guarded() as client:
        codes = [(await client.post(path, content=b"x" * size)).status_code for path, size in (
            ("/ui/datasets/upload?name=a", 5000), ("/ui/datasets/upload?name=a", 5001), ("/ui/datasets/preview", 1001), ("/ui/datasets/upload/", 1001),
        )]  # fmt: skip
    assert codes == [200, 413, 413, 413]


async def test_the_file_of_a_data_set_has_time_for_its_bytes_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modules.api.guard.BODY_TIME_LIMIT_S", 0.3)
    monkeypatch.setattr("modules.api.guard.UPLOAD_BYTES_PER_S", 1000)

    async def drip(size: int) -> Any:
        for _ in range(8):
            yield b"x" * size
            await asyncio.sleep(0.1)

    async with guarded() as client:
        steady = await client.post("/ui/datasets/upload", content=drip(200))
        slow = await asyncio.wait_for(client.post("/ui/datasets/upload", content=drip(1)), 4)
        other = await asyncio.wait_for(client.post("/v1/completions", content=drip(200)), 4)
    assert (steady.status_code, slow.status_code, other.status_code) == (200, 413, 413)
    assert steady.json() == {"bytes": 1600}


async def test_every_response_carries_the_policy() -> None:
    async with guarded() as client:
        for response in (await client.get("/"), await client.get("/", headers={"host": "evil.example"})):
            assert "default-src 'self'" in response.headers["content-security-policy"]
            assert response.headers["x-content-type-options"] == "nosniff"
