"""One generation as the web process sees it: an asynchronous stream of deltas that can be stopped.

Knows no process: the client pushes in what the child said. A slow consumer costs nobody anything: what it has not taken is put together.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from modules.core.errors import AppError
from modules.core.generation import Delta, FinishReason, Started, Usage
from modules.core.model import AdapterChoice

log = logging.getLogger(__name__)

KEPT_DELTAS = 64  # not taken by the consumer, before they are put together


def joined(deltas: Sequence[Delta]) -> Delta:
    """Several deltas of one generation as one."""
    if len(deltas) == 1:
        return deltas[0]
    last = deltas[-1]
    return Delta(
        text="".join(delta.text for delta in deltas),
        token_ids=tuple(token_id for delta in deltas for token_id in delta.token_ids),
        logprobs=tuple(entry for delta in deltas for entry in delta.logprobs),
        finish_reason=last.finish_reason,
        stop_string=last.stop_string,
        usage=last.usage,
        pieces=sum(delta.pieces for delta in deltas),
        prompt_logprobs=tuple(entry for delta in deltas for entry in delta.prompt_logprobs),
        calls=tuple(piece for delta in deltas for piece in delta.calls),
        end_id=last.end_id,
    )


@dataclass(frozen=True, slots=True)
class Ending:
    """How a generation ended and what it cost."""

    outcome: FinishReason
    usage: Usage
    first_token_s: float | None  # from the request to the first token, as this process saw it; None without a token
    whole: bool  # whether all of `usage` is known
    slot_s: float | None = None  # how long it had a slot; None where it never got one, or another server does not tell


class Inbox:
    """What the child said about one generation and the consumer has not taken yet. The event loop's thread uses it."""

    def __init__(self) -> None:
        self.started: Started | None = None
        self.place: int | None = None
        self.usage: Usage | None = None
        self.finish_reason: FinishReason | None = None
        self.on_place: Callable[[], None] | None = None
        self.on_end: list[Callable[[], None]] = []
        self.begun_s = time.monotonic()
        self.slot_from_s = 0.0  # since when it is known to have a slot
        self.first_s = 0.0  # when the first token was here
        self.tokens = 0  # so far
        self.alone = True  # no other generation ran or waited meanwhile
        self.ended = False  # nothing more will come
        self.error: AppError | None = None
        self.news = asyncio.Event()
        self._deltas: list[Delta] = []

    def start(self, started: Started) -> None:
        """It has a slot."""
        self.started, self.place, self.slot_from_s = started, None, time.monotonic()
        self._moved()

    def queue(self, place: int) -> None:
        """It waits."""
        self.place = place
        self._moved()

    def push(self, delta: Delta) -> None:
        """It wrote something, or ended."""
        if self.error is not None:  # it was ended from here, and the engine has not heard of it yet
            return
        if len(self._deltas) >= KEPT_DELTAS:
            self._deltas = [joined(self._deltas)]
        self._deltas.append(delta)
        self.tokens += delta.tokens
        if self.tokens and not self.first_s:
            self.first_s = time.monotonic()
        if delta.finish_reason is not None:
            self.usage, self.finish_reason = delta.usage, delta.finish_reason
            self._end()
        self.news.set()

    def fail(self, error: AppError) -> None:
        """It ended with an error, which the consumer gets after the text so far."""
        if not self.ended:
            self.error = error
            self._end()
            self.news.set()

    def abandon(self) -> None:
        """Nobody waits for it any more."""
        if not self.ended:
            self._end()

    def ending(self) -> Ending:
        """How it ended; what it cost is only partly known of one that did not come to its own end."""
        outcome = self.finish_reason or ("error" if self.error is not None else "cancelled")
        first_token_s = self.first_s - self.begun_s if self.first_s else None
        slot_s = time.monotonic() - self.slot_from_s if self.started is not None else None
        if self.usage is not None:
            computed_s = self.usage.prefill_s + self.usage.decode_s
            return Ending(outcome, self.usage, first_token_s, whole=True, slot_s=computed_s or slot_s)
        started = self.started
        usage = Usage(started.prompt_tokens if started else 0, started.reused_tokens if started else 0, self.tokens)
        return Ending(outcome, usage, first_token_s, whole=False, slot_s=slot_s)

    def _end(self) -> None:
        self.ended = True
        told, self.on_end = self.on_end, []
        for tell in told:
            tell()

    def take(self) -> Delta | None:
        """Everything new, put together; None when there is nothing."""
        if not self._deltas:
            return None
        delta, self._deltas = joined(self._deltas), []
        return delta

    def _moved(self) -> None:
        self.news.set()
        if self.on_place is not None:
            try:
                self.on_place()
            except AppError as error:
                log.warning("A listener for the place in the queue failed: %s", error.message)


class ClientGeneration:
    """Iterate for `Delta`s; the last has a `finish_reason`. Close it, or leave its `async with`, to stop and forget it.

    An engine that dies or fails raises its error from the iteration, after the text so far was delivered. One that is dropped without being
    closed is cancelled too, as soon as it is collected.
    """

    def __init__(
        self, inbox: Inbox, model: str, send_cancel: Callable[[bool], Awaitable[None]], adapters: Sequence[AdapterChoice] = ()
    ) -> None:
        self._inbox = inbox
        self._send_cancel = send_cancel
        self._closed = False
        self.model = model
        self.adapters = tuple(adapters)
        self.expect: Callable[[], float | None] | None = None  # tells how long it will wait

    @property
    def started(self) -> Started | None:
        """Facts about the prompt, once it has a slot."""
        return self._inbox.started

    @property
    def place(self) -> int | None:
        """Place in the queue, 1 is next; None when it does not wait."""
        return self._inbox.place

    @property
    def expected_s(self) -> float | None:
        """How long it will wait for a slot from now on; None when it does not wait, or that cannot be told."""
        return self.expect() if self.expect is not None and self.place is not None else None

    @property
    def tokens(self) -> int:
        """How many it has written."""
        return self._inbox.tokens

    @property
    def usage(self) -> Usage | None:
        """What it cost, once it has ended."""
        return self._inbox.usage

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self._inbox.ended or self._closed

    @property
    def on_place(self) -> Callable[[], None] | None:
        """Called when the place changed and when the slot was found; at once, where it waits already."""
        return self._inbox.on_place

    @on_place.setter
    def on_place(self, listener: Callable[[], None] | None) -> None:
        self._inbox.on_place = listener
        if listener is not None and self._inbox.place is not None:  # told before anybody listened
            listener()

    def when_ended(self, tell: Callable[[Ending], None]) -> None:
        """Call `tell` once with how it ended; at once, where it has. Several may be told."""
        inbox = self._inbox

        def end() -> None:
            tell(inbox.ending())

        if inbox.ended:
            end()
        else:
            inbox.on_end.append(end)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Delta:
        inbox = self._inbox
        while not self._closed:
            delta = inbox.take()
            if delta is not None:
                return delta
            if inbox.error is not None:
                self._closed = True
                raise inbox.error
            if inbox.ended:
                break
            inbox.news.clear()
            await inbox.news.wait()
        raise StopAsyncIteration

    async def waits(self, seconds: float) -> bool:
        """Whether it still waits for a slot after news of it, or after that time. Takes no delta."""
        inbox = self._inbox
        if inbox.started is None and not inbox.ended and not self._closed:
            inbox.news.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await inbox.news.wait()
        return inbox.started is None and not inbox.ended and not self._closed

    async def cancel(self) -> None:
        """Stop it; the iteration goes on to its last delta, which says `cancelled`."""
        if not self._inbox.ended:
            await self._send_cancel(False)

    async def end_with(self, error: AppError) -> None:
        """Stop it with an error, which the iteration raises after the text so far."""
        if not self.ended:
            await self._send_cancel(False)
            self._inbox.fail(error)

    async def aclose(self) -> None:
        """Stop it if it runs, and hear no more of it."""
        if not self._closed:
            self._closed = True
            self._inbox.news.set()
            await self._send_cancel(True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
