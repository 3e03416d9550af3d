"""Followers: a closed tab is gone at once, a reload is not gone, and whoever still looks counts."""

from __future__ import annotations

import asyncio
import time

import pytest

from modules.services import followers
from modules.services.followers import Followers


async def test_nobody_looks_so_it_is_left_at_once() -> None:
    looking = Followers()
    with looking.follow("a"):
        pass
    began_s = time.monotonic()
    assert await looking.left("a")
    assert time.monotonic() - began_s < 1


async def test_the_stream_of_the_closed_tab_ends_a_moment_later() -> None:
    looking = Followers()
    stream = looking.follow("a")
    stream.__enter__()
    asyncio.get_running_loop().call_later(0.1, stream.__exit__, None, None, None)
    assert await looking.left("a")


async def test_another_tab_still_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(followers, "DETACH_S", 0.1)
    looking = Followers()
    with looking.follow("a"), looking.follow("b"):
        assert not await looking.left("a")
    assert await looking.left("a")


async def test_a_reload_comes_back() -> None:
    looking = Followers()
    looking.expect("a")  # the browser asks for the new page before the old one leaves
    leaving = asyncio.create_task(looking.left("a"))
    await asyncio.sleep(0.1)
    assert not leaving.done()
    with looking.follow("a"):
        assert not await leaving


async def test_a_page_that_never_comes_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(followers, "RETURN_S", 0.1)
    looking = Followers()
    looking.expect("a")
    assert await looking.left("a")


async def test_a_page_that_has_come_is_expected_no_more() -> None:
    looking = Followers()
    looking.expect("a")
    with looking.follow("a"):
        pass
    assert await looking.left("a")


async def test_what_was_expected_long_ago_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(followers, "RETURN_S", 0.05)
    looking = Followers()
    for number in range(100):
        looking.expect(f"never opened {number}")
    await asyncio.sleep(0.1)
    looking.expect("b")
    assert len(looking._expected_s) == 1
