"""A conversation told as one instruction: “continue the dialogue”, for models that follow instructions better than they keep a role.

Pure: messages in, messages out. Which model, template and names there are is the caller's business.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pydantic import BaseModel, Field

from modules.core.messages import Image, Message

COMMAND = "Continue the dialogue below. Write only what {{char}} says and does next, and stay in character.\n\n{{prompt}}"
COMMAND_LIMIT = 20_000
NARRATOR = "Narrator"  # who tells what nobody says
NAME = re.compile(r"\{\{(char|user)\}\}", re.IGNORECASE)
PROMPT = re.compile(r"\{\{prompt\}\}|<\|prompt\|>", re.IGNORECASE)
TEXTGEN_NAME = re.compile(r"<\|character\|>", re.IGNORECASE)


class Dialogue(BaseModel, frozen=True, extra="forbid"):
    """The instruction, and how both are called in the lines of the dialogue."""

    command: str = Field(COMMAND, max_length=COMMAND_LIMIT)
    char: str
    user: str

    def line_of(self, message: Message) -> str:
        """How the line of a message begins; what a narrator tells has its name already."""
        if message.role == "assistant":
            return f"{self.char}: "
        return "" if message.role != "user" or message.content.startswith(f"{NARRATOR}: ") else f"{self.user}: "


def one_instruction(messages: Sequence[Message], dialogue: Dialogue, *, continues: bool) -> tuple[Message, ...]:
    """A message with the whole conversation, and the begun reply to it: the name of who speaks next, with what was said already if that goes on.

    What the system says comes before the dialogue. Where the command does not say where the dialogue belongs, it comes behind it.
    """
    told, last = (messages[:-1], messages[-1]) if continues and messages else (messages, None)
    speaker = dialogue.user if last is not None and last.role == "user" else dialogue.char
    command = TEXTGEN_NAME.sub("{{char}}", dialogue.command)
    command = command if PROMPT.search(command) else f"{command.rstrip()}\n\n{{{{prompt}}}}"
    other = dialogue.char if speaker == dialogue.user else dialogue.user
    place = PROMPT.search(command)
    assert place is not None
    before, after = (NAME.sub(lambda name: speaker if name[1].lower() == "char" else other, part) for part in (command[: place.start()], command[place.end() :]))
    text, images = before, []
    for message in told:
        text += ("" if text == before else "\n") + dialogue.line_of(message)
        images += _moved(message.images, len(text) - (len(message.content) - len(message.content.lstrip())))
        text += message.content.strip() + ("\n" if message.role == "system" else "")
    begun = f"{speaker}: {last.content}" if last is not None and last.content.strip() else f"{speaker}:"
    return Message(role="user", content=text.rstrip() + after, images=tuple(images)), Message(role="assistant", content=begun)


def _moved(images: Sequence[Image], by: int) -> list[Image]:
    """Images whose text stands somewhere else."""
    return [image.model_copy(update={"at": max(0, image.at + by)}) for image in images]
