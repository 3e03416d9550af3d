"""Several addresses of one server as one: the least busy answers, and another one where it fails before the first word.

A reply of which something was passed on is never asked for again elsewhere. A request that waits at an address whose checks fail leaves it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

import httpx2

from modules.core.errors import AppError, NotFound, RemoteError
from modules.core.generation import Delta
from modules.loaders.remote.backend import AddressLook, Backend, Times
from modules.loaders.remote.connection import AddressError
from modules.loaders.remote.options import Kind, RemoteServer
from modules.loaders.remote.pieces import PieceError, PieceReader, ToldError
from modules.loaders.remote.refusals import WORDS_LIMIT, RefusedError, broken, how_it_broke, refusal
from modules.loaders.remote.requests import Ask
from modules.loaders.remote.sse import EventError, EventParser

LOOKED_AT_S = 10.0  # for so long after a look the addresses are checked
STALE_S = 30.0
ERROR_LIMIT_BYTES = 64 << 10
ANSWER_LIMIT_BYTES = 8 << 20
DONE = "[DONE]"
DRAIN_S = 0.2


class Pool:
    """The addresses of one server. One event loop uses it."""

    def __init__(self, server: RemoteServer, times: Times | None = None) -> None:
        self.server = server
        self._times = times or Times()
        self.backends = tuple(Backend(url, server.key, server.kind, self._times) for url in server.urls)
        self._checking = asyncio.Lock()
        self._checked_s: float | None = None
        self._refresh: asyncio.Task[None] | None = None
        self._looked_s = -LOOKED_AT_S
        self._wake = asyncio.Event()
        self._watcher: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """End the checks and all connections."""
        tasks = [task for task in (self._watcher, self._refresh) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(backend.close() for backend in self.backends))

    # ---- health ----------------------------------------------------------------------------------------------------

    async def look(self) -> tuple[AddressLook, ...]:
        """How the addresses are; they are checked again and again for a while after a look."""
        self._looked_s = time.monotonic()
        self._watch()
        await self.known()
        return tuple(backend.look() for backend in self.backends)

    async def known(self) -> None:
        """Return when every address has been checked at least once; what is known for long is checked anew meanwhile."""
        if self._checked_s is None:
            await self.check()
        elif time.monotonic() - self._checked_s >= STALE_S and (
            self._refresh is None or self._refresh.done()
        ):
            self._refresh = asyncio.create_task(self.check())

    async def check(self) -> None:
        """Check all addresses now."""
        asked_s = time.monotonic()
        async with self._checking:
            if self._checked_s is None or self._checked_s < asked_s:
                await asyncio.gather(*(backend.check() for backend in self.backends))
                self._checked_s = time.monotonic()

    def _watch(self) -> None:
        self._wake.set()
        if self._watcher is None:
            self._watcher = asyncio.create_task(self._check_while_used())

    async def _check_while_used(self) -> None:
        """An address that nobody uses and nobody looks at is not asked."""
        while True:
            if (
                not any(backend.busy for backend in self.backends)
                and time.monotonic() - self._looked_s > LOOKED_AT_S
            ):
                self._wake.clear()
                await self._wake.wait()
            await self.check()
            await asyncio.sleep(
                self._times.check_interval_s * random.uniform(0.8, 1.2)
            )  # several pools do not check in step

    # ---- models ----------------------------------------------------------------------------------------------------

    def models(self) -> dict[str, int]:
        """The models of all addresses under the names of the person, with their context length where it is told."""
        found: dict[str, int] = {}
        for backend in self.backends:
            for name, listed in backend.models.items():
                shown = next((alias for alias, names in self.server.aliases.items() if name in names), name)
                known = found.get(shown, 0)
                found[shown] = (
                    min(known, listed.context_length)
                    if known and listed.context_length
                    else known or listed.context_length
                )
        return found

    def name_at(self, backend: Backend, model: str) -> str:
        """What an address calls a model; empty if it does not have it."""
        names = (model, *self.server.aliases.get(model, ()))
        return next((name for name in names if name in backend.models), "")

    def kinds(self) -> tuple[Kind, ...]:
        """The kinds of servers in the pool, as far as they are known."""
        return tuple(dict.fromkeys(backend.kind for backend in self.backends if backend.state == "up"))

    # ---- choosing --------------------------------------------------------------------------------------------------

    async def _choose(self, model: str, tried: Sequence[Backend]) -> Backend:
        """The address to ask next.

        Raises:
            AppError: none is left; what is wrong with them, and the cure.
        """
        if not tried:
            await self.known()
        chosen = self.pick(model, tried)
        if chosen is None and not tried:
            await self.check()  # it may be back
            chosen = self.pick(model, tried)
        if chosen is None:
            raise self.problem(model)
        return chosen

    def pick(self, model: str, tried: Sequence[Backend] = ()) -> Backend | None:
        """The least busy address that is up and has the model; one that is left alone only if there is no other."""
        now_s = time.monotonic()
        usable = [b for b in self.backends if b.state == "up" and b not in tried and self.name_at(b, model)]
        willing = [b for b in usable if b.left_alone_until_s <= now_s] or usable
        return min(willing, key=lambda b: (b.busy, random.random()), default=None)

    def problem(self, model: str) -> AppError:
        """Why no address can be asked for a model."""
        name = self.server.name
        up = [backend for backend in self.backends if backend.state == "up"]
        if up:
            some = ", ".join(list(self.models())[:5]) or "none"
            return NotFound(
                f"“{name}” has no model “{model}”. It has: {some}. Choose one on the Models page.",
                field="model",
            )
        causes = "; ".join(
            f"{backend.host}: {backend.detail or 'not checked yet'}" for backend in self.backends
        )
        count = (
            "does not answer"
            if len(self.backends) == 1
            else f"does not answer at any of its {len(self.backends)} addresses"
        )
        return RemoteError(
            f"“{name}” {count} ({causes}). Check that its server runs; it is used again as soon as it answers."
        )

    # ---- asking ----------------------------------------------------------------------------------------------------

    async def write(self, ask: Ask, emit: Callable[[Delta], None], on_start: Callable[[], None]) -> None:
        """Have a reply written: `on_start` is called when an address has taken it, `emit` with each delta, the last has a finish reason.

        Raises:
            AppError: nobody could answer, or the address was lost in the middle of the reply.
        """
        sent = False

        def pass_on(delta: Delta) -> None:
            nonlocal sent
            sent = True
            emit(delta)

        async def attempt(backend: Backend, model: str) -> None:
            kept: list[Delta] = []
            await self._read_reply(
                backend, model, ask, kept.append if ask.request.whole else pass_on, on_start
            )
            for delta in kept:
                pass_on(delta)

        await self._anywhere(ask.model, attempt, lambda: sent)

    async def ask(
        self, model: str, path: str, body_of: Callable[[Kind, str], Mapping[str, Any]]
    ) -> Mapping[str, Any]:
        """The JSON answer of any address to a short request.

        Raises:
            AppError: nobody could answer.
        """
        found: dict[str, Any] = {}

        async def attempt(backend: Backend, name: str) -> None:
            client = await backend.client()
            async with client.stream(
                "POST", backend.url + path, json=body_of(backend.kind, name), headers=backend.headers()
            ) as response:
                raw = await _read(response, ANSWER_LIMIT_BYTES)
                if response.status_code != 200:
                    raise refusal(
                        backend.host, response.status_code, raw, name, response.headers.get("retry-after")
                    )
            try:
                found.update(json.loads(raw))
            except (ValueError, TypeError, RecursionError):
                raise broken(backend.host, "it answered something that is no JSON") from None

        await self._anywhere(model, attempt)
        return found

    async def _anywhere(
        self,
        model: str,
        attempt: Callable[[Backend, str], Awaitable[None]],
        is_late: Callable[[], bool] = lambda: False,
    ) -> None:
        """Try addresses, each at most once, until one answers; none after the first failure that `is_late`."""
        tried: list[Backend] = []
        errors: list[AppError] = []
        while True:
            try:
                backend = await self._choose(model, tried)
            except AppError as error:
                raise self._together(errors) if errors else error from None
            try:
                await self._with(backend, attempt(backend, self.name_at(backend, model)))
            except RefusedError as refused:
                if refused.fault:
                    backend.failed()
                if refused.wait_s:
                    backend.leave_alone(refused.wait_s)
                if is_late():
                    raise lost(backend.host, refused.error.message) from refused
                if not refused.elsewhere:
                    raise refused.error from refused
                tried.append(backend)
                errors.append(refused.error)
            else:
                backend.succeeded()
                return

    def _together(self, errors: Sequence[AppError]) -> AppError:
        """What all addresses that were tried said, as one error: the last one's, if it is not for them to mend."""
        if len(errors) == 1 or not all(isinstance(error, RemoteError) for error in errors):
            return errors[-1]
        return RemoteError(
            f"“{self.server.name}” could not answer at any of its addresses. "
            + " ".join(error.message for error in errors)
        )

    async def _with(self, backend: Backend, work: Awaitable[None]) -> None:
        """Do something at an address; give up as soon as its checks fail."""
        backend.busy += 1
        self._watch()
        working, down = asyncio.ensure_future(work), asyncio.ensure_future(backend.down.wait())
        try:
            await asyncio.wait({working, down}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise _stopped(backend)
            working.result()
        except (httpx2.HTTPError, AddressError) as error:
            raise broken(backend.host, how_it_broke(error)) from error
        finally:
            backend.busy -= 1
            for task in (working, down):
                task.cancel()
            await asyncio.gather(working, down, return_exceptions=True)

    async def _read_reply(
        self,
        backend: Backend,
        model: str,
        ask: Ask,
        emit: Callable[[Delta], None],
        on_start: Callable[[], None],
    ) -> None:
        client = await backend.client()
        asked_s = time.monotonic()
        body = ask.body(backend.kind, model)
        async with client.stream(
            "POST", backend.url + ask.path, json=body, headers=backend.headers()
        ) as response:
            if response.status_code != 200:
                raw = await _read(response, ERROR_LIMIT_BYTES)
                raise refusal(
                    backend.host, response.status_code, raw, model, response.headers.get("retry-after")
                )
            on_start()
            reader, first_s = PieceReader(ask.echo(backend.kind)), 0.0
            async for delta in _deltas(response, reader, backend):
                first_s = first_s or time.monotonic()
                emit(delta)
        ended_s = time.monotonic()
        if not reader.finished:
            raise broken(backend.host, "the reply broke off")
        emit(reader.last((first_s or ended_s) - asked_s, ended_s - first_s if first_s else 0.0))


async def _deltas(response: httpx2.Response, reader: PieceReader, backend: Backend) -> AsyncIterator[Delta]:
    """What a stream of events adds, until its end mark or its end."""
    parser = EventParser()
    try:
        async with contextlib.aclosing(response.aiter_raw()) as pieces:
            async for piece in pieces:
                backend.heard()
                for data in parser.feed(piece):
                    if data.strip() == DONE:
                        await _drain(pieces)
                        return
                    delta = reader.read(data)
                    if delta is not None:
                        yield delta
        for data in parser.end():
            delta = reader.read(data) if data.strip() != DONE else None
            if delta is not None:
                yield delta
    except (PieceError, EventError) as error:
        raise broken(backend.host, f"it sent {error}") from error
    except ToldError as error:
        words = " ".join(str(error).split())[:WORDS_LIMIT]
        raise RefusedError(
            RemoteError(f"{backend.host} failed while it wrote: {words}"), elsewhere=True, fault=True
        ) from error


async def _drain(pieces: AsyncIterator[bytes]) -> None:
    """Read to the end of a body of which nothing more is wanted, so that its connection can be used again."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_S):
            async for _ in pieces:
                pass


async def _read(response: httpx2.Response, limit: int) -> bytes:
    """The beginning of a body."""
    raw = bytearray()
    async for piece in response.aiter_raw():
        raw += piece
        if len(raw) > limit:
            break
    return bytes(raw)


def _stopped(backend: Backend) -> RefusedError:
    return broken(backend.host, f"its checks fail: {backend.detail}")


def lost(host: str, how: str) -> RemoteError:
    """A reply of which a part has been passed on: it is not asked for again elsewhere, as the rest would not fit."""
    return RemoteError(
        f"{host} was lost in the middle of the reply; the text so far is kept. Regenerate or continue it. ({how})"
    )
