"""Titles from the first exchange: what of a model's words is one, and when it is asked."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import pytest_asyncio

from modules.core.generation import GenerationRequest, TextPrompt
from modules.core.params import GenerationParams
from modules.services import titles
from modules.services.app import App
from modules.services.conversation_files import title_from
from modules.services.titles import Exchange, cleaned_title, plain_title
from tests.services.conftest import until, without_titles
from tests.services.reply_steps import ANN, ended, talk

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="module")]
QUESTION = "What is a LoRA and what would I use one for?"
ASKED = Exchange(QUESTION, "A LoRA is a small adapter. It changes a model.")


@pytest_asyncio.fixture(loop_scope="module")
async def titled(app: App) -> AsyncIterator[App]:
    await until(lambda: app.models.loaded() is not None)
    app.chat_preferences.change(ANN, {"title_from_exchange": True})
    yield app
    without_titles(app)


@pytest.mark.parametrize(("written", "title"), [
    ("Uses of LoRA adapters", "Uses of LoRA adapters"),
    ('**Title: "LoRA adapters"**\n', "LoRA adapters"),
    ("<think>\nShort.\n</think>\n\n# LoRA, explained.", "LoRA, explained"),
    ("LoRA-Adapter: Zweck", "LoRA-Adapter: Zweck"),
    ("模型的适配器", "模型的适配器"),
    ("", ""), ("…!?", ""), ("<think>what could", ""), ("ab", ""),
    ("Sure! Here is a title for you!", ""),
    ("A title for it could be one about adapters.", ""),
    ("one two three four five six seven eight nine ten", ""),
    ("LoRA lora LoRA adapters", ""), ("adapters adapters", ""),
    ("A LoRA is a small adapter", ""),
    ("x" * 61, ""),
])  # fmt: skip
async def test_what_a_title_is(written: str, title: str) -> None:
    assert cleaned_title(written, ASKED) == title


async def test_a_question_that_says_little_is_joined_by_the_reply() -> None:
    assert plain_title(ASKED) == "What is a LoRA and what would I use one…"
    assert plain_title(Exchange("Hi!", "**Hello!** I am Starter.")) == "Hi · Hello! I am Starter."
    assert plain_title(Exchange("Hi!", "")) == "Hi!"
    assert plain_title(Exchange("", "A horse in a meadow.")) == "A horse in a meadow."


async def asked_first(app: App, text: str = QUESTION) -> str:
    """A conversation whose first reply is complete and whose title may be being written."""
    conversation_id = await talk(app)
    await app.replies.send(ANN, conversation_id, text)
    await ended(app, conversation_id)
    return conversation_id


@asynccontextmanager
async def held(app: App) -> AsyncIterator[None]:
    """The engine surely is in the middle of a title until what is in the block was sent."""
    while not (await app.generation.counters()).running:
        assert app.replies.titles.writing
    engine = app.models.loaded()
    assert engine is not None
    os.kill(engine.card.pid, signal.SIGSTOP)
    try:
        yield
        await asyncio.sleep(0.05)
    finally:
        os.kill(engine.card.pid, signal.SIGCONT)


async def title_of(app: App, conversation_id: str) -> str:
    await until(lambda: not app.replies.titles.writing)
    record = await app.conversations.read(ANN, conversation_id)
    assert len(record.messages) == 2, "it is no message"
    return record.title


async def test_the_model_is_asked_once_and_its_words_are_the_title(titled: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(titles, "TITLE_TOKENS", 200)  # the demo model writes sentences
    monkeypatch.setattr(titles, "cleaned_title", lambda written, exchange: " ".join(written.split()[:2]))
    before = await titled.generation.counters()
    conversation_id = await asked_first(titled)
    given = await title_of(titled, conversation_id)
    after = await titled.generation.counters()
    assert given != title_from(QUESTION)
    assert len(given.split()) == 2
    assert after.reused_tokens - before.reused_tokens > 20, "the conversation was not computed again for it"
    reply = (await titled.conversations.read(ANN, conversation_id)).messages[-1]
    await titled.replies.regenerate(ANN, conversation_id, reply.id)
    await ended(titled, conversation_id)
    assert await title_of(titled, conversation_id) == given
    listed = await titled.conversations.list(ANN)
    assert listed[0].title == given


async def test_without_a_title_of_the_model_the_first_words_stay(titled: App) -> None:
    assert await title_of(titled, await asked_first(titled)) == title_from(QUESTION)
    assert (await title_of(titled, await asked_first(titled, "Hi"))).startswith("Hi · ")


async def test_what_was_asked_without_a_word_has_a_title_too(titled: App) -> None:
    conversation_id = await talk(titled)
    pasted = await titled.attachments.add_text(ANN, conversation_id, "A long text.")
    await titled.replies.send(ANN, conversation_id, "", files=[pasted.id])
    reply = await ended(titled, conversation_id)
    assert await title_of(titled, conversation_id) == title_from(reply.content)


async def test_a_name_that_a_person_gave_stays(titled: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(titles, "cleaned_title", lambda written, exchange: "From the model")
    conversation_id = await talk(titled)
    await titled.replies.send(ANN, conversation_id, QUESTION)
    await titled.conversations.rename(ANN, conversation_id, "Mine")
    await ended(titled, conversation_id)
    assert await title_of(titled, conversation_id) == "Mine"
    await titled.conversations.rename(ANN, conversation_id, "Late", instead_of="Mine")
    assert await title_of(titled, conversation_id) == "Mine"


async def test_whoever_asks_for_anything_ends_it(titled: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(titles, "TITLE_TOKENS", 900)
    monkeypatch.setattr(titles, "GenerationParams", partial(GenerationParams, ban_eos=True))  # takes seconds
    before = await titled.generation.counters()
    conversation_id = await asked_first(titled)
    async with held(titled):
        request = GenerationRequest(prompt=TextPrompt(text="One"), params=GenerationParams(max_tokens=4))
        asked = asyncio.create_task(titled.generation.submit(request))
    assert [delta async for delta in await asked][-1].finish_reason == "length"
    assert await title_of(titled, conversation_id) == title_from(QUESTION)
    other = await asked_first(titled)
    async with held(titled):
        asking = asyncio.create_task(titled.replies.send(ANN, other, "Go on"))
    await asking
    await ended(titled, other)
    assert (await titled.generation.counters()).cancelled - before.cancelled == 2, "both titles"
    assert (await titled.conversations.read(ANN, other)).title == title_from(QUESTION)


async def test_it_can_be_turned_off(app: App) -> None:
    conversation_id = await asked_first(app, "Hi")
    assert not app.replies.titles.writing
    assert (await app.conversations.read(ANN, conversation_id)).title == "Hi"
