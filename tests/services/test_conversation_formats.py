"""Files of other programs become conversations of ours: each format as its program writes it, and what is wrong is told."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from modules.services import conversation_formats
from modules.services.conversation_files import imported
from modules.services.conversation_formats import FoundConversation, read_conversations
from modules.services.foreign_parts import seconds_of
from modules.store.records import NewConversation, NewMessage

SAMPLES = Path(__file__).parents[1] / "samples"


def read(name: str) -> list[FoundConversation]:
    with (SAMPLES / name).open("rb") as file:
        return list(read_conversations(file, name))


def read_bytes(content: bytes, name: str = "file.json") -> list[FoundConversation]:
    return list(read_conversations(io.BytesIO(content), name))


def told(found: FoundConversation) -> NewConversation:
    assert found.problem == ""
    assert found.values is not None
    return imported(found.values)


def shown(conversation: NewConversation) -> list[NewMessage]:
    """The path to the head."""
    path = []
    place = conversation.head
    while place is not None:
        path.append(conversation.messages[place])
        place = conversation.messages[place].parent
    return path[::-1]


def turns(conversation: NewConversation) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in shown(conversation)]


def test_chatgpt_keeps_versions_thoughts_and_times() -> None:
    first, second = (told(found) for found in read("chatgpt.json"))
    assert first.title == "Boiling on Everest"
    assert (first.created_s, first.updated_s) == (1736209400.0, 1736209800.0)
    assert turns(first) == [
        ("user", "What is the boiling point of water on Everest?"),
        ("assistant", "<think>\nPressure at the top is about a third.\n</think>\n\nIt boils at about 71 °C.\n\nThe air pressure there is a third of that at the sea."),
        ("user", "[image]\n\nIs this the summit?"),
        ("assistant", "Yes, that is the **summit**."),
    ]
    versions = [message for message in first.messages if message.parent == 0]
    assert [message.content.splitlines()[-1] for message in versions] == ["About 71 °C.", "The air pressure there is a third of that at the sea."]
    assert [message.model for message in versions] == ["gpt-4o", "o3"]
    assert versions[0].created_s == 1736209420.1
    assert turns(second) == [("user", "Hi there")]


def test_claude_keeps_versions_thinking_and_texts_of_files() -> None:
    first, second = read("claude.json")
    conversation = told(first)
    assert (conversation.title, conversation.pinned) == ("Postgres for metrics", True)
    assert conversation.created_s == seconds_of("2026-02-14T10:04:22Z")
    assert turns(conversation) == [
        ("user", "Is Postgres good for metrics? My table is attached.\n\ntable.sql:\n\n```\ncreate table m (t timestamptz);\n```\n\n[graph.png]"),
        ("assistant", "Yes, with partitions."),
        ("user", "And with a million rows a day?"),
        ("assistant", "<think>\nTwelve rows a second.\n</think>\n\nStill fine."),
    ]
    assert "Perhaps." in [message.content for message in conversation.messages]
    assert second.values is not None
    assert second.values["messages"] == []


def test_an_older_claude_file_without_parents_is_a_line() -> None:
    messages = [{"uuid": name, "text": text, "sender": sender} for name, sender, text in (("a", "human", "One?"), ("b", "assistant", "Two."), ("c", "human", "Three?"))]
    (found,) = read_bytes(json.dumps({"uuid": "x", "name": "Line", "chat_messages": messages}).encode())  # one conversation, no list
    assert turns(told(found)) == [("user", "One?"), ("assistant", "Two."), ("user", "Three?")]


def test_sillytavern_swipes_are_versions() -> None:
    (found,) = read("sillytavern.jsonl")
    conversation = told(found)
    assert (found.format, conversation.title) == ("SillyTavern", "Chat with Captain Reed")
    assert turns(conversation) == [
        ("assistant", "Welcome aboard."), ("user", "Where do we sail?"), ("assistant", "<think>\nNorth it is.\n</think>\n\n*points north* There."),
    ]  # fmt: skip
    assert {message.content for message in conversation.messages} >= {"Ahoy!", "South."}
    assert [message.speaker for message in shown(conversation)] == ["Captain Reed", "Ann", "Captain Reed"]
    assert shown(conversation)[2].model == "mistral-7b"
    assert shown(conversation)[0].created_s == seconds_of("2024-06-26T15:45:00Z")


def test_textgen_versions_and_greeting() -> None:
    (found,) = read("textgen.json")
    conversation = told(found)
    assert turns(conversation) == [
        ("assistant", "How can I help you today?"), ("user", "Name a colour."), ("assistant", "Green."), ("user", "Another."), ("assistant", "Red."),
    ]  # fmt: skip
    assert "Blue." in [message.content for message in conversation.messages]
    old = read_bytes(json.dumps({"data": [["hi", "hello"]], "data_visible": [["hi", "hello"]]}).encode())
    assert turns(told(old[0])) == [("user", "hi"), ("assistant", "hello")]


def test_openai_lines_with_system_images_and_tools() -> None:
    first, second = (told(found) for found in read("openai.jsonl"))
    assert first.settings["system_prompt"] == "Be brief."
    assert turns(first) == [("user", "What is this?"), ("assistant", "A fox.")]
    assert [(image.kind, image.file) for image in first.messages[0].images] == [("png", b"\x89PNG\r\n\x1a\n")]  # type: ignore[union-attr]
    assert turns(second) == [("user", "2+2"), ("assistant", "4")]


def test_sharegpt_and_a_bare_list_of_messages() -> None:
    first, second = (told(found) for found in read("sharegpt.json"))
    assert first.settings["system_prompt"] == "You are a pirate."
    assert turns(first) == [("user", "Hello"), ("assistant", "Ahoy!")]
    assert turns(second) == [("user", "Bye"), ("assistant", "Farewell")]
    (bare,) = read_bytes(b'\xef\xbb\xbf[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]')
    assert turns(told(bare)) == [("user", "hi"), ("assistant", "hello")]
    (wrapped,) = read_bytes(b'{"conversations": [{"messages": [{"role": "user", "content": "hi"}]}]}')
    assert turns(told(wrapped)) == [("user", "hi")]


def archive(members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", compression) as made:
        for name, data in members.items():
            made.writestr(name, data)
    return content.getvalue()


def test_an_archive_is_read_as_it_came() -> None:
    chatgpt = (SAMPLES / "chatgpt.json").read_bytes()
    members = {"export/conversations.json": chatgpt, "export/user.json": b'{"id": "u"}', "export/message_feedback.json": b"[]", "export/dalle/pic.png": b"\x89PNG"}
    assert [told(found).title for found in read_bytes(archive(members), "export.zip")] == ["Boiling on Everest", "Hello"]
    parts = {"conversations-000.json": chatgpt, "conversations-001.json": chatgpt}
    assert len(read_bytes(archive(parts), "export.zip")) == 4
    several = {"a.jsonl": (SAMPLES / "openai.jsonl").read_bytes(), "b.json": (SAMPLES / "textgen.json").read_bytes()}
    assert [found.format for found in read_bytes(archive(several))] == ["messages", "messages", "text-generation-webui"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"hello", "neither JSON nor a chat in Markdown"),
        (b'{"title": "x"}', "no conversation that Paddock knows"),
        (b'[{"title": "x"}, 3]', "this one is a number"),
        (b'{"messages": [{"role": "robot", "content": "x"}]}', "spoken by “robot”"),
        (b'{"internal": "text"}', "not a list of pairs"),
        (b'{"messages": [{"role": "user", "content": "\xff"}]}', "not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (archive({"readme.txt": b"hello"}), "holds no file of conversations"),
        (archive({"conversations.json": b'{"a": 1}'})[:-30], "damaged archive"),
        (b"PK\x03\x04 and nothing else", "damaged archive"),
    ],
    ids=range(11),
)
def test_what_is_no_conversation_is_told(content: bytes, words: str) -> None:
    problems = [found.problem for found in read_bytes(content, "chats.json") if found.problem]
    assert problems
    assert words in problems[-1]


def test_what_is_whole_before_a_damage_is_found() -> None:
    good = b'{"messages": [{"role": "user", "content": "hi"}]}'
    found = read_bytes(b"[" + good + b", " + good + b', {"messages": [}]')
    assert [bool(row.problem) for row in found] == [False, False, True]
    assert "line 1" in found[-1].problem


def test_a_member_that_unpacks_to_more_than_it_may_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation_formats, "UNPACKED_LIMIT_BYTES", 500_000)
    bomb = archive({"conversations.json": b"[" + b" " * 2_000_000 + b"]"})
    assert len(bomb) < 10_000
    (found,) = read_bytes(bomb, "bomb.zip")
    assert "unpacks to more than" in found.problem


def test_a_damaged_member_is_told_and_the_others_are_read() -> None:
    good = b'[{"messages": [{"role": "user", "content": "hi"}]}]'
    content = bytearray(archive({"conversations-1.json": good * 1, "conversations-2.json": good}, zipfile.ZIP_STORED))
    content[content.index(b"hi")] = ord("x")  # its checksum is wrong now
    found = read_bytes(bytes(content), "export.zip")
    assert "damaged" in " ".join(row.problem for row in found)
    assert turns(told(found[-1])) == [("user", "hi")]


def ring() -> dict[str, Any]:
    """Nodes that name each other as parents."""
    def node(parent: str) -> dict[str, Any]:
        return {"parent": parent, "children": [], "message": {"author": {"role": "user"}, "content": {"content_type": "text", "parts": ["x"]}}}

    return {"title": "Ring", "mapping": {"a": node("b"), "b": node("a"), "c": node("nowhere")}}


def test_hostile_trees_end() -> None:
    (found,) = read_bytes(json.dumps([ring()]).encode())
    assert turns(told(found)) == [("user", "x")]  # only what hangs on a root
    deep = {"mapping": {str(i): {"parent": str(i - 1) if i else None, "children": [str(i + 1)], "message": {"author": {"role": "user"}, "content": {"content_type": "text", "parts": [f"m{i}"]}}} for i in range(3000)}}
    (long,) = read_bytes(json.dumps(deep).encode())
    assert len(told(long).messages) == 3000
    odd = {"mapping": {"a": None, "b": {"message": 3}, "c": {"message": {"author": [], "content": {"content_type": "text", "parts": "text"}}}}, "title": 5, "create_time": "soon", "current_node": ["a"]}
    (nothing,) = read_bytes(json.dumps([odd]).encode())
    assert nothing.values is not None
    assert nothing.values["messages"] == []


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (0, 0.0), (1736209400.5, 1736209400.5), (1736209400500, 1736209400.5), ("1736209400", 1736209400.0), ("2026-02-14T10:04:22Z", 1771063462.0),
        ("2024-6-26 @15h 45m 12s 123ms", 1719416712.0), ("June 26, 2024 3:45pm", 1719416700.0), ("Jun 26, 2024 15:45", 1719416700.0),
        (None, None), (True, None), (-5, None), (float("nan"), None), ("soon", None), ("Juvember 26, 2024 3:45pm", None), ([], None), ("2024-99-99 @15h 45m", None),
    ],
)  # fmt: skip
def test_times_in_all_spellings(value: Any, seconds: float | None) -> None:
    assert seconds_of(value) == seconds
