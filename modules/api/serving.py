"""Serving with uvicorn, and its end: replies that are nearly done finish, the others stop with a sentence, the page's own streams are cut off.

An end that is asked for to start again is the same, but the port is kept. Knows the signals and the order of the end; knows no route and no service.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import ssl
from contextlib import suppress
from functools import partial
from types import FrameType

import uvicorn
from fastapi import FastAPI

from modules.api.connections import HANDSHAKE_LIMIT_S, bounded_protocol
from modules.core.log_masks import without_query
from modules.core.server_run import ServerRun
from modules.core.settings import Settings

REPLY_GRACE_S = 2.0  # after a signal, until the services end and with them every reply
LAST_WORDS_S = 0.3  # for the sentences to leave, before the streams that never end by themselves are cut off
TICK_S = 1.0  # between looks whether it is to end, unless that is told; the time in headers is made anew then
STREAM_GRACE_S = 6  # until everything is cut off, whatever the services do


class _Server(uvicorn.Server):
    """Ends the services while streams are still open, so that clients are told."""

    def __init__(self, config: uvicorn.Config, listener: socket.socket) -> None:
        super().__init__(config)
        self._listener = listener
        self._kept: socket.socket | None = None
        self._signalled = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._told = asyncio.Event()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal ends it for good, also while it ends to start again."""
        self._signalled = True
        super().handle_exit(sig, frame)
        self._tell()

    async def main_loop(self) -> None:
        """As uvicorn's own, but looking once a second and not ten times: a look takes a third of a millisecond from a model that computes on all cores."""
        self._loop = asyncio.get_running_loop()
        while not await self.on_tick(0):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._told.wait(), TICK_S)

    def _tell(self) -> None:
        """Wake the loop that looks whether this is the end; also out of a signal's handler."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._told.set)

    def end_to_start_again(self) -> None:
        """End as for a signal; who connects from now on waits for the next run."""
        if self._kept is None:
            self._kept = self._listener.dup()
            self.should_exit = True
            self._tell()

    def kept(self) -> socket.socket | None:
        """The listener for the next run, if there is to be one."""
        if self._kept is not None and self._signalled:
            self._kept.close()
            return None
        return self._kept

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen; who begins TLS and does not go on is not waited for as long as asyncio would."""
        if self.config.ssl is not None:
            loop = asyncio.get_running_loop()
            setattr(loop, "create_server", partial(loop.create_server, ssl_handshake_timeout=HANDSHAKE_LIMIT_S))  # noqa: B010 - of this loop alone
        await super().startup(sockets)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """No new connections, then the end as said above."""
        ending = asyncio.create_task(self._end_services())
        try:
            await super().shutdown(sockets)
        finally:
            ending.cancel()
            await asyncio.gather(ending, return_exceptions=True)

    async def _end_services(self) -> None:
        await asyncio.sleep(REPLY_GRACE_S)
        await self.lifespan.shutdown()  # asked twice it does it once
        await asyncio.sleep(LAST_WORDS_S)
        for task in self.server_state.tasks:
            task.cancel()


def _is_no_cut_off_stream(record: logging.LogRecord) -> bool:
    return not (record.exc_info and record.exc_info[0] is asyncio.CancelledError)


def serve(api: FastAPI, settings: Settings, listener: socket.socket, run: ServerRun, certificate: ssl.SSLContext | None = None) -> socket.socket | None:
    """Serve until a signal, or until it is to start again; returns when everything has ended, with the listener for the next run if there is one.

    With a certificate it is https that is served.
    """
    config = uvicorn.Config(
        api, log_config=None, log_level="info" if settings.verbose else "warning", timeout_graceful_shutdown=STREAM_GRACE_S, server_header=False, proxy_headers=False,
        root_path=settings.root_path, http=bounded_protocol(settings.connections_per_address), ws="none",  # nothing here speaks by web socket
        ssl_context_factory=(lambda *_: certificate) if certificate is not None else None,
    )  # fmt: skip
    logging.getLogger("uvicorn.error").addFilter(_is_no_cut_off_stream)
    logging.getLogger("uvicorn.access").addFilter(without_query)
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, lambda *_: None)  # uvicorn stops for them, then sends them again: they must not end the process badly
    server = _Server(config, listener)
    run.serve_with(server.end_to_start_again)
    asyncio.run(server.serve(sockets=[listener]))
    return server.kept()
