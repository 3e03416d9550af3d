"""Conversations move in and out: what a file brought is stored and told, and what leaves comes back as it was."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from modules.core.errors import InvalidRequest, NotFound
from modules.core.generation import ChatPrompt
from modules.core.messages import Image, Message
from modules.services import conversation_imports, conversation_own_file, prompt_files
from modules.services.conversation_exports import WRITERS, ConversationExports
from modules.services.conversation_imports import ConversationImports, ImportReport
from modules.services.conversations import ConversationService
from modules.services.kept_prompts import KeptPrompt, packed
from modules.services.storage import Storage
from modules.store.records import NewFile
from modules.training import json_rows

ANN, BOB = "ann", "bob"
SAMPLES = Path(__file__).parents[1] / "samples"


class Moves:
    """The services over one store."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.storage = Storage(folder)
        self.conversations = ConversationService(self.storage)
        self.imports = ConversationImports(self.storage, folder)
        self.exports = ConversationExports(self.storage)

    async def take(self, content: bytes, name: str = "chats.json", owner: str = ANN) -> ImportReport:
        async def pieces() -> AsyncIterator[bytes]:
            for at in range(0, len(content), 1000):
                yield content[at : at + 1000]

        return await self.imports.take(owner, name, pieces())

    async def export(self, conversation_id: str, form: str, owner: str = ANN) -> bytes:
        file = await self.exports.write(owner, conversation_id, form)
        return b"".join([piece async for piece in file.pieces])

    async def shown(self, conversation_id: str, owner: str = ANN) -> list[str]:
        return [message.content for message in (await self.conversations.read(owner, conversation_id)).messages]


@pytest.fixture
async def moves(tmp_path: Path) -> AsyncIterator[Moves]:
    made = Moves(tmp_path / "state")
    yield made
    await made.storage.close()


async def test_a_file_of_each_program_becomes_conversations(moves: Moves) -> None:
    for name, count, form in (
        ("chatgpt.json", 2, "ChatGPT"), ("claude.json", 1, "Claude"), ("sillytavern.jsonl", 1, "SillyTavern"), ("textgen.json", 1, "text-generation-webui"),
        ("openai.jsonl", 2, "messages"), ("sharegpt.json", 2, "messages"),
    ):  # fmt: skip
        report = await moves.take((SAMPLES / name).read_bytes(), name)
        assert (report.imported, report.refused, report.formats) == (count, 0, [form]), name
        for row in report.conversations:
            assert await moves.shown(row.id)
    assert report.empty == 0
    listed = await moves.conversations.list(ANN)
    assert len(listed) == 9
    rows = {row.title: row for row in listed}
    assert rows["Boiling on Everest"].updated_s == 1736209800.0
    assert rows["Postgres for metrics"].pinned
    assert await moves.conversations.list(BOB) == ()


async def test_what_is_refused_is_told_and_the_rest_is_there(moves: Moves) -> None:
    good = {"messages": [{"role": "user", "content": "hi"}]}
    bad = {"messages": [{"role": "user", "content": "x" * 4_000_001}]}
    empty = {"uuid": "e", "name": "", "chat_messages": []}
    report = await moves.take(json.dumps([good, bad, {"weather": "fine"}, empty, good]).encode())
    assert (report.imported, report.refused, report.empty) == (2, 2, 1)
    assert "4000000" in report.refusals[0].reason.replace(",", "")
    assert "row 3" in report.refusals[1].where and "weather" in report.refusals[1].reason
    assert len(await moves.conversations.list(ANN)) == 2


async def test_a_file_over_the_limits_leaves_nothing(moves: Moves, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidRequest, match="empty"):
        await moves.take(b"")
    monkeypatch.setattr(conversation_imports, "FILE_LIMIT_BYTES", 1 << 20)
    with pytest.raises(InvalidRequest, match="larger than 1 MiB"):
        await moves.take(b" " * (1 << 20) + b"x")
    assert await moves.conversations.list(ANN) == ()
    monkeypatch.setattr(conversation_imports, "CONVERSATIONS_LIMIT", 2)
    report = await moves.take(json.dumps([{"messages": [{"role": "user", "content": "hi"}]}] * 3).encode())
    assert (report.imported, report.refused) == (2, 1)


async def whole(moves: Moves) -> str:
    """A conversation with everything that one can have."""
    image = Image(kind="png", data=base64.b64encode(b"pixels").decode())
    conversation_id = await moves.conversations.create(ANN, {"system_prompt": "Be brief."})
    waiting = await moves.storage.run(lambda stores: stores.files.add(ANN, conversation_id, NewFile("notes.txt", "text", "Buy milk.", "1 line", 9), 5))
    question = await moves.conversations.append(ANN, conversation_id, None, "user", "look at this", images=[image], files=[waiting.id])
    reply = await moves.conversations.append(ANN, conversation_id, question.id, "assistant", "<think>It is milk.</think>\n\nMilk.")
    await moves.conversations.save_reply(ANN, reply.id, content=reply.content, status="complete", model="m", receipt={"seed": 7})
    other = await moves.conversations.add_version(ANN, reply.id, "Only milk.")
    await moves.conversations.rate(ANN, reply.id, 1)
    await moves.conversations.select_version(ANN, reply.id)
    await moves.conversations.rename(ANN, conversation_id, "Groceries & more")
    await moves.conversations.pin(ANN, conversation_id, True)
    assert other.id != reply.id
    return conversation_id


def placed(file: dict[str, Any]) -> dict[str, Any]:
    """A file with places instead of ids."""
    places = {message["id"]: place for place, message in enumerate(file["messages"])}
    named = {message["id"]: {**message, **{key: places.get(message[key]) for key in ("id", "parent_id", "edited_from")}} for message in file["messages"]}
    return {**file, "head_id": places[file["head_id"]], "messages": list(named.values())}


async def test_our_own_form_loses_nothing(moves: Moves) -> None:
    conversation_id = await whole(moves)
    assert (await moves.exports.write(ANN, conversation_id, "json")).name == "groceries-more.json"
    written = await moves.export(conversation_id, "json")
    report = await moves.take(written, "groceries-more.json", BOB)
    before, after = json.loads(written), json.loads(await moves.export(report.conversations[0].id, "json", BOB))
    assert report.formats == ["Paddock"]
    assert placed(after) == placed(before)
    assert after["messages"][0]["files"] == [{"name": "notes.txt", "kind": "text", "note": "1 line", "size_bytes": 9, "text": "Buy milk."}]
    assert after["messages"][0]["images"]
    assert (after["title"], after["pinned"], after["updated_s"]) == ("Groceries & more", True, before["updated_s"])
    assert await moves.shown(report.conversations[0].id, BOB) == await moves.shown(conversation_id)


async def test_the_prompts_of_replies_travel_with_them(moves: Moves) -> None:
    conversation_id = await whole(moves)
    shown = (await moves.conversations.read(ANN, conversation_id)).messages
    replies = [shown[1].id, (await moves.conversations.append(ANN, conversation_id, shown[1].id, "assistant", "More.")).id]
    picture = Image(kind="png", data=base64.b64encode(b"pixels").decode())
    prompt = ChatPrompt(messages=(Message(role="user", content="look at this " * 200, images=(picture,)),), template_variables={"a": 1})
    longer = prompt.model_copy(update={"messages": (*prompt.messages, Message(role="assistant", content="Milk."))})
    await moves.conversations.prompts.keep(ANN, replies[0], KeptPrompt(prompt), ())
    await moves.conversations.prompts.keep(ANN, replies[1], KeptPrompt(longer), ())
    written = json.loads(await moves.export(conversation_id, "json"))
    told = {message["id"]: message["prompt"]["texts"] for message in written["messages"] if "prompt" in message}
    assert [len(told[reply]) for reply in replies] == [2, 1], "each text once"
    copy = (await moves.take(json.dumps(written).encode(), owner=BOB)).conversations[0].id
    places = {message.content: message.id for message in (await moves.conversations.read(BOB, copy)).messages}
    for reply, content in ((replies[0], shown[1].content), (replies[1], "More.")):
        kept = await moves.conversations.prompts.of(BOB, places[content])
        assert kept is not None
        assert kept == await moves.conversations.prompts.of(ANN, reply)
    first = next(message for message in written["messages"] if message["id"] == replies[0])
    first["prompt"]["texts"] = dict.fromkeys(first["prompt"]["texts"], "not what the hash says")
    copy = (await moves.take(json.dumps(written).encode(), owner=BOB)).conversations[0].id
    last = (await moves.conversations.read(BOB, copy)).messages[-1].id
    assert await moves.conversations.prompts.of(BOB, last) is None, "what it shares with the first one is not in the file"


async def test_a_message_that_would_fill_the_memory_is_refused(moves: Moves, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_rows, "CHUNK_BYTES", 500)
    monkeypatch.setattr(conversation_own_file, "MESSAGE_LIMIT_CHARS", 1 << 20)
    long = {str(number): "x" * 30_000 for number in range(100)}
    for more in (long, {"prompt": {"form": {}, "texts": long}}, {"images": [long]}):
        message = {"role": "user", "content": "hi", **more}
        report = await moves.take(json.dumps({"format": "paddock-conversation", "messages": [message]}).encode())
        assert (report.imported, report.refused) == (0, 1)
        assert re.search("longer than 1 MiB", report.refusals[0].reason), report.refusals


async def test_a_prompt_that_repeats_a_long_text_is_not_kept(moves: Moves, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_files, "PROMPT_LIMIT_CHARS", 1000)
    form, texts = packed(KeptPrompt(ChatPrompt(messages=(Message(role="user", content="hi" * 100),))), ())
    for runs, kept in ((form["runs"], True), (form["runs"] * 50, False)):
        message = {"role": "assistant", "content": "hi", "prompt": {"form": {**form, "runs": runs}, "texts": texts}}
        report = await moves.take(json.dumps({"format": "paddock-conversation", "messages": [message]}).encode())
        stored = (await moves.conversations.read(ANN, report.conversations[0].id)).messages[0].id
        assert (await moves.conversations.prompts.of(ANN, stored) is not None) == kept


async def test_a_file_that_paddock_wrote_is_read_whatever_its_size(moves: Moves, monkeypatch: pytest.MonkeyPatch) -> None:
    conversation_id = await whole(moves)
    last = (await moves.conversations.read(ANN, conversation_id)).messages[-1].id
    for number in range(60):
        last = (await moves.conversations.append(ANN, conversation_id, last, "assistant" if number % 2 else "user", f"Number {number}. " + "x" * 100)).id
    written = await moves.export(conversation_id, "json")
    monkeypatch.setattr(json_rows, "VALUE_LIMIT_CHARS", 1000)
    monkeypatch.setattr(json_rows, "CHUNK_BYTES", 500)
    assert len(written) > 20_000
    report = await moves.take(written, "long.json", BOB)
    assert report.refusals == []
    assert placed(json.loads(await moves.export(report.conversations[0].id, "json", BOB))) == placed(json.loads(written))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda text: text[: len(text) // 2], "is not JSON: Unterminated string|ends before its"),
        (lambda text: text.replace('"role": "assistant"', '"role": "robot"'), "Message 2 of chats.json cannot be read: .*role"),
        (lambda text: text.replace('"Milk."', f"[{'[],' * 4000}[]]"), "one value is longer than"),
        (lambda text: text.replace('"messages":', '"messages": [], "messages":'), "twice"),
        (lambda text: text.replace('"messages":', '"letters":'), "has no messages|one value is longer"),
        (lambda text: text.replace('"id":', '"id": "same", "was":'), "same id"),
    ],
)
async def test_a_file_in_our_form_that_is_none_leaves_nothing(
    moves: Moves, monkeypatch: pytest.MonkeyPatch, change: Callable[[str], str], told: str
) -> None:
    conversation_id = await moves.conversations.create(ANN)
    question = await moves.conversations.append(ANN, conversation_id, None, "user", "What is it?")
    await moves.conversations.append(ANN, conversation_id, question.id, "assistant", "Milk.")
    written = (await moves.export(conversation_id, "json")).decode()
    monkeypatch.setattr(json_rows, "VALUE_LIMIT_CHARS", 1000)
    monkeypatch.setattr(json_rows, "CHUNK_BYTES", 500)
    report = await moves.take(change(written).encode(), owner=BOB)
    assert (report.imported, report.refused) == (0, 1)
    assert re.search(told, report.refusals[0].reason), report.refusals
    assert await moves.conversations.list(BOB) == ()


async def test_what_is_deleted_while_a_file_is_written_does_not_cut_it_off(moves: Moves) -> None:
    conversation_id = await whole(moves)
    shown = (await moves.conversations.read(ANN, conversation_id)).messages
    file = await moves.exports.write(ANN, conversation_id, "json")
    written = await anext(file.pieces)
    await moves.conversations.delete_message(ANN, shown[1].id)
    written += await anext(file.pieces) + await anext(file.pieces)
    await moves.conversations.delete(ANN, conversation_id)
    written += b"".join([piece async for piece in file.pieces])
    assert [message["content"] for message in json.loads(written)["messages"]] == [shown[0].content, shown[1].content, "Only milk."]


async def test_several_files_in_our_form_behind_each_other(moves: Moves) -> None:
    written = await moves.export(await whole(moves), "json")
    report = await moves.take(written + b"\n" + written, owner=BOB)
    assert (report.imported, report.formats) == (2, ["Paddock"])


async def test_the_other_forms_hold_the_path_that_is_shown(moves: Moves) -> None:
    conversation_id = await whole(moves)
    markdown = (await moves.export(conversation_id, "markdown")).decode()
    assert markdown.startswith("# Groceries & more\n\n> Be brief.\n\n## You · ")
    assert "*Attached file notes.txt*" in markdown and "*Attached image 1*" in markdown
    assert "> *Thinking:* It is milk.\n\nMilk.\n" in markdown
    assert "Only milk." not in markdown
    openai = json.loads(await moves.export(conversation_id, "openai"))
    assert [message["role"] for message in openai["messages"]] == ["system", "user", "assistant"]
    assert openai["messages"][1]["content"] == "notes.txt:\n\nBuy milk.\n\nlook at this"
    sharegpt = json.loads(await moves.export(conversation_id, "sharegpt"))
    assert [turn["from"] for turn in sharegpt[0]["conversations"]] == ["system", "human", "gpt"]
    report = await moves.take(markdown.encode(), "groceries.md", BOB)
    back = await moves.conversations.read(BOB, report.conversations[0].id)
    assert (report.formats, back.title, back.settings.system_prompt) == (["Markdown"], "Groceries & more", "Be brief.")
    assert [(message.role, message.content, message.model) for message in back.messages] == [
        ("user", "*Attached file notes.txt*\n\n*Attached image 1*\n\nlook at this", ""), ("assistant", "<think>\nIt is milk.\n</think>\n\nMilk.", "m"),
    ]  # fmt: skip
    again = (await moves.export(back.id, "markdown", BOB)).decode()
    assert again == markdown, "and once more"
    for form in ("openai", "sharegpt"):
        report = await moves.take(await moves.export(conversation_id, form), "again", BOB)
        record = await moves.conversations.read(BOB, report.conversations[0].id)
        assert (record.settings.system_prompt, len(record.messages)) == ("Be brief.", 2)


async def test_only_the_owner_takes_a_conversation_along(moves: Moves) -> None:
    conversation_id = await moves.conversations.create(ANN)
    for form in WRITERS:
        with pytest.raises(NotFound):
            await moves.exports.write(BOB, conversation_id, form)
    with pytest.raises(InvalidRequest, match="“pdf”"):
        await moves.exports.write(ANN, conversation_id, "pdf")
