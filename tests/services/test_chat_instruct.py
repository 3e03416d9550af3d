"""The mode chat-instruct over a real engine: what the model sees, what fits, how it goes on."""

from __future__ import annotations

from typing import Any

import pytest

from modules.core.dialogue import Dialogue
from modules.core.errors import InvalidRequest
from modules.core.generation import ChatPrompt, GenerationRequest
from modules.core.messages import Message
from modules.services.app import App
from modules.services.conversation_settings import settings_from
from modules.services.remote_engine import told_messages
from tests.services.conftest import until
from tests.services.reply_steps import ANN, SHORT, ended, shown, talk

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="module")]


async def begun(app: App, **more: Any) -> str:
    """A conversation with a character, in which something was said and answered."""
    card = {"name": "Ada", "first_mes": "Good day.", "description": "{{char}} rides.", "post_history_instructions": "Be brief, {{char}}."}
    character = await app.casting.characters.save(card)
    conversation_id = await talk(app, {**SHORT, "mode": "chat-instruct", **more})
    await app.turns.cast(ANN, conversation_id, character, "")
    await until(lambda: app.models.loaded() is not None)
    await app.replies.send(ANN, conversation_id, "Who are you?")
    return conversation_id


async def test_the_model_sees_one_instruction_in_its_own_template(app: App) -> None:
    conversation_id = await begun(app, command="Go on as {{char}}, {{user}} waits:\n{{prompt}}\nNow!")
    reply = await ended(app, conversation_id)
    assert reply.status == "complete"
    assert "Ada:" not in reply.content
    seen = await app.seen.of(ANN, reply.id)
    assert seen["same"], "what is shown is what it saw"
    assert seen["text"].count("Ada rides.") == 1
    assert "Go on as Ada, User waits:\n" in seen["text"]
    assert "\n\nAda: Good day.\nUser: Who are you?\nNow!\n\nBe brief, Ada." in seen["text"]
    assert seen["text"].endswith("Ada:")
    assert "[The conversation begins.]" not in seen["text"]
    before = reply.content
    await app.replies.extend(ANN, conversation_id, reply.id)
    assert (await ended(app, conversation_id)).content.startswith(before)
    said = "".join([piece async for piece in app.turns.impersonate(ANN, conversation_id, "I am")])
    assert isinstance(said, str)


async def test_the_oldest_lines_are_left_out_where_it_is_too_long(app: App) -> None:
    conversation_id = await begun(app)
    await ended(app, conversation_id)
    for number in range(12):
        await app.turns.insert(ANN, conversation_id, "user", f"Number {number}: " + "on and on " * 30)
        await app.turns.insert(ANN, conversation_id, "assistant", "Yes.")
    _, reply_id = await app.replies.send(ANN, conversation_id, "The end")
    reply = await ended(app, conversation_id)
    assert (reply.id, reply.status) == (reply_id, "complete")
    assert (reply.receipt or {})["dropped_messages"] > 0
    text = (await app.seen.of(ANN, reply.id))["text"]
    assert "Number 0:" not in text
    assert "User: The end" in text
    assert "Ada rides." in text


async def test_without_a_character_names_are_those_of_the_roles(app: App) -> None:
    conversation_id = await talk(app, {**SHORT, "mode": "chat-instruct"})
    await app.replies.send(ANN, conversation_id, "Hi")
    reply = await ended(app, conversation_id)
    assert (await app.seen.of(ANN, reply.id))["text"].endswith("Assistant:")
    assert len(await shown(app, conversation_id)) == 2


async def test_the_settings_are_checked() -> None:
    assert settings_from({}).mode == "instruct"
    with pytest.raises(InvalidRequest):
        settings_from({"mode": "other"})


async def test_another_server_gets_the_instruction_and_begins_the_reply_itself() -> None:
    prompt = ChatPrompt(messages=(Message(role="user", content="Hi"), Message(role="assistant", content="Yes")), dialogue=Dialogue(char="Ada", user="Bo"))
    asked = told_messages(GenerationRequest(prompt=prompt)).prompt
    assert isinstance(asked, ChatPrompt)
    assert asked.dialogue is None
    assert [message.content.endswith("Bo: Hi\nAda: Yes") for message in asked.messages] == [True]
    going_on = told_messages(GenerationRequest(prompt=prompt.model_copy(update={"continue_final_message": True}))).prompt
    assert isinstance(going_on, ChatPrompt)
    assert [message.content for message in going_on.messages][1:] == ["Ada: Yes"]
