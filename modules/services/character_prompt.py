"""What a character and the person's own profile add to a prompt. Pure: cards and messages in, messages and stop strings out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from modules.core.dialogue import NARRATOR
from modules.core.messages import Message
from modules.prompts.character_card import CardText
from modules.prompts.lorebook import Lore, Lorebook

PERSON = "User"  # who has no profile
ASSISTANT = "Assistant"  # who speaks without a character
OPENING = "[The conversation begins.]"  # the turn before a greeting: the templates of many models refuse a reply as the first message
SEPARATOR = "\n\n"
BYTES_PER_TOKEN = 3  # rather too many tokens than too few: the web process has no tokenizer
PLACEHOLDER = re.compile(r"\{\{(char|user)\}\}|<(BOT|USER)>", re.IGNORECASE)
ORIGINAL = re.compile(r"\{\{original\}\}", re.IGNORECASE)
START = re.compile(r"^\s*<START>\s*$", re.IGNORECASE | re.MULTILINE)


class Names(NamedTuple):
    """How both are called."""

    char: str
    user: str

    def put_into(self, text: str) -> str:
        """A text with {{char}}, {{user}}, <BOT> and <USER> replaced."""

        def name(match: re.Match[str]) -> str:
            return self.user if (match[1] or match[2]).lower() == "user" else self.char

        return PLACEHOLDER.sub(name, text)


def names_of(character: CardText | None, profile: CardText | None) -> Names:
    """The names in a conversation."""
    return Names((character.name.strip() if character else "") or ASSISTANT, (profile.name.strip() if profile else "") or PERSON)


def spoken(speaker: str, text: str) -> str:
    """What was said, as a prompt has it: what a narrator tells is marked, everybody else is known by the role."""
    return f"{NARRATOR}: {text}" if speaker == NARRATOR else text


def stop_strings(names: Names) -> tuple[str, ...]:
    """Where a reply ends that would go on to speak for somebody else."""
    return (f"\n{names.user}:", f"\n{names.char}:")


def in_role(
    messages: Sequence[Message], character: CardText | None, profile: CardText | None, book: Lorebook | None, *, turns: bool = True
) -> tuple[Message, ...]:
    """The messages of a conversation, with a system message and last instructions as the character wants them.

    Unless they go to the model as turns, they may begin with a reply, and the last instructions belong to the command (`last_words`).
    """
    names = names_of(character, profile)
    has_system = bool(messages) and messages[0].role == "system"
    original = messages[0].content if has_system else ""
    rest = list(messages[1:] if has_system else messages)
    lore = book.lore([message.content for message in rest], estimated_tokens) if book else Lore()
    parts = _character_parts(character, original, lore) if character else [original]
    if profile and profile.description.strip():
        parts.append(f"About {{{{user}}}}:\n{profile.description.strip()}")
    system = names.put_into(SEPARATOR.join(part.strip() for part in parts if part.strip()))
    if turns and character and rest and rest[0].role == "assistant":
        rest.insert(0, Message(role="user", content=OPENING))
    if turns and character:
        rest = _with_last_words(rest, names.put_into(last_words(character)))
    return (*((Message(role="system", content=system),) if system else ()), *rest)


def last_words(character: CardText | None) -> str:
    """What a character wants to be said last, with its placeholders."""
    return ORIGINAL.sub("", character.post_history_instructions).strip() if character else ""


def estimated_tokens(text: str) -> int:
    """About how many tokens a text has, where it cannot be counted."""
    return len(text.encode()) // BYTES_PER_TOKEN + 1


def _character_parts(character: CardText, original: str, lore: Lore) -> list[str]:
    own = ORIGINAL.sub(lambda _: original, character.system_prompt)
    first = own if own.strip() else original or "You are {{char}}. Write the next reply of {{char}} in this conversation with {{user}}."
    examples = START.sub("---", character.mes_example).strip().removeprefix("---").strip()
    return [
        first,
        *lore.before,
        character.description,
        f"Personality of {{{{char}}}}: {character.personality.strip()}" if character.personality.strip() else "",
        f"Scenario: {character.scenario.strip()}" if character.scenario.strip() else "",
        *lore.after,
        f"Examples of how {{{{char}}}} speaks:\n{examples}" if examples else "",
    ]


def _with_last_words(messages: list[Message], words: str) -> list[Message]:
    """Behind the text of the last message of the person: many templates refuse a system message at the end."""
    for place in range(len(messages) - 1, -1, -1):
        if messages[place].role == "user" and words:
            changed = messages[place].model_copy(update={"content": messages[place].content + SEPARATOR + words})
            return [*messages[:place], changed, *messages[place + 1 :]]
    return messages
