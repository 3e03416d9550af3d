"""Pools over scripted servers, which end with the test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from modules.loaders.remote.options import server_from
from modules.loaders.remote.pool import Pool
from tests.loaders.remote.pool_steps import QUICK
from tests.openai_upstream import Upstream


@pytest.fixture
async def start() -> AsyncIterator[Callable[..., Pool]]:
    pools: list[Pool] = []

    def begin(*upstreams: Upstream, **more: object) -> Pool:
        pools.append(Pool(server_from({"name": "gpu", "urls": [upstream.url for upstream in upstreams], **more}), QUICK))
        return pools[-1]

    yield begin
    for pool in pools:
        await pool.close()


@pytest.fixture
async def one() -> AsyncIterator[Upstream]:
    async with Upstream() as upstream:
        yield upstream


@pytest.fixture
async def two() -> AsyncIterator[Upstream]:
    async with Upstream() as upstream:
        yield upstream
