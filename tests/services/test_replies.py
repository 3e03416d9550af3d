"""Replies over a real engine and a real store: saved as they grow, stopped, continued, failed and carried on after."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import time
from typing import Any

import pytest

from modules.core.errors import Conflict, InvalidRequest, NotFound
from modules.services import reply as reply_module
from modules.services.app import App
from modules.services.conversations import ConversationService
from tests.services.conftest import ONE, WRITING, until
from tests.services.reply_steps import ANN, ENDLESS, SHORT, ended, growing, shown, talk

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="module")]


# ---- saved ---------------------------------------------------------------------------------------------------------


async def test_a_reply_is_stored_at_its_start_now_and_then_while_it_grows_and_at_its_end(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    assert reply_module.SAVE_AFTER_S < 1.0
    monkeypatch.setattr(reply_module, "SAVE_AFTER_S", 0.05)  # a small model writes all of it in half a second
    saves: list[tuple[float, int, str]] = []
    save = ConversationService.save_reply

    async def note(self: ConversationService, owner: str, message_id: str, *, content: str, status: Any, **more: Any) -> None:
        saves.append((time.monotonic(), len(content), status))
        await save(self, owner, message_id, content=content, status=status, **more)

    monkeypatch.setattr(ConversationService, "save_reply", note)
    conversation_id = await talk(app, ENDLESS)
    _, reply_id = await app.replies.send(ANN, conversation_id, "Tell me a story.")
    first = (await shown(app, conversation_id))[-1]
    assert (first.id, first.role, first.status) == (reply_id, "assistant", "streaming")
    assert app.replies.running_ids() == {conversation_id}
    last = await ended(app, conversation_id)
    assert (last.id, last.status, last.error, last.model) == (reply_id, "complete", "", ONE)
    assert last.content.startswith(first.content)
    assert last.receipt is not None
    assert last.receipt["finish_reason"] == "length"
    assert last.receipt["completion_tokens"] > 500
    assert last.receipt["dropped_messages"] == 0
    assert len(saves) >= 3
    assert [status for _, _, status in saves] == ["streaming"] * (len(saves) - 1) + ["complete"]
    sizes = [size for _, size, _ in saves]
    assert sizes == sorted(sizes)
    assert sizes[-1] == len(last.content)
    assert min(after - before for (before, *_), (after, *_) in itertools.pairwise(saves[:-1])) >= 0.045


async def test_followers_are_woken_for_every_piece_of_text(app: App) -> None:
    conversation_id = await talk(app, ENDLESS)
    _, reply_id = await app.replies.send(ANN, conversation_id, "Hi")
    reply = app.replies.running(conversation_id)
    assert reply is not None and reply.id == reply_id
    texts = [reply.text]
    while reply.running:
        await reply.waiter.wait()
        texts.append(reply.text)
        if len(texts) == 6:
            await app.replies.stop(conversation_id)
    assert all(after.startswith(before) for before, after in itertools.pairwise(texts))
    assert len(set(texts)) > 2
    assert (await ended(app, conversation_id)).content == texts[-1]


# ---- stopped and refused -------------------------------------------------------------------------------------------


async def test_stop_keeps_the_text_and_nobody_else_notices(app: App) -> None:
    stopped, other = await talk(app, ENDLESS), None
    await app.replies.send(ANN, stopped, "Tell me a story.")
    other = await talk(app, ENDLESS)
    await app.replies.send(ANN, other, "Tell me another story.")
    await growing(app, stopped)
    await app.replies.stop(stopped)
    last = await ended(app, stopped)
    assert (last.status, last.error) == ("stopped", "")
    assert len(last.content) >= 20
    assert last.receipt is not None and last.receipt["finish_reason"] == "cancelled"
    assert app.replies.running(other) is not None
    await app.replies.stop(stopped)  # nothing to stop is no error
    await app.replies.stop(other)
    await ended(app, other)


async def test_who_did_not_ask_for_a_stop_is_told_why(app: App) -> None:
    conversation_id = await talk(app, ENDLESS)
    await app.replies.send(ANN, conversation_id, "Tell me a story.")
    await growing(app, conversation_id)
    await app.replies.stop(conversation_id, "The page was closed.")
    last = await ended(app, conversation_id)
    assert (last.status, last.error) == ("stopped", "The page was closed.")
    await app.conversations.update_settings(ANN, conversation_id, SHORT)
    await app.replies.extend(ANN, conversation_id, last.id)
    assert (await ended(app, conversation_id)).error == ""


async def test_stop_before_the_first_step_leaves_nothing_behind(app: App) -> None:
    conversation_id = await talk(app)
    await app.replies.send(ANN, conversation_id, "Hi")
    await app.replies.stop(conversation_id)
    last = await ended(app, conversation_id)
    assert (last.role, last.status, last.content, last.error) == ("assistant", "stopped", "", "")
    await app.replies.send(ANN, conversation_id, "Hi again")
    assert (await ended(app, conversation_id)).status == "complete"


async def test_one_reply_at_a_time(app: App) -> None:
    conversation_id = await talk(app, ENDLESS)
    asked = [app.replies.send(ANN, conversation_id, f"Question {number}") for number in range(3)]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(answer) for answer in answers].count(Conflict) == 2
    question, reply = await shown(app, conversation_id)
    for refused in (
        app.replies.send(ANN, conversation_id, "More"),
        app.replies.regenerate(ANN, conversation_id, reply.id),
        app.replies.resend(ANN, conversation_id, question.id, "Other"),
        app.replies.extend(ANN, conversation_id, reply.id),
    ):
        with pytest.raises(Conflict, match="stop it or wait"):
            await refused
    await app.replies.stop(conversation_id)
    await ended(app, conversation_id)
    assert len(await shown(app, conversation_id)) == 2


async def test_what_cannot_be_sent_is_refused_and_nothing_is_stored(app: App) -> None:
    conversation_id = await talk(app)
    with pytest.raises(InvalidRequest, match="write a message first"):
        await app.replies.send(ANN, conversation_id, " \n ")
    with pytest.raises(NotFound):
        await app.replies.send("bob", conversation_id, "Hi")
    question, _ = await app.replies.send(ANN, conversation_id, "Hi")
    await ended(app, conversation_id)
    with pytest.raises(InvalidRequest, match="Only a reply can be continued"):
        await app.replies.extend(ANN, conversation_id, question)
    with pytest.raises(NotFound):
        await app.replies.regenerate("bob", conversation_id, question)
    assert len(await shown(app, conversation_id)) == 2


async def test_a_conversation_may_be_deleted_while_its_reply_is_written(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reply_module, "SAVE_AFTER_S", 0.05)
    conversation_id = await talk(app, ENDLESS)
    await app.replies.send(ANN, conversation_id, "Tell me a story.")
    await growing(app, conversation_id)
    await app.conversations.delete(ANN, conversation_id)
    await until(lambda: app.replies.running(conversation_id) is None)
    await until(lambda: app.replies.running_ids() == frozenset())


# ---- versions ------------------------------------------------------------------------------------------------------


async def test_regenerate_edit_and_continue(app: App) -> None:
    conversation_id = await talk(app)
    question, reply = await app.replies.send(ANN, conversation_id, "What is a LoRA?")
    first = await ended(app, conversation_id)
    again = await app.replies.regenerate(ANN, conversation_id, reply)
    second = await ended(app, conversation_id)
    assert (second.id, second.version_ids, second.version_index) == (again, (reply, again), 2)
    assert second.content == first.content, "temperature 0 and the same path"
    assert second.receipt is not None and second.receipt["reused_tokens"] > 0
    assert {"queue_s", "prefill_s", "longest_gap_s", "tokens_per_s"} <= second.receipt.keys()
    edited, answer = await app.replies.resend(ANN, conversation_id, question, "Where do I put model files?")
    third = await ended(app, conversation_id)
    assert [message.id for message in await shown(app, conversation_id)] == [edited, answer]
    assert (await app.conversations.message(ANN, edited)).version_ids == (question, edited)
    assert third.content != first.content
    assert await app.replies.extend(ANN, conversation_id, answer) == answer
    longer = await ended(app, conversation_id)
    assert (longer.id, longer.version_count, longer.status) == (answer, 1, "complete")
    assert longer.content.startswith(third.content)
    assert len(longer.content) > len(third.content)
    await app.conversations.select_version(ANN, question)
    assert [message.content for message in await shown(app, conversation_id)] == ["What is a LoRA?", second.content]


async def test_the_oldest_messages_are_left_out_of_a_long_conversation_and_counted(app: App) -> None:
    conversation_id, parent = await talk(app), None
    for number in range(20):
        role = "assistant" if number % 2 else "user"
        parent = (await app.conversations.append(ANN, conversation_id, parent, role, f"message {number} " + "word " * 100)).id
    await app.replies.send(ANN, conversation_id, "And now?")
    last = await ended(app, conversation_id)
    assert (last.status, last.error) == ("complete", "")
    assert last.receipt is not None
    assert 0 < last.receipt["dropped_messages"] < 20
    assert last.receipt["prompt_tokens"] <= WRITING["context_length"]
    assert len(await shown(app, conversation_id)) == 22, "the conversation itself is whole"


async def test_a_continued_reply_keeps_what_its_receipt_said(app: App) -> None:
    conversation_id = await talk(app)
    _, reply = await app.replies.send(ANN, conversation_id, "What is a LoRA?")
    first = (await ended(app, conversation_id)).receipt or {}
    for parts in (1, 2):
        await app.replies.extend(ANN, conversation_id, reply)
        receipt = (await ended(app, conversation_id)).receipt or {}
        assert len(receipt["earlier"]) == parts
        assert {name: receipt["earlier"][0][name] for name in ("seed", "prompt_hash", "completion_tokens")} == {
            name: first[name] for name in ("seed", "prompt_hash", "completion_tokens")
        }
        assert receipt["prompt_hash"] != first["prompt_hash"]


async def test_a_reply_begins_with_the_words_given(app: App) -> None:
    conversation_id = await talk(app)
    question = await app.conversations.append(ANN, conversation_id, None, "user", "What is a LoRA?")
    reply = await app.replies.start_reply(ANN, conversation_id, question.id, "Well, a LoRA")
    last = await ended(app, conversation_id)
    assert (last.id, last.parent_id, last.status) == (reply, question.id, "complete")
    assert last.content.startswith("Well, a LoRA") and len(last.content) > len("Well, a LoRA")
    other = await talk(app)
    with pytest.raises(NotFound):
        await app.replies.start_reply(ANN, other, question.id)
    await app.conversations.append(ANN, other, None, "user", "used")  # else the next test would be given this one


# ---- failed --------------------------------------------------------------------------------------------------------


async def test_settings_that_are_gone_fail_with_their_name(app: App) -> None:
    for settings, name in (({**SHORT, "preset": "Lost preset"}, "Lost preset"), ({**SHORT, "template": "Lost template"}, "Lost template")):
        conversation_id = await talk(app, settings)
        await app.replies.send(ANN, conversation_id, "Hi")
        last = await ended(app, conversation_id)
        assert last.status == "failed"
        assert name in last.error


async def test_an_engine_killed_in_mid_reply_costs_only_the_rest_of_it(app: App) -> None:
    conversation_id = await talk(app, ENDLESS)
    await app.replies.send(ANN, conversation_id, "Tell me a story.")
    reply = await growing(app, conversation_id)
    client = await app.models.get()
    os.kill(client.pid, signal.SIGKILL)
    last = await ended(app, conversation_id)
    assert (last.status, last.content) == ("failed", reply.text)
    assert len(last.content) >= 20
    assert "SIGKILL" in last.error and "the text so far is kept. Send again" in last.error
    await app.conversations.update_settings(ANN, conversation_id, SHORT)
    await app.replies.send(ANN, conversation_id, "Hi")
    assert (await ended(app, conversation_id)).status == "complete"
    assert (await app.models.get()).pid != client.pid
