"""One reply that is being written: its text, what is known about it, and the keeping of its text while it grows. Knows no HTML and no queue."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from modules.core.errors import AppError
from modules.core.generation import Delta
from modules.core.messages import split_thinking
from modules.services.conversations import MessageRecord, MessageStatus
from modules.services.generation import ClientGeneration
from modules.services.kept_prompts import KeptPrompt
from modules.services.receipts import at_end, at_start
from modules.services.replay import Original

SAVE_AFTER_S = 0.6  # text is on disk at most so long, and the time of a write, after it came


@dataclass(frozen=True, slots=True)
class Before:
    """How a message stood before it was continued."""

    length: int
    status: MessageStatus
    receipt: dict[str, Any]


@dataclass(eq=False)
class Reply:
    """Followers wait on `waiter` and read the fields."""

    id: str
    conversation_id: str
    owner: str
    parent_id: str = ""  # the message it answers
    place: int = 0  # among those that are written at the same time
    text: str = ""  # everything the message holds, also what was there before it was continued
    status: MessageStatus = "streaming"
    error: str = ""
    model: str = ""
    doing: str = ""  # what is done before it begins
    thinking_s: float | None = None
    receipt: dict[str, Any] = field(default_factory=dict)
    before: Before | None = None
    original: Original | None = None  # what it is written again from
    left_out: int = 0  # messages that the engine was not even asked about: there is no room for them
    kept: KeptPrompt | None = None  # the prompt, which is still to be kept with it
    version: int = 0
    waiter: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None
    generation: ClientGeneration | None = None
    stop_asked: bool = False
    first_token_s: float = 0.0
    thinking_since_s: float | None = None

    @classmethod
    def continuing(cls, message: MessageRecord, owner: str) -> Reply:
        """A stored message that grows again: what its receipt said so far is kept in the new one, under `earlier`."""
        receipt = dict(message.receipt or {})
        earlier = receipt.pop("earlier", [])
        kept = [*earlier, receipt] if receipt else list(earlier)
        thinking_s = receipt.get("thinking_s")
        return cls(
            message.id,
            message.conversation_id,
            owner,
            parent_id=message.parent_id or "",
            text=message.content,
            model=message.model,
            thinking_s=thinking_s,
            receipt={**({"earlier": kept} if kept else {}), **({"thinking_s": thinking_s} if thinking_s is not None else {})},
            before=Before(len(message.content), message.status, dict(message.receipt or {})),
        )

    def touch(self) -> None:
        """Wake every follower."""
        self.version += 1
        waiter, self.waiter = self.waiter, asyncio.Event()
        waiter.set()

    def now_doing(self, what: str) -> None:
        """Tell the followers what is done before it begins; empty: no longer."""
        self.doing = what
        self.touch()

    def speed(self) -> float:
        """Tokens per second so far, the first token left out."""
        tokens = int(self.receipt.get("completion_tokens", 0))
        elapsed_s = time.monotonic() - self.first_token_s if self.first_token_s else 0.0
        return round((tokens - 1) / elapsed_s, 1) if elapsed_s > 0 and tokens > 1 else 0.0

    @property
    def running(self) -> bool:
        """Whether more may come."""
        return self.status == "streaming"

    def take(self, delta: Delta) -> None:
        """Put one delta into the text and wake the followers."""
        started = self.generation.started if self.generation else None
        if not self.text and started and started.starts_thinking:
            self.text = started.starts_thinking
        self.text += delta.text
        now_s = time.monotonic()
        thought = split_thinking(self.text)
        if thought.open and self.thinking_since_s is None:
            self.thinking_since_s = now_s
        elif not thought.open and self.thinking_since_s is not None and self.thinking_s is None:
            self.thinking_s = now_s - self.thinking_since_s
        self.first_token_s = self.first_token_s or now_s
        if started and "seed" not in self.receipt:
            self.receipt.update(at_start(started, self.left_out))
        self.receipt["completion_tokens"] = self.receipt.get("completion_tokens", 0) + delta.tokens
        if self.thinking_s is not None:
            self.receipt["thinking_s"] = round(self.thinking_s, 1)
        if delta.finish_reason is not None:
            self.receipt.update(at_end(delta))
            self.status = "stopped" if delta.finish_reason == "cancelled" else "complete"
            if self.original and self.status == "complete":
                told = self.receipt["replay"] = self.original.compared(self.text, self.model, self.receipt)
                if not told["same_text"]:
                    self.receipt["replay_texts"] = self.original.texts(self.text, told["differs_at"])
        self.touch()

    def fail(self, message: str) -> None:
        """End it with a sentence. One that was continued stays what it was, with what has come since."""
        self.status, self.error = "failed", message
        if self.before is None:
            return
        if len(self.text) > self.before.length:
            self.status = "stopped"
        else:
            self.status, self.receipt = self.before.status, dict(self.before.receipt)


async def keep_saved(reply: Reply, saved_length: int, save: Callable[[Reply], Awaitable[None]]) -> None:
    """Save the text of a reply, of which so much is saved, soon after it came, also when nothing more comes, until this is cancelled.

    Raises:
        AppError: it cannot be saved.
    """
    while True:
        while len(reply.text) == saved_length:
            await reply.waiter.wait()
        await asyncio.sleep(SAVE_AFTER_S)
        saved_length = len(reply.text)
        write = asyncio.ensure_future(save(reply))
        try:
            await asyncio.shield(write)
        except asyncio.CancelledError:
            await asyncio.wait({write})  # a text that is being written must not land after the last one
            raise


async def grow(reply: Reply, generation: ClientGeneration, save: Callable[[Reply], Awaitable[None]]) -> None:
    """Take in what a generation brings, to its end, and keep it saved meanwhile.

    Raises:
        AppError: it failed, or its text cannot be saved.
    """
    saving = asyncio.create_task(keep_saved(reply, len(reply.text), save))  # the first text may come before its first step
    broken: list[AppError] = []

    def stop_if_unsaved(task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if isinstance(error, AppError):
            broken.append(error)
            ending.append(asyncio.ensure_future(generation.cancel()))

    ending: list[asyncio.Future[Any]] = []
    saving.add_done_callback(stop_if_unsaved)
    try:
        async for delta in generation:
            reply.take(delta)
    finally:
        saving.cancel()
        await asyncio.gather(saving, *ending, return_exceptions=True)
        await generation.aclose()
    if broken:
        raise broken[0]
