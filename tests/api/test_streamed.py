"""An answer in pieces: sent to its end, ended where the client leaves, and never more ended than that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from modules.api.streamed import Streamed

pytestmark = pytest.mark.asyncio


class Client:
    """What a server hands to an application: the client leaves when it is told to, and what is sent to it is kept."""

    def __init__(self) -> None:
        self.left = asyncio.Event()
        self.sent: list[dict[str, Any]] = []

    async def receive(self) -> dict[str, Any]:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, event: dict[str, Any]) -> None:
        self.sent.append(event)

    @property
    def body(self) -> bytes:
        return b"".join(event.get("body", b"") for event in self.sent)


class Pieces:
    """Two pieces, then whatever comes of the third; whether it was closed."""

    def __init__(self, third: Any) -> None:
        self.third, self.closed = third, False

    async def made(self) -> AsyncIterator[bytes]:
        try:
            yield b"one "
            yield b"two "
            yield await self.third()
        finally:
            self.closed = True


async def three() -> bytes:
    return b"three"


async def for_ever() -> bytes:
    await asyncio.sleep(3600)
    return b""


async def broken() -> bytes:
    raise ValueError("no third piece")


async def answered(client: Client, pieces: Pieces) -> None:
    await Streamed(pieces.made(), media_type="text/plain")({"type": "http"}, client.receive, client.send)


async def begun(client: Client, pieces: Pieces) -> asyncio.Task[None]:
    """An answer that waits for its third piece."""
    answer = asyncio.create_task(answered(client, pieces))
    while client.body != b"one two ":
        await asyncio.sleep(0)
    return answer


async def test_all_is_sent_and_nothing_is_left_waiting() -> None:
    client, pieces, before = Client(), Pieces(three), asyncio.all_tasks()
    await answered(client, pieces)
    assert client.body == b"one two three"
    assert [client.sent[0]["type"], client.sent[-1]["more_body"]] == ["http.response.start", False]
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before
    assert pieces.closed


async def test_who_leaves_ends_it() -> None:
    client, pieces = Client(), Pieces(for_ever)
    answer = await begun(client, pieces)
    client.left.set()
    await asyncio.wait_for(answer, 5)
    assert pieces.closed
    assert client.sent[-1]["more_body"], "nobody is told that all was sent"


async def test_who_leaves_while_a_piece_is_sent_ends_what_makes_them() -> None:
    client, pieces = Client(), Pieces(three)
    is_full = asyncio.Event()

    async def send(event: dict[str, Any]) -> None:
        if event.get("body") == b"two ":
            is_full.set()
            await asyncio.sleep(3600)  # a client that takes nothing

    answer = asyncio.ensure_future(Streamed(pieces.made())({"type": "http"}, client.receive, send))
    await asyncio.wait_for(is_full.wait(), 5)
    assert not pieces.closed
    client.left.set()
    await asyncio.wait_for(answer, 5)
    assert pieces.closed


async def test_who_leaves_in_the_moment_in_which_something_comes_ends_it() -> None:
    """`wait_for` of Python 3.11 keeps a cancellation to itself then."""
    client, news, is_closed = Client(), asyncio.Event(), False

    async def made() -> AsyncIterator[bytes]:
        nonlocal is_closed
        try:
            yield b"one "
            await asyncio.wait_for(news.wait(), 60)
            while True:
                yield b"more "
                await asyncio.sleep(0)
        finally:
            is_closed = True

    answer = asyncio.ensure_future(Streamed(made())({"type": "http"}, client.receive, client.send))
    while client.body != b"one ":
        await asyncio.sleep(0)
    await asyncio.sleep(0.01)
    news.set()
    client.left.set()
    await asyncio.wait_for(answer, 5)
    assert is_closed


async def test_a_server_that_ends_is_not_taken_for_a_client_that_leaves() -> None:
    client, pieces = Client(), Pieces(for_ever)
    answer = await begun(client, pieces)
    client.left.set()
    answer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(answer, 5)
    assert pieces.closed


async def test_what_goes_wrong_is_raised_as_it_is() -> None:
    client, pieces = Client(), Pieces(broken)
    with pytest.raises(ValueError, match="no third piece"):
        await answered(client, pieces)
    assert client.body == b"one two "
    assert pieces.closed
