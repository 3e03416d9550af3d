"""Several choices in one stream: what one of them fails with ends all, whatever it is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from modules.api.completions import _interleaved
from modules.core.errors import AppError, Busy


@pytest.mark.parametrize("failure", [Busy("no room"), KeyError("a defect")])
async def test_a_choice_that_fails_ends_the_stream(failure: Exception) -> None:
    async def good() -> AsyncIterator[dict[str, Any]]:
        yield {"index": 0}

    async def bad() -> AsyncIterator[dict[str, Any]]:
        yield {"index": 1}
        raise failure

    seen: list[int] = []
    with pytest.raises((AppError, KeyError)) as caught:
        async with asyncio.timeout(10):
            async for piece in _interleaved([good(), bad()]):
                seen.append(piece["index"])
    assert caught.value is failure and sorted(seen) == [0, 1]
