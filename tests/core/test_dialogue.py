"""A conversation told as one instruction."""

from __future__ import annotations

from modules.core.dialogue import COMMAND, Dialogue, one_instruction
from modules.core.messages import Image, Message

MESSAGES = (
    Message(role="system", content="You are Ada."),
    Message(role="assistant", content="Good day."),
    Message(role="user", content=" Look!", images=(Image(kind="png", data="eA==", at=1),)),
    Message(role="user", content="Narrator: It rains."),
    Message(role="assistant", content="I see"),
)
TALK = Dialogue(char="Ada", user="Bo")
LINES = "You are Ada.\n\nAda: Good day.\nBo: Look!\nNarrator: It rains."


def test_the_dialogue_stands_where_the_command_wants_it_and_the_reply_is_begun() -> None:
    asked, begun = one_instruction(MESSAGES[:-1], TALK, continues=False)
    assert (asked.role, begun.role) == ("user", "assistant")
    assert asked.content == COMMAND.replace("{{char}}", "Ada").replace("{{prompt}}", LINES)
    assert begun.content == "Ada:"
    assert asked.content[asked.images[0].at :].startswith("Look!"), "an image stays before its text"


def test_a_reply_goes_on_and_so_does_the_person() -> None:
    _, begun = one_instruction(MESSAGES, TALK, continues=True)
    assert begun.content == "Ada: I see"
    asked, begun = one_instruction((*MESSAGES, Message(role="user", content="Well")), TALK, continues=True)
    assert begun.content == "Bo: Well"
    assert "Write only what Bo says" in asked.content
    assert asked.content.endswith("Ada: I see")


def test_other_commands() -> None:
    def asked(command: str) -> str:
        return one_instruction(MESSAGES[:1], TALK.model_copy(update={"command": command}), continues=False)[0].content

    assert asked("{{user}} hears <|character|>:\n<|prompt|>\nGo on.") == "Bo hears Ada:\nYou are Ada.\nGo on."
    assert asked("Go on.") == "Go on.\n\nYou are Ada.", "without a place it comes behind"
    assert asked(r"\1 {{prompt}}") == "\\1 You are Ada."
