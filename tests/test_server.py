"""The port that the server takes before anything else: what is sent over it leaves at once."""

from __future__ import annotations

import asyncio
import socket

from modules.core.settings import Settings
from server import bind
from tests.paddock_server import free_port


async def test_answers_are_not_held_back_until_the_last_one_was_acknowledged() -> None:
    """Without TCP_NODELAY a second answer on the same connection waits 40 ms between its head and its body."""
    seen: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.set_result(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    listener = bind(Settings(port=free_port()), port_given=True)
    async with await asyncio.start_server(serve, sock=listener):
        _, writer = await asyncio.open_connection(*listener.getsockname())
        assert await asyncio.wait_for(seen, 10)
        writer.close()
