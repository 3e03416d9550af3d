"""One reply that grows: kept on disk soon after its text came, continued without losing what it was."""

from __future__ import annotations

import asyncio

import pytest

from modules.core.errors import AppError
from modules.core.generation import Delta, Started, Usage
from modules.engine.client_generation import ClientGeneration, Inbox
from modules.services import reply as reply_module
from modules.services.conversations import MessageRecord
from modules.services.reply import Reply, grow

PATIENCE_S = 10


class Slow:
    """A model that writes when it is told to, and what was saved of its reply."""

    def __init__(self) -> None:
        self.inbox = Inbox()
        self.cancels: list[bool] = []
        self.generation = ClientGeneration(self.inbox, "slow", self._cancel)
        self.reply = Reply("reply", "talk", "ann", generation=self.generation)
        self.saved: list[str] = []
        self.news = asyncio.Event()
        self.problem: AppError | None = None

    async def _cancel(self, forget: bool) -> None:
        self.cancels.append(forget)
        if not self.inbox.ended:
            self.inbox.push(Delta(finish_reason="cancelled", usage=Usage()))

    async def save(self, reply: Reply) -> None:
        if self.problem is not None:
            raise self.problem
        self.saved.append(reply.text)
        self.news.set()

    async def until_saved(self, text: str) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not self.saved or self.saved[-1] != text:
                self.news.clear()
                await self.news.wait()


@pytest.fixture
async def slow(monkeypatch: pytest.MonkeyPatch) -> Slow:
    monkeypatch.setattr(reply_module, "SAVE_AFTER_S", 0.02)
    made = Slow()
    made.inbox.start(Started(3, 0, 0, 7))
    return made


async def test_text_is_saved_also_when_nothing_more_comes(slow: Slow) -> None:
    growing = asyncio.create_task(grow(slow.reply, slow.generation, slow.save))
    for text in ("Once", "Once upon"):
        slow.inbox.push(Delta(text[len(slow.reply.text) :], (1,)))
        await slow.until_saved(text)  # and the model is silent meanwhile
    assert slow.saved == ["Once", "Once upon"], "each text once"
    slow.inbox.push(Delta(" a time", (2,), finish_reason="stop", usage=Usage(3, 0, 3)))
    await growing
    assert (slow.reply.text, slow.reply.status) == ("Once upon a time", "complete")


async def test_a_reply_that_cannot_be_saved_ends_with_the_reason(slow: Slow) -> None:
    slow.problem = AppError("The disk is full.")
    growing = asyncio.create_task(grow(slow.reply, slow.generation, slow.save))
    slow.inbox.push(Delta("Once", (1,)))
    with pytest.raises(AppError, match="disk is full"):
        await asyncio.wait_for(growing, PATIENCE_S)
    assert slow.cancels


def stored(text: str = "half", **more: object) -> MessageRecord:
    return MessageRecord("reply", "talk", "question", "assistant", text, 0.0, 0.0, receipt={"seed": 1}, **more)  # type: ignore[arg-type]


def test_a_continuation_that_fails_at_once_leaves_the_reply_as_it_was() -> None:
    reply = Reply.continuing(stored(status="complete"), "ann")
    reply.fail("No model is loaded.")
    assert (reply.status, reply.text, reply.receipt, reply.error) == ("complete", "half", {"seed": 1}, "No model is loaded.")


def test_a_continuation_that_fails_later_keeps_what_came() -> None:
    reply = Reply.continuing(stored(status="complete"), "ann")
    reply.take(Delta(" more", (1,)))
    reply.fail("The engine ended.")
    assert (reply.status, reply.text, reply.receipt["earlier"]) == ("stopped", "half more", [{"seed": 1}])


def test_a_first_reply_that_fails_has_failed() -> None:
    reply = Reply("reply", "talk", "ann")
    reply.fail("No model is loaded.")
    assert reply.status == "failed"
