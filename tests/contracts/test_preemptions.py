"""Replies that outgrow the memory of a real model: all are written to their end, and answers, metrics and lists say how often they gave way."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest

from modules.api.app import build_api
from modules.core.settings import Settings
from modules.services.app import build_app
from tests.exposition import labelled, read_exposition

pytestmark = pytest.mark.processes

NAME = "one.gguf"
COUNT = 160
ROOM = {"context_length": 256, "slots": 3, "threads": 1, "threads_batch": 1, "cache_tokens": 256}


async def test_who_gives_way_hears_of_it(tmp_path: Path, starter_gguf: Path) -> None:
    for name in ("models", "loras", "presets", "templates", "state"):
        (tmp_path / name).mkdir()
    shutil.copy(starter_gguf, tmp_path / "models" / NAME)
    folders: dict[str, Any] = {f"{name}_dir": tmp_path / name for name in ("models", "loras", "presets", "templates", "state")}
    app = build_app(Settings(template_check=False, model="none", **folders))
    await app.start()
    try:
        await app.models.load(NAME, "", ROOM)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=build_api(app)), base_url="http://localhost", timeout=60) as client:

            async def written(n: int) -> dict[str, Any]:
                body = {"model": NAME, "prompt": "Once upon a time", "max_tokens": COUNT, "ban_eos": True, "temperature": 1, "n": n}
                return (await client.post("/v1/completions", json=body)).json()["usage"]

            async def counted() -> float:
                samples = read_exposition((await client.get("/metrics")).text)
                return samples[labelled("paddock_engine_preemptions_total", model=NAME)]

            assert (await written(1))["timings"]["preempted_n"] == await counted() == 0
            usage = await written(3)
            assert usage["completion_tokens"] == 3 * COUNT
            assert usage["timings"]["preempted_n"] == await counted() > 0
            rows = (await client.get("/v1/internal/requests")).json()["requests"]
            assert sum(row["timings"]["preempted_n"] for row in rows) == usage["timings"]["preempted_n"]
    finally:
        await app.close()
