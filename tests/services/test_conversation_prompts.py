"""What a model gets to see of a conversation: the system prompt and the path, with its images."""

from __future__ import annotations

import base64

import pytest

from modules.core.errors import InvalidRequest, NotFound
from modules.core.messages import Image, Message
from modules.services.conversations import ConversationService
from tests.services.conversation_steps import ANN, image, talk


async def prompt(service: ConversationService, message_id: str) -> list[tuple[str, str]]:
    messages = await service.messages_for_prompt(ANN, message_id)
    assert all(isinstance(message, Message) for message in messages)
    return [(message.role, message.content) for message in messages]


async def test_a_prompt_is_the_system_prompt_and_the_path(service: ConversationService) -> None:
    conversation_id, ids = await talk(service, "question", "<think>hmm</think>\n\nreply", "thanks", "<think>oh</think>welc")
    await service.append(ANN, conversation_id, ids[0], "assistant", "another version")
    assert await prompt(service, ids[2]) == [("user", "question"), ("assistant", "reply"), ("user", "thanks")]
    await service.update_settings(ANN, conversation_id, {"system_prompt": "Be brief."})
    assert await prompt(service, ids[3]) == [
        ("system", "Be brief."),
        ("user", "question"),
        ("assistant", "reply"),
        ("user", "thanks"),
        ("assistant", "<think>oh</think>welc"),  # the one to be continued keeps its thoughts
    ]


async def test_replies_without_an_answer_are_left_out_of_the_prompt(service: ConversationService) -> None:
    conversation_id, ids = await talk(service, "question", "", "again", "<think>never ended", "third try")
    await service.save_reply(ANN, ids[1], content="", status="failed", error="The model crashed.")
    assert await prompt(service, ids[4]) == [("user", "question\n\nagain\n\nthird try")]
    partial = await service.append(ANN, conversation_id, ids[4], "assistant", "a half answ", status="stopped")
    more = await service.append(ANN, conversation_id, partial.id, "user", "go on")
    assert (await prompt(service, more.id))[1:] == [("assistant", "a half answ"), ("user", "go on")]


async def test_a_system_message_of_the_conversation_joins_the_system_prompt(service: ConversationService) -> None:
    conversation_id = await service.create(ANN)
    system = await service.append(ANN, conversation_id, None, "system", "Speak French.")
    question = await service.append(ANN, conversation_id, system.id, "user", "question")
    assert await prompt(service, question.id) == [("system", "Speak French."), ("user", "question")]
    await service.update_settings(ANN, conversation_id, {"system_prompt": "Be brief."})
    assert await prompt(service, question.id) == [("system", "Be brief.\n\nSpeak French."), ("user", "question")]


async def test_images_stand_before_the_text_of_their_message(service: ConversationService) -> None:
    conversation_id = await service.create(ANN)
    first = await service.append(ANN, conversation_id, None, "user", "one", images=[image(b"A"), image(b"B")])
    second = await service.append(ANN, conversation_id, first.id, "user", "", images=[image(b"C")])  # no reply came between
    third = await service.append(ANN, conversation_id, second.id, "user", "three")
    (message,) = await service.messages_for_prompt(ANN, third.id)
    assert [part if isinstance(part, str) else base64.b64decode(part.data) for part in message.parts()] == [b"A", b"B", "one\n\n", b"C", "\n\nthree"]
    assert await service.image(ANN, first.id, 1) == ("png", b"B")
    with pytest.raises(NotFound):
        await service.image(ANN, first.id, 2)


async def test_a_version_and_a_branch_keep_the_images(service: ConversationService) -> None:
    conversation_id = await service.create(ANN)
    message = await service.append(ANN, conversation_id, None, "user", "one", images=[image(b"A")])
    version = await service.add_version(ANN, message.id, "uno")
    copy = (await service.read(ANN, await service.branch(ANN, version.id))).messages[0]
    await service.delete(ANN, conversation_id)
    assert await service.image(ANN, copy.id, 0) == ("png", b"A")


async def test_more_than_can_be_looked_at_is_refused(service: ConversationService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modules.services.prompt_material.IMAGES_IN_PROMPT_BYTES", 1 << 20)
    conversation_id = await service.create(ANN)
    half = image(bytes(600_000))
    first = await service.append(ANN, conversation_id, None, "user", "one", images=[half])
    assert len(await service.messages_for_prompt(ANN, first.id)) == 1
    second = await service.append(ANN, conversation_id, first.id, "user", "two", images=[half])
    with pytest.raises(InvalidRequest, match="1 MiB can be looked at for one reply. Go on in a new conversation"):
        await service.messages_for_prompt(ANN, second.id)
    with pytest.raises(InvalidRequest, match="not in base64"):
        await service.append(ANN, conversation_id, first.id, "user", "x", images=[Image(kind="png", data="%")])
