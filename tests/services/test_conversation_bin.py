"""The bin as a service: news for other tabs, thirty days, and tags as they are kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from modules.core.errors import InvalidRequest, NotFound
from modules.services import conversation_bin
from modules.services.conversation_bin import ConversationBin
from modules.services.conversations import ConversationService
from modules.services.storage import Storage

ANN, BOB = "ann", "bob"


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[Storage]:
    opened = Storage(tmp_path / "state")
    yield opened
    await opened.close()


@pytest.fixture
def talks(storage: Storage) -> ConversationService:
    return ConversationService(storage)


@pytest.fixture
async def trash(storage: Storage, talks: ConversationService) -> AsyncIterator[ConversationBin]:
    made = ConversationBin(storage, talks.tell)
    yield made
    await made.close()


async def test_what_comes_back_is_told_to_other_tabs(talks: ConversationService, trash: ConversationBin) -> None:
    conversation_id = await talks.create(ANN)
    message = await talks.append(ANN, conversation_id, None, "user", "hello")
    with talks.subscribe(conversation_id) as news:
        bin_id = await talks.delete_message(ANN, message.id)
        assert await trash.restore(ANN, bin_id) == conversation_id
        assert [change.kind for change in news.pending()] == ["tree", "tree"]
    assert (await talks.read(ANN, conversation_id)).messages[0].content == "hello"
    bin_id = await talks.delete(ANN, conversation_id)
    with pytest.raises(NotFound):
        await talks.read(ANN, conversation_id)
    assert [row.title for row in await trash.list(ANN)] == ["hello"]
    for call in (trash.restore, trash.discard):
        with pytest.raises(NotFound):
            await call(BOB, bin_id)
    assert await trash.empty(BOB) == 0
    await trash.restore(ANN, bin_id)
    assert [line.id for line in await talks.list(ANN)] == [conversation_id]


async def test_after_thirty_days_it_is_gone(talks: ConversationService, trash: ConversationBin, monkeypatch: pytest.MonkeyPatch) -> None:
    conversation_id = await talks.create(ANN)
    await talks.append(ANN, conversation_id, None, "user", "hello")
    await talks.delete(ANN, conversation_id)
    now = conversation_bin.time.time()
    monkeypatch.setattr(conversation_bin.time, "time", lambda: now + 29.9 * 86400)
    assert await trash.purge() == 0
    monkeypatch.setattr(conversation_bin.time, "time", lambda: now + 30.1 * 86400)
    trash.start()
    async with asyncio.timeout(10):
        while await trash.list(ANN):
            await asyncio.sleep(0.01)


async def test_tags_are_cleaned_and_bounded(talks: ConversationService) -> None:
    conversation_id = await talks.create(ANN)
    await talks.tag(ANN, conversation_id, [" #Work ", "two  words", "work", "", "#"])
    assert (await talks.summary(ANN, conversation_id)).tags == ("work", "two words")
    assert await talks.tags(ANN) == {"two words": 1, "work": 1}
    assert [line.id for line in await talks.list(ANN, tag="two words")] == [conversation_id]
    with pytest.raises(InvalidRequest, match="20 tags; these are 21"):
        await talks.tag(ANN, conversation_id, [str(number) for number in range(21)])
    with pytest.raises(InvalidRequest, match="40 characters"):
        await talks.tag(ANN, conversation_id, ["x" * 41])
    assert (await talks.summary(ANN, conversation_id)).tags == ("work", "two words")
