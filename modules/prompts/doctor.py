"""Does this chat template fit this model? Each finding is a sentence for the person, with the cure where there is one.

Knows how a fitting template behaves. It asks the template and the tokenizer and changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from modules.core.errors import InvalidRequest
from modules.core.messages import Message
from modules.prompts.ending import Ending

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from modules.core.model import Tokenizer
    from modules.prompts.template import Rendered

Level = Literal["ok", "note", "problem"]
QUESTION = Message(role="user", content="PaddockQuestion")
ANSWER = Message(role="assistant", content="PaddockAnswer")


@dataclass(frozen=True, slots=True)
class Finding:
    """One observation. "problem": replies will suffer; "note": good to know; "ok": checked and right."""

    level: Level
    sentence: str


def examine(render: Callable[..., Rendered], tokenizer: Tokenizer, ending: Ending, *, bos_token: str = "") -> tuple[Finding, ...]:
    """Check a template against a model's tokenizer.

    Args:
        render: `Template.render`, or a renderer's with the source bound.
        tokenizer: the model's.
        ending: what `derive_ending` found.
        bos_token: the text of the model's BOS, empty if it has none.
    """
    try:
        prompt = render([QUESTION]).text
    except InvalidRequest as error:
        return (Finding("problem", error.message),)
    return (
        *_end_of_turn(tokenizer, ending),
        *_beginning(prompt, tokenizer, bos_token),
        *_message_kept(prompt),
        *_system_role(ending),
        *_alternation(render),
        *_generation_prompt(render, prompt),
    )


def _end_of_turn(tokenizer: Tokenizer, ending: Ending) -> Iterator[Finding]:
    """The text that ends a turn must be one token at which the model stops."""
    end = ending.end_of_turn
    if not end:
        if ending.stop:
            shown = ", ".join(f"“{stop.strip()}”" for stop in ending.stop)
            yield Finding("note", f"Turns end without a special token; replies are stopped at {shown}.")
        else:
            yield Finding("problem", "Nothing marks the end of a reply, so replies run to the length limit; set a stop string.")
        return
    ids = tokenizer.encode(end, add_special=False, parse_special=True)
    if len(ids) != 1 or not tokenizer.is_special(ids[0]):
        yield Finding(
            "problem",
            f"The end of a turn “{end}” is not a special token of this model but ordinary text ({len(ids)} tokens): "
            "the template was made for another model. Choose a prompt template that fits.",
        )
    elif ids[0] not in tokenizer.end_ids:
        yield Finding("note", f"“{end}” is no end token in the model's files; replies are stopped at it as a stop string.")
    else:
        yield Finding("ok", f"“{end}” ends a turn and is an end token of the model.")


def _beginning(prompt: str, tokenizer: Tokenizer, bos_token: str) -> Iterator[Finding]:
    """BOS once where the model wants one."""
    if not bos_token:
        return
    if prompt.startswith(bos_token * 2):
        yield Finding("note", f"The template writes “{bos_token}” twice at the front; it is sent once.")
    elif tokenizer.adds_bos and not prompt.startswith(bos_token):
        yield Finding("note", f"This model expects “{bos_token}” at the front and the template does not write it; chats start without.")
    elif prompt.startswith(bos_token):
        yield Finding("ok", f"The template writes “{bos_token}” once at the front.")


def _message_kept(prompt: str) -> Iterator[Finding]:
    if QUESTION.content not in prompt:
        yield Finding("problem", "The template leaves out what the user writes; choose another one.")


def _system_role(ending: Ending) -> Iterator[Finding]:
    if not ending.supports_system:
        yield Finding(
            "note",
            "The template has no system role or leaves it out: where it refuses one, the system text is put in front of the first user message.",
        )


def _alternation(render: Callable[..., Rendered]) -> Iterator[Finding]:
    """Whether two user messages in a row, or an assistant's greeting first, are refused."""
    refused = []
    for what, messages in (("two user messages in a row", [QUESTION, QUESTION]), ("a greeting first", [ANSWER, QUESTION])):
        try:
            render(messages)
        except InvalidRequest:
            refused.append(what)
    if refused:
        yield Finding("note", f"User and assistant must take turns: the template refuses {' and '.join(refused)}.")


def _generation_prompt(render: Callable[..., Rendered], prompt: str) -> Iterator[Finding]:
    """The header of the assistant's turn has to come from somewhere."""
    if render([QUESTION], add_generation_prompt=False).text != prompt:
        return
    try:
        answered = render([QUESTION, ANSWER], add_generation_prompt=False).text
    except InvalidRequest:
        return
    header = answered.removeprefix(prompt).partition(ANSWER.content)[0]
    if not answered.startswith(prompt) or header.strip():
        yield Finding(
            "problem",
            "The template writes no beginning of an assistant turn after the question, so the model may go on writing the question.",
        )
