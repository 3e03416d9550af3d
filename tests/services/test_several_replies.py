"""Several replies to one message at the same time: batched, each with its own seed, the head moved only by the pick."""

from __future__ import annotations

from typing import Any

import pytest

from modules.core.errors import AppError, Conflict, InvalidRequest, NotFound
from modules.services.app import App
from modules.services.conversations import ConversationService, MessageRecord
from tests.services.conftest import until
from tests.services.reply_steps import ANN, ENDLESS, SHORT, shown, talk

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="module")]
LONG = "What is a LoRA? " * 20  # of a short prompt nobody waits for another one's part
SEEDED = {"preset": "", "params": {"seed": 41, "temperature": 4.0, "ban_eos": True, "max_tokens": 24}}


async def all_ended(app: App, conversation_id: str) -> None:
    await until(lambda: not app.replies.all_running(conversation_id))


async def test_versions_are_written_at_the_same_time_and_one_is_picked(app: App) -> None:
    conversation_id = await talk(app, SEEDED)
    question, first = await app.replies.send(ANN, conversation_id, LONG, versions=3)
    asked = app.replies.together(conversation_id)
    assert [reply.id for reply in app.replies.all_running(conversation_id)] == list(asked)
    assert (len(asked), asked[0]) == (3, first)
    await all_ended(app, conversation_id)
    versions = [await app.conversations.message(ANN, message_id) for message_id in asked]
    assert [(one.status, one.parent_id, one.version_count) for one in versions] == [("complete", question, 3)] * 3
    assert [(one.receipt or {})["seed"] for one in versions] == [41, 42, 43]
    assert len({one.content for one in versions}) > 1
    assert sum((one.receipt or {})["reused_tokens"] > 0 for one in versions) >= 2, "the prompt is read once"
    assert [message.id for message in await shown(app, conversation_id)] == [question, first], "until one is picked the first is shown"
    await app.replies.pick(ANN, conversation_id, asked[2])
    assert [message.id for message in await shown(app, conversation_id)] == [question, asked[2]]
    assert app.replies.together(conversation_id) == ()


async def test_a_pick_stops_the_others_and_keeps_their_texts(app: App) -> None:
    conversation_id = await talk(app, ENDLESS)
    await app.replies.send(ANN, conversation_id, "Tell me a story.", versions=2)
    left, right = app.replies.all_running(conversation_id)
    await until(lambda: len(left.text) > 20 and len(right.text) > 20)
    with pytest.raises(Conflict):
        await app.replies.send(ANN, conversation_id, "More")
    await app.replies.pick(ANN, conversation_id, right.id)
    await until(lambda: left not in app.replies.all_running(conversation_id))
    assert right.running
    stopped = await app.conversations.message(ANN, left.id)
    assert (stopped.status, stopped.content) == ("stopped", left.text)
    await app.replies.stop(conversation_id)
    await all_ended(app, conversation_id)


async def test_a_version_that_is_deleted_stops_and_the_others_go_on(app: App) -> None:
    conversation_id = await talk(app, ENDLESS)
    question, _ = await app.replies.send(ANN, conversation_id, "Tell me a story.", versions=2)
    left, right = app.replies.all_running(conversation_id)
    await app.replies.stop_below(ANN, conversation_id, right.id)
    assert app.replies.all_running(conversation_id) == (left,)
    await app.replies.stop_below(ANN, conversation_id, question)
    assert app.replies.all_running(conversation_id) == ()


async def test_the_next_message_forgets_the_choice_and_limits_are_kept(app: App) -> None:
    conversation_id = await talk(app)
    await app.replies.send(ANN, conversation_id, "Hi", versions=2)
    await all_ended(app, conversation_id)
    await app.replies.send(ANN, conversation_id, "And now?")
    assert app.replies.together(conversation_id) == ()
    await all_ended(app, conversation_id)
    other = await talk(app, SHORT)
    with pytest.raises(InvalidRequest, match="1 to 6 versions"):
        await app.replies.send(ANN, other, "Hi", versions=7)
    assert await shown(app, other) == ()
    with pytest.raises(NotFound):
        await app.replies.pick(ANN, other, (await shown(app, conversation_id))[-1].id)
    with pytest.raises(NotFound):
        await app.replies.pick("bob", conversation_id, (await shown(app, conversation_id))[-1].id)


async def test_a_version_that_cannot_be_stored_leaves_none_that_waits_for_ever(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    conversation_id = await talk(app)
    append = ConversationService.append
    stored: list[MessageRecord] = []

    async def full_at_the_third(self: ConversationService, *given: Any, **more: Any) -> MessageRecord:
        if len(stored) == 3:  # the question and two versions are there
            raise AppError("The disk is full.")
        stored.append(await append(self, *given, **more))
        return stored[-1]

    monkeypatch.setattr(ConversationService, "append", full_at_the_third)
    with pytest.raises(AppError, match="disk is full"):
        await app.replies.send(ANN, conversation_id, "Hi", versions=3)
    monkeypatch.undo()
    left = [await app.conversations.message(ANN, message.id) for message in stored[1:]]
    assert [(message.status, "none was begun" in message.error) for message in left] == [("failed", True)] * 2
    assert (app.replies.all_running(conversation_id), app.replies.together(conversation_id)) == ((), ())
    await app.replies.regenerate(ANN, conversation_id, left[0].id)
    await all_ended(app, conversation_id)
    assert (await shown(app, conversation_id))[-1].status == "complete"
