"""Chats in Markdown, as people and programs write them."""

from __future__ import annotations

import pytest

from modules.core.errors import InvalidRequest
from modules.services.conversation_files import imported
from modules.services.foreign_markdown import from_markdown

TURNS = [("user", "Hi, who are you?"), ("assistant", "A pony.\n\n```md\n## User\n```\n\n### Model\n\nA small one."), ("user", "Thanks.")]


def turns(text: str) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in imported(from_markdown(text, "chat.md")).messages]


@pytest.mark.parametrize(
    "form",
    [
        ("## {0}\n\n{1}\n\n", "User", "Assistant"),
        ("#### {0}:\r\n{1}\r\n\r\n", "You", "ChatGPT"),
        ("**{0}:** {1}\n\n", "Human", "Claude 3.5 Sonnet"),
        ("**{0}**: {1}\n\n---\n\n", "Me", "AI"),
        ("{0}: {1}\n\n", "User", "Assistant"),
        ("###### {0} said:\n\n{1}\n", "You", "ChatGPT"),
        ("## 🧑 **{0}**\n\n{1}\n\n", "User", "gpt-4o"),
    ],
)
def test_who_speaks_is_known_by_the_line_before(form: tuple[str, str, str]) -> None:
    line, person, model = form
    text = "".join(line.format(person if role == "user" else model, said) for role, said in TURNS)
    assert turns(f"# A talk\n\n> Saved today.\n\n{text}") == TURNS
    told = from_markdown(f"# A talk\n\n> Saved today.\n\n{text}", "chat.md")
    assert (told["title"], told["settings"]["system_prompt"]) == ("A talk", "")


def test_names_times_and_a_system_prompt() -> None:
    text = """# Stable

> Be a pony.
> Stay one.

## Pony · 2026-01-02 03:04 UTC

Neigh.

## Anna · 2026-01-02 03:05 UTC

Hello.

## Pony · 2026-99-99 03:05 UTC · small/pony.gguf

Trot.
"""
    told = imported(from_markdown(text, "chat.md"))
    assert (told.title, told.settings["system_prompt"]) == ("Stable", "Be a pony.\nStay one.")
    assert [(message.role, message.speaker, message.content, message.model) for message in told.messages] == [
        ("assistant", "Pony", "Neigh.", ""), ("user", "Anna", "Hello.", ""), ("assistant", "Pony", "Trot.", "small/pony.gguf"),
    ]  # fmt: skip
    assert next(message.created_s for message in told.messages) == 1767323040.0


def test_a_system_turn_becomes_the_system_prompt() -> None:
    told = from_markdown("**System:** Rhyme.\n\n**User:** Hi\n\n**Assistant:** Fly.", "chat.md")
    assert told["settings"]["system_prompt"] == "Rhyme."
    assert [message["role"] for message in told["messages"]] == ["user", "assistant"]


@pytest.mark.parametrize("text", ["hello", "# Notes\n\n## Milk\n\nBuy it.", "User: only one of them speaks", "```\nUser: a\nAssistant: b\n```"])
def test_a_text_in_which_nobody_speaks_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="no line says who speaks"):
        from_markdown(text, "notes.md")


def test_a_hostile_chat_is_read_in_time() -> None:
    """Each of the two took minutes where the time grew with the square of the length."""
    lines = "\n---" * 400_000
    assert turns(f"User: Hi\n\nAssistant: Fly.\n{lines}") == [("user", "Hi"), ("assistant", "Fly.")]
    names = "".join(f"## Pony {number} · 2026-01-02 03:04 UTC\n\nNeigh.\n\n" for number in range(40_000))
    told = from_markdown(names, "chat.md")["messages"]
    assert [message["role"] for message in told[:3]] == ["user", "assistant", "assistant"]
