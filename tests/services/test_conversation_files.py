"""Conversations as files: out and back, other forms, refusals; and titles made from texts."""

from __future__ import annotations

import base64
import json

import pytest

from modules.core.errors import InvalidRequest, NotFound
from modules.core.messages import Image
from modules.services.conversation_files import title_from
from modules.services.conversations import ConversationService
from tests.services.conversation_steps import ANN, BOB, shown


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("Hello", "Hello"),
        ("  two\n\nlines  ", "two lines"),
        ("x" * 40, "x" * 40),
        ("x" * 41, "x" * 40 + "…"),
        ("Why is the sky blue, and why does it turn red in the evening?", "Why is the sky blue, and why does it…"),
        ("Explain the following to me please and do: it well", "Explain the following to me please and…"),
        ("", ""),
    ],
)
def test_a_title_is_the_first_words(text: str, title: str) -> None:
    assert title_from(text) == title


async def test_an_exported_conversation_comes_back_as_it_was(service: ConversationService) -> None:
    conversation_id = await service.create(ANN)
    ids: list[str] = []
    for role, text in (("user", "question"), ("assistant", "reply ✓"), ("user", "thanks")):
        ids.append((await service.append(ANN, conversation_id, ids[-1] if ids else None, role, text)).id)
    await service.append(ANN, conversation_id, ids[0], "assistant", "reply 2")
    await service.save_reply(ANN, ids[1], content="reply ✓", status="failed", model="m", receipt={"seed": 1}, error="It crashed.")
    await service.select_version(ANN, ids[1])
    await service.update_settings(ANN, conversation_id, {"system_prompt": "Be brief.", "params": {"top_k": 3}})
    file = json.loads(json.dumps(await service.export(ANN, conversation_id)))
    copy_id = await service.import_(BOB, file)
    assert copy_id != conversation_id
    again = await service.export(BOB, copy_id)
    assert shape(again) == shape(file)
    assert [message.content for message in (await service.read(BOB, copy_id)).messages] == ["question", "reply ✓", "thanks"]
    with pytest.raises(NotFound):
        await service.read(ANN, copy_id)


async def test_ratings_and_edits_travel_with_their_messages(service: ConversationService) -> None:
    conversation_id = await service.create(ANN)
    question = await service.append(ANN, conversation_id, None, "user", "question")
    reply = await service.append(ANN, conversation_id, question.id, "assistant", "reply")
    edit = await service.add_version(ANN, reply.id, "better reply")
    await service.rate(ANN, reply.id, -1)
    await service.rate(ANN, edit.id, 1)
    file = json.loads(json.dumps(await service.export(ANN, conversation_id)))
    rows = (await service.export(BOB, await service.import_(BOB, file)))["messages"]
    assert [row["rating"] for row in rows] == [0, -1, 1]
    assert [row["edited_from"] for row in rows] == [None, None, rows[1]["id"]]
    assert rows[1]["id"] != reply.id
    file["messages"][2]["edited_from"] = file["messages"][2]["id"]  # a file may say anything
    rows = (await service.export(BOB, await service.import_(BOB, file)))["messages"]
    assert rows[2]["edited_from"] == edit.id
    with pytest.raises(InvalidRequest, match="rating"):
        await service.import_(BOB, {"messages": [{"role": "assistant", "content": "x", "rating": 5}]})


async def test_a_summary_stands_for_the_same_messages_again(service: ConversationService) -> None:
    conversation_id = await service.create(ANN)
    ids: list[str] = []
    for role, text in (("user", "question"), ("assistant", "reply"), ("user", "thanks")):
        ids.append((await service.append(ANN, conversation_id, ids[-1] if ids else None, role, text)).id)
    await service.update_settings(ANN, conversation_id, {"summary": "They greeted.", "summary_until": ids[1]})
    file = json.loads(json.dumps(await service.export(ANN, conversation_id)))
    copy = await service.read(BOB, await service.import_(BOB, file))
    assert (copy.settings.summary, copy.settings.summary_until) == ("They greeted.", copy.messages[1].id)
    assert [message.content for message in await service.messages_for_prompt(BOB, copy.messages[2].id)] == [
        "[Summary of the conversation so far: They greeted.]\n\nthanks"
    ]
    file["settings"]["summary_until"] = "deleted"  # it may be in the bin of the other machine
    assert (await service.read(BOB, await service.import_(BOB, file))).settings.summary == "They greeted."


async def test_images_travel_with_their_messages(service: ConversationService) -> None:
    conversation_id = await service.create(ANN)
    images = [Image(kind="webp", data=base64.b64encode(data).decode()) for data in (b"first", b"second")]
    message = await service.append(ANN, conversation_id, None, "user", "look", images=images)
    await service.append(ANN, conversation_id, message.id, "assistant", "A fox.")
    file = json.loads(json.dumps(await service.export(ANN, conversation_id)))
    assert "images" not in file["messages"][1]
    back = (await service.read(BOB, await service.import_(BOB, file))).messages[0]
    assert [await service.image(BOB, back.id, place) for place in (0, 1)] == [("webp", b"first"), ("webp", b"second")]
    for wrong in ({"kind": "svg", "data": ""}, {"kind": "png"}, {"kind": "png", "data": "%"}):
        file["messages"][0]["images"] = [wrong]
        with pytest.raises(InvalidRequest):
            await service.import_(BOB, file)


def shape(file: dict) -> dict:
    """A file with places instead of ids and without the times of the copy."""
    places = {message["id"]: place for place, message in enumerate(file["messages"])}
    messages = [{**message, "id": places[message["id"]], "parent_id": places.get(message["parent_id"])} for message in file["messages"]]
    return {**file, "messages": messages, "head_id": places[file["head_id"]], "created_s": 0, "updated_s": 0}


async def test_plain_lists_and_the_peer_s_histories_are_read(service: ConversationService) -> None:
    plain = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}, {"role": "user", "content": "bye"}]}
    assert await shown(service, await service.import_(ANN, plain)) == ["hi", "hello", "bye"]
    pairs = {"internal": [["<|BEGIN-VISIBLE-CHAT|>", "Welcome"], ["hi", "hello"], ["bye", ""]], "visible": [], "metadata": {}}
    imported = await service.read(ANN, await service.import_(ANN, pairs))
    assert [(message.role, message.content) for message in imported.messages] == [
        ("assistant", "Welcome"), ("user", "hi"), ("assistant", "hello"), ("user", "bye"),
    ]  # fmt: skip
    assert imported.title == "hi"
    assert (await service.read(ANN, await service.import_(ANN, {"messages": []}))).title == "Imported conversation"


def message(**values: object) -> dict:
    return {"id": "a", "parent_id": None, "role": "user", "content": "x", **values}


@pytest.mark.parametrize(
    "file",
    [
        {},
        {"messages": 3},
        {"messages": [3]},
        {"messages": [message(role="robot")]},
        {"messages": [message(content=None)]},
        {"messages": [message(), message()]},
        {"messages": [message(parent_id="a")]},
        {"messages": [message(parent_id="b"), message(id="b")]},
        {"messages": [message(parent_id="nowhere")]},
        {"messages": [message(created_s=float("nan"))]},
        {"messages": [message(created_s=-1)]},
        {"messages": [message(status="growing")]},
        {"messages": [], "format": "other"},
        {"messages": [], "version": 99},
        {"messages": [], "settings": {"params": {"temperature": 99}}},
        {"messages": [], "settings": {"mood": "good"}},
        {"internal": [["only one"]]},
        {"internal": "text"},
        {"internal": [[1, 2]]},
    ],
)
async def test_a_file_that_is_none_is_refused_with_a_sentence(service: ConversationService, file: dict) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await service.import_(ANN, file)
    assert caught.value.message.endswith(".")
    assert await service.list(ANN) == ()


async def test_a_reply_that_was_growing_when_exported_is_stopped(service: ConversationService) -> None:
    copy_id = await service.import_(ANN, {"messages": [message(status="streaming")], "head_id": "a"})
    assert (await service.read(ANN, copy_id)).messages[0].status == "stopped"
