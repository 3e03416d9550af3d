"""A server that speaks OpenAI's API by a script: it can refuse, fail, hang, break off. Stands for the servers of others, never for Paddock's own parts.

Runs in the event loop of the test. Knows HTTP as far as a client of a model needs it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Sequence
from typing import Any, Self

WORDS = ("Once", " upon", " a", " time")


def chunk(text: str = "", **more: Any) -> dict[str, Any]:
    """A piece of a chat reply."""
    return {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": text} if text else {}, **more}]}


def story(words: Sequence[str] = WORDS) -> list[dict[str, Any]]:
    """A whole reply, as vLLM streams it."""
    usage = {"prompt_tokens": 7, "completion_tokens": len(words), "prompt_tokens_details": {"cached_tokens": 3}}
    pieces = [chunk(word) for word in words]
    return [{"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}, *pieces, chunk(finish_reason="stop"), {"choices": [], "usage": usage}]


class Upstream:
    """One server on a port of this machine. Change its fields to change what it does."""

    def __init__(self, models: Sequence[str] = ("tale",), owner: str = "vllm") -> None:
        self.models = list(models)
        self.owner = owner
        self.status = 200  # of completions
        self.error: Any = {"error": {"message": "because of the test"}}
        self.headers = ""
        self.list_status = 200
        self.hangs = False  # takes requests and says nothing, also not in the middle of a reply, as a stopped process does
        self.list_hangs = False  # only checks get no answer
        self.waits = False  # answers checks, but writes nothing
        self.keeps = False  # the connection of a stream, for the next request
        self.connections = 0
        self.breaks_after = -1  # pieces, then the connection is cut
        self.pieces: list[Any] = story()
        self.answer: dict[str, Any] | None = None  # to every other POST
        self.requests: list[tuple[str, dict[str, str], Any]] = []
        self.gone = 0  # clients that went away before the end
        self.running = 0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen; again at the same port after `stop`."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """End it as kill -9 does: everything breaks off."""
        assert self._server is not None
        self._server.close()
        for writer in tuple(self._writers):
            writer.transport.abort()
        await asyncio.sleep(0)

    def asked(self, path: str) -> list[Any]:
        """Bodies sent to a path."""
        return [body for at, _, body in self.requests if at == path]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        self.connections += 1
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while await self._answer(reader, writer):
                pass
        self._writers.discard(writer)
        writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.split("\r\n")
        _, path, _ = first.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        raw = await reader.readexactly(int(headers.get("content-length", "0")))
        self.requests.append((path, headers, json.loads(raw) if raw else None))
        while self.hangs or (self.list_hangs and path == "/v1/models"):
            await asyncio.sleep(0.01)
        if path == "/v1/models":
            entries = [{"id": name, "object": "model", "owned_by": self.owner, "max_model_len": 512} for name in self.models]
            return await self._whole(writer, self.list_status, {"object": "list", "data": entries})
        if self.status != 200:
            return await self._whole(writer, self.status, self.error)
        if not path.endswith("completions") or self.answer is not None:
            return await self._whole(writer, 200 if self.answer is not None else 404, self.answer or {})
        await self._stream(reader, writer)
        return self.keeps

    async def _whole(self, writer: asyncio.StreamWriter, status: int, value: Any) -> bool:
        raw = value if isinstance(value, bytes) else json.dumps(value).encode()
        head = f"HTTP/1.1 {status} Because\r\n{self.headers}content-type: application/json\r\ncontent-length: {len(raw)}\r\n\r\n"
        writer.write(head.encode() + raw)
        await writer.drain()
        return True

    def _chunk(self, raw: bytes) -> bytes:
        return b"%x\r\n%s\r\n" % (len(raw), raw) if self.keeps else raw

    async def _stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.running += 1
        gone = asyncio.ensure_future(reader.read(1)) if not self.keeps else asyncio.get_running_loop().create_future()
        try:
            how = b"transfer-encoding: chunked" if self.keeps else b"connection: close"
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n" + how + b"\r\n\r\n")
            while self.waits and not gone.done():
                await asyncio.sleep(0.005)
            for number, piece in enumerate(self.pieces):
                while self.hangs and not gone.done():
                    await asyncio.sleep(0.01)
                if number == self.breaks_after:
                    writer.transport.abort()
                    return
                writer.write(self._chunk(piece if isinstance(piece, bytes) else f"data: {json.dumps(piece)}\n\n".encode()))
                await writer.drain()
                await asyncio.sleep(0.001)
                if gone.done():
                    break
            if not gone.done():
                writer.write(self._chunk(b"data: [DONE]\n\n") + (b"0\r\n\r\n" if self.keeps else b""))
                await writer.drain()
        finally:
            self.running -= 1
            self.gone += gone.done() or writer.transport.is_closing()
            gone.cancel()
