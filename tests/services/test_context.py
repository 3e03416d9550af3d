"""What a prompt takes of the context, counted by a real engine: its parts, what would be left out, pins, and refusing instead."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from modules.core.errors import InvalidRequest, NotFound
from modules.services.app import App
from modules.services.context import ContextUse
from modules.services.prompt_material import PromptMaterial, material_of
from modules.store.paths import TAIL_STEP
from tests.services.conftest import until
from tests.services.reply_steps import ANN, SHORT, ended, talk

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="module")]

LONG_TEXT = "The lamp is on and it is warm. " * 9  # several of them do not fit into 1,024 tokens


async def told(app: App, conversation_id: str, turns: int) -> list[str]:
    """A conversation of so many long turns; the ids of its messages."""
    ids: list[str] = []
    for number in range(2 * turns):
        role = "assistant" if number % 2 else "user"
        ids.append((await app.conversations.append(ANN, conversation_id, ids[-1] if ids else None, role, f"Number {number}. {LONG_TEXT}")).id)
    return ids


async def look(app: App, conversation_id: str, text: str = "") -> ContextUse:
    await app.models.get()  # it is being loaded when the first test begins
    use = await app.context.look(ANN, conversation_id, text)
    assert use is not None
    return use


async def test_every_part_is_counted(app: App) -> None:
    conversation_id = await talk(app, {**SHORT, "system_prompt": "You speak of lamps."})
    await app.attachments.add_text(ANN, conversation_id, "The lamp is on.\n" * 10)
    use = await look(app, conversation_id, "Is it on?")
    assert (use.limit, use.room, use.policy, use.left_out, use.refusal) == (1024, 1012, "drop_oldest", (), "")
    assert use.system == len(await app.generation.tokenize("You speak of lamps."))
    assert use.typed == len(await app.generation.tokenize("Is it on?"))
    assert use.attachments > 60
    assert use.total is not None
    assert use.total == use.system + use.attachments + use.typed + use.history
    assert use.history < 30, "the words of the template"
    (waiting,) = await app.attachments.waiting(ANN, conversation_id)
    _, reply_id = await app.replies.send(ANN, conversation_id, "Is it on?", files=[waiting.id])
    reply = await ended(app, conversation_id)
    assert (reply.id, reply.error) == (reply_id, "")
    assert reply.receipt is not None
    assert reply.receipt["prompt_tokens"] == use.total, "what was shown before is what was sent"
    after = await look(app, conversation_id)
    assert (after.typed, after.attachments) == (0, use.attachments)


async def test_a_conversation_with_a_shorter_context(app: App) -> None:
    conversation_id = await talk(app, {**SHORT, "params": {"max_tokens": 8, "context_tokens": 300}})
    await told(app, conversation_id, 3)
    use = await look(app, conversation_id)
    assert (use.limit, use.room) == (300, 292)
    assert use.total is not None and use.total > 300 and use.left_out


async def test_what_will_be_left_out_is_named_and_a_pin_keeps_it(app: App) -> None:
    conversation_id = await talk(app)
    ids = await told(app, conversation_id, 8)
    use = await look(app, conversation_id, "And now?")
    assert use.total is not None and use.total > use.room
    assert use.kept is not None and use.kept <= use.room
    gone = [message.id for message in use.left_out]
    assert gone == ids[: len(gone)]
    assert len(gone) >= 2
    assert use.left_out[0].words.startswith("Number 0. The lamp is on")
    assert (use.left_out[0].role, use.left_out[1].role) == ("user", "assistant")
    await app.conversations.pin_message(ANN, ids[1], True)
    pinned = [message.id for message in (await look(app, conversation_id, "And now?")).left_out]
    assert pinned[0] == ids[2], "with its question"
    assert len(pinned) >= len(gone)
    await app.replies.send(ANN, conversation_id, "And now?")
    reply = await ended(app, conversation_id)
    assert reply.receipt is not None
    assert reply.receipt["dropped_messages"] == len(pinned)


async def test_of_a_very_long_conversation_only_the_end_is_read_and_nothing_else_changes(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []

    def watched(*given: Any) -> PromptMaterial:
        material = material_of(*given)
        read.append(len(material.records))
        return material

    monkeypatch.setattr("modules.services.conversations.material_of", watched)
    conversation_id = await talk(app)
    ids = await told(app, conversation_id, 40)
    listed = await look(app, conversation_id, "And now?")
    counted = await app.context.look(ANN, conversation_id, "And now?", listed=False)
    assert counted is not None
    assert counted == replace(listed, left_out=())
    assert [message.id for message in listed.left_out] == ids[: counted.left_out_count]
    assert (listed.total, counted.left_out_count > 60) == (None, True)
    await app.replies.send(ANN, conversation_id, "And now?")
    reply = await ended(app, conversation_id)
    assert reply.receipt is not None
    assert (reply.receipt["dropped_messages"], reply.receipt["prompt_tokens"]) == (counted.left_out_count, counted.kept)
    assert len(read) == 1 and read[0] <= TAIL_STEP, "for a reply too"
    await app.conversations.update_settings(ANN, conversation_id, {"overflow": "refuse"})
    assert (await app.context.look(ANN, conversation_id, "And now?", listed=False)) == await look(app, conversation_id, "And now?")


async def test_the_prompt_of_which_only_the_end_was_read_is_kept_with_what_was_left_out(app: App) -> None:
    conversation_id = await talk(app)
    ids = await told(app, conversation_id, 40)
    await look(app, conversation_id)
    await app.replies.send(ANN, conversation_id, "And now?")
    reply = await ended(app, conversation_id)
    count = (reply.receipt or {})["dropped_messages"]
    await app.storage.run(lambda stores: stores.messages.save(ANN, ids[0], {"content": "Something else."}))
    seen = await app.seen.of(ANN, reply.id)
    assert (seen["same"], seen["dropped_count"], seen["dropped"]) == (True, count, list(range(count)))
    assert [one["role"] for one in seen["messages"]] == ["user", "assistant"] * 40 + ["user"]
    assert [one["start"].split(".")[0] for one in seen["messages"]] == [*(f"Number {place}" for place in range(80)), "And now?"]
    places = {place for _, _, place in seen["tokens"] if place >= 0}
    assert places == set(range(count, 81)), "each token belongs to its message"
    await app.replies.replay(ANN, conversation_id, reply.id)
    again = await ended(app, conversation_id)
    assert (again.receipt or {})["replay"]["same_prompt"]
    assert (again.receipt or {})["dropped_messages"] == count
    assert await app.conversations.prompts.of(ANN, again.id) == await app.conversations.prompts.of(ANN, reply.id)


async def test_refusing_is_said_before_and_after_it_is_sent(app: App) -> None:
    conversation_id = await talk(app, {**SHORT, "overflow": "refuse"})
    await told(app, conversation_id, 8)
    use = await look(app, conversation_id, "And now?")
    assert (use.left_out, use.kept) == ((), None)
    assert use.room == 1023
    assert use.refusal.startswith(f"The conversation needs {use.total:,} tokens, and there is room for 1,023. Start a new chat, allow")
    await app.replies.send(ANN, conversation_id, "And now?")
    reply = await ended(app, conversation_id)
    assert (reply.status, reply.error) == ("failed", use.refusal)
    await app.conversations.update_settings(ANN, conversation_id, {"overflow": "drop_oldest"})
    await app.replies.regenerate(ANN, conversation_id, reply.id)
    assert (await ended(app, conversation_id)).status == "complete"


async def test_a_summary_stands_for_the_oldest_messages(app: App) -> None:
    conversation_id = await talk(app)
    ids = await told(app, conversation_id, 8)
    await app.conversations.pin_message(ANN, ids[2], True)
    gone = [message.id for message in (await look(app, conversation_id, "And now?")).left_out]
    summary = await app.summaries.summarise(ANN, conversation_id, "And now?")
    assert summary
    settings = (await app.conversations.read(ANN, conversation_id)).settings
    assert (settings.summary, settings.summary_until) == (summary, gone[-1])
    messages = await app.conversations.messages_for_prompt(ANN, ids[-1])
    assert messages[0].content == f"[Summary of the conversation so far: {summary}]\n\nNumber 2. {LONG_TEXT}", "the pinned question stays"
    assert [message.content.split(".")[0] for message in messages[1:]] == [f"Number {number}" for number in range(3, 16) if number == 3 or ids[number] not in gone]
    use = await look(app, conversation_id, "And now?")
    assert use.total is not None and use.total < 1024
    assert set(gone).isdisjoint(message.id for message in use.left_out)
    with pytest.raises(InvalidRequest, match="nothing to summarise"):
        await app.summaries.summarise(ANN, await talk(app))
    await app.conversations.update_settings(ANN, conversation_id, {"summary": ""})
    assert len(await app.conversations.messages_for_prompt(ANN, ids[-1])) == 16
    await app.conversations.update_settings(ANN, conversation_id, {"summary": "Lamps.", "summary_until": "not here"})
    assert len(await app.conversations.messages_for_prompt(ANN, ids[-1])) == 16, "of another branch"


async def test_the_oldest_messages_are_summarised_by_themselves(app: App) -> None:
    conversation_id = await talk(app)
    await app.conversations.update_settings(ANN, conversation_id, {"overflow": "summarise_oldest"})
    ids = await told(app, conversation_id, 8)
    assert (await look(app, conversation_id, "And now?")).policy == "summarise_oldest"
    _, first = await app.replies.send(ANN, conversation_id, "And now?", versions=2)
    await until(lambda: app.replies.running(conversation_id) is None)
    message = await app.conversations.message(ANN, first)
    receipts = [(await app.conversations.message(ANN, version)).receipt or {} for version in message.version_ids]
    assert [receipt["dropped_messages"] for receipt in receipts] == [0, 0]
    (count,) = [receipt["summarised_messages"] for receipt in receipts if "summarised_messages" in receipt]
    settings = (await app.conversations.read(ANN, conversation_id)).settings
    assert settings.summary
    assert settings.summary_until == ids[count - 1], "one summary for both"
    await app.replies.send(ANN, conversation_id, "And then?")
    later = (await ended(app, conversation_id)).receipt or {}
    assert (later["dropped_messages"], later.get("summarised_messages")) == (0, None), "there is room for more than one reply"
    assert (await app.conversations.read(ANN, conversation_id)).settings.summary == settings.summary


async def test_all_of_a_very_long_conversation_is_read_to_be_summarised(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    async def short(question: str, _: int) -> str:
        return "They spoke of the lamp." if "Number 0." in question else "They spoke of something."

    monkeypatch.setattr(app.summaries, "_reply", short)
    conversation_id = await talk(app)
    await app.conversations.update_settings(ANN, conversation_id, {"overflow": "summarise_oldest"})
    ids = await told(app, conversation_id, 40)
    listed = await look(app, conversation_id, "And now?")
    assert [message.id for message in listed.left_out] == ids[: listed.left_out_count]
    assert await app.context.look(ANN, conversation_id, "And now?", listed=False) == replace(listed, left_out=())
    await app.replies.send(ANN, conversation_id, "And now?")
    receipt = (await ended(app, conversation_id)).receipt or {}
    settings = (await app.conversations.read(ANN, conversation_id)).settings
    assert (receipt["dropped_messages"], receipt["summarised_messages"] >= listed.left_out_count > 60) == (0, True)
    assert (settings.summary, settings.summary_until) == ("They spoke of the lamp.", ids[receipt["summarised_messages"] - 1])
    await app.conversations.update_settings(ANN, conversation_id, {"overflow": "drop_oldest"})
    after = await look(app, conversation_id, "And then?")
    assert await app.context.look(ANN, conversation_id, "And then?", listed=False) == after
    assert (after.total is not None, after.left_out_count) == (True, 0), "the summary still stands for them"
    await app.replies.send(ANN, conversation_id, "And then?")
    later = (await ended(app, conversation_id)).receipt or {}
    assert (later["dropped_messages"], later["prompt_tokens"]) == (0, after.total)


async def test_a_reply_is_stopped_while_the_summary_is_written(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_: object) -> str:
        return await asyncio.get_running_loop().create_future()

    monkeypatch.setattr(app.summaries, "_reply", never)
    conversation_id = await talk(app)
    await app.conversations.update_settings(ANN, conversation_id, {"overflow": "summarise_oldest"})
    await told(app, conversation_id, 8)
    await app.replies.send(ANN, conversation_id, "And now?")
    reply = app.replies.running(conversation_id)
    assert reply is not None
    await until(lambda: reply.doing == "Summarising the oldest messages…")
    await app.replies.stop(conversation_id)
    assert (await ended(app, conversation_id)).status == "stopped"
    assert (await app.conversations.read(ANN, conversation_id)).settings.summary == ""


async def test_a_summary_that_is_edited_while_another_one_is_written_stays(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []
    go_on = asyncio.Event()

    async def slow(question: str, _: int) -> str:
        begun.append(question)
        await go_on.wait()
        return "By the model."

    monkeypatch.setattr(app.summaries, "_reply", slow)
    conversation_id = await talk(app)
    await app.conversations.update_settings(ANN, conversation_id, {"overflow": "summarise_oldest"})
    await told(app, conversation_id, 8)
    await app.replies.send(ANN, conversation_id, "And now?")
    await until(lambda: bool(begun))
    await app.conversations.update_settings(ANN, conversation_id, {"summary": "By hand."})
    go_on.set()
    receipt = (await ended(app, conversation_id)).receipt or {}
    assert "what you wrote stays" in receipt["not_summarised"]
    settings = (await app.conversations.read(ANN, conversation_id)).settings
    assert (settings.summary, len(begun)) == ("By hand.", 1)


async def test_where_no_summary_can_be_written_the_oldest_messages_are_left_out(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(*_: object) -> str:
        raise InvalidRequest("The model wrote no summary.")

    monkeypatch.setattr(app.summaries, "_reply", nothing)
    conversation_id = await talk(app)
    await app.conversations.update_settings(ANN, conversation_id, {"overflow": "summarise_oldest"})
    await told(app, conversation_id, 8)
    await app.replies.send(ANN, conversation_id, "And now?")
    reply = await ended(app, conversation_id)
    assert (reply.status, (reply.receipt or {})["not_summarised"]) == ("complete", "The model wrote no summary.")
    assert (reply.receipt or {})["dropped_messages"]


async def test_more_than_can_be_counted(app: App) -> None:
    conversation_id = await talk(app)
    await app.attachments.add_text(ANN, conversation_id, "lamp " * 20_000)
    use = await look(app, conversation_id, "What is it?")
    assert use.total is None
    assert "has more text than can be rendered, and there is room for 1,012" in use.refusal


async def test_an_empty_conversation_and_one_that_is_not_there(app: App) -> None:
    await app.models.get()
    use = await app.context.look("cid", await app.conversations.create("cid", SHORT), "")
    assert use is not None
    assert (use.total, use.history, use.left_out) == (0, 0, ())
    with pytest.raises(NotFound):
        await app.context.look("bob", await talk(app), "x")
