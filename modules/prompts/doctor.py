"""Does this chat template fit this model? Each finding is a sentence for the person, with the cure where there is one.

Knows how a fitting template behaves. It asks the template and the tokenizer and changes nothing.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from modules.core.errors import AppError, InvalidRequest
from modules.core.messages import Message
from modules.prompts.comparison import Finding, beside_own, trained_as_asked
from modules.prompts.ending import Ending, derive_ending

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from modules.core.model import TemplateSource, Tokenizer
    from modules.prompts.renderer import TemplateRenderer
    from modules.prompts.template import Rendered

INSTRUCTION = Message(role="system", content="PaddockInstruction")
QUESTION = Message(role="user", content="PaddockQuestion")
ANSWER = Message(role="assistant", content="PaddockAnswer")
CONTROL = re.compile(r"<[|｜][^<>|｜\s]{1,60}[|｜]>")  # as nobody writes in prose: <|im_start|>, <｜Assistant｜>
THOUGHT = re.compile(r"<(think|thinking|reasoning)>.*?(</\1>|$)", re.DOTALL)
SHOWN_TOKENS = 5
EXAMINATION_S = 6.0  # for all renderings together; a fitting template takes a hundredth of it


class _Unfinished(Exception):  # noqa: N818 - between the functions of this module
    """The time for an examination is over."""


def doubts(renderer: TemplateRenderer, source: TemplateSource, tokenizer: Tokenizer) -> tuple[str, ...] | None:
    """What speaks against a model's own template, as sentences with their cures; empty when it fits. Bounded in time; refuses nothing.

    Where time runs out nothing is known, which is None: on a busy machine that says nothing of the template.
    """
    found = findings(renderer, source, tokenizer)
    return None if found is None else tuple(one.sentence for one in found if one.level == "problem")


def findings(
    renderer: TemplateRenderer, source: TemplateSource, tokenizer: Tokenizer | None, own: TemplateSource | None = None
) -> tuple[Finding, ...] | None:
    """All that is found about a template, bounded in time as `doubts`.

    Args:
        renderer: what runs it.
        source: the template, with the model's special tokens.
        tokenizer: the model's; without one only what needs none is examined.
        own: the model's own template, to compare with.
    """
    end_s = time.monotonic() + EXAMINATION_S

    def bound(one: TemplateSource) -> Callable[..., Rendered]:
        def render(messages: Sequence[Message], *, add_generation_prompt: bool = True) -> Rendered:
            if time.monotonic() > end_s:
                raise _Unfinished
            return renderer.render(one, messages, add_generation_prompt=add_generation_prompt)

        return render

    render = bound(source)
    try:
        ending = derive_ending(render, eos_token=source.eos_token, extra_stop=source.stop)
        found = examine(render, tokenizer, ending, bos_token=source.bos_token)
        return (*found, *trained_as_asked(render), *(beside_own(render, bound(own)) if own is not None else ()))
    except _Unfinished:
        return None
    except AppError as error:
        return (Finding("problem", error.message),)


def examine(render: Callable[..., Rendered], tokenizer: Tokenizer | None, ending: Ending, *, bos_token: str = "") -> tuple[Finding, ...]:
    """Check a template against a model's tokenizer.

    Args:
        render: `Template.render`, or a renderer's with the source bound.
        tokenizer: the model's; None where no model is loaded.
        ending: what `derive_ending` found.
        bos_token: the text of the model's BOS, empty if it has none.
    """
    try:
        prompt = render([QUESTION]).text
    except InvalidRequest as error:
        return (Finding("problem", error.message),)
    return (
        *(_end_of_turn(tokenizer, ending) if tokenizer else _stops(ending)),
        *(_beginning(prompt, tokenizer, bos_token) if tokenizer else ()),
        *_message_kept(prompt),
        *(_control_tokens(prompt, tokenizer, ending) if tokenizer else ()),
        *_system_role(render, ending),
        *_alternation(render),
        *_generation_prompt(render, prompt),
    )


def _end_of_turn(tokenizer: Tokenizer, ending: Ending) -> Iterator[Finding]:
    """The text that ends a turn must be one token at which the model stops."""
    end = ending.end_of_turn
    if not end:
        yield from _stops(ending)
        return
    ids = tokenizer.encode(end, add_special=False, parse_special=True)
    if len(ids) != 1 or not tokenizer.is_special(ids[0]):
        yield Finding(
            "problem",
            f"The end of a turn “{end}” is not a special token of this model but ordinary text ({len(ids)} tokens): "
            "the template was made for another model. Choose a prompt template that fits.",
            "another",
        )
    elif ids[0] not in tokenizer.end_ids:
        yield Finding("note", f"“{end}” is no end token in the model's files; replies are stopped at it as a stop string.")
    else:
        yield Finding("ok", f"“{end}” ends a turn and is an end token of the model.")


def _stops(ending: Ending) -> Iterator[Finding]:
    """Where replies end by their text, or what the template writes there while no vocabulary is known."""
    if ending.end_of_turn:
        yield Finding("note", f"“{ending.end_of_turn}” ends a turn; whether it is a token is known when a model is loaded.")
    elif ending.stop:
        shown = ", ".join(f"“{stop.strip()}”" for stop in ending.stop)
        yield Finding("note", f"Turns end without a special token; replies are stopped at {shown}.")
    else:
        yield Finding("problem", "Nothing marks the end of a reply, so replies run to the length limit; set a stop string.", "stop")


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
        yield Finding("problem", "The template leaves out what the user writes; choose another one.", "another")


def _control_tokens(prompt: str, tokenizer: Tokenizer, ending: Ending) -> Iterator[Finding]:
    """What the template writes as control tokens must be some. A vocabulary without any was trained on them as text (Zephyr)."""
    written = dict.fromkeys(CONTROL.findall(prompt))
    unknown = [text for text in written if text != ending.end_of_turn and not _is_one_special(text, tokenizer)]
    if not unknown:
        return
    shown = ", ".join(f"“{text}”" for text in unknown[:SHOWN_TOKENS])
    has_others = any(tokenizer.is_special(token) and CONTROL.fullmatch(_piece(tokenizer, token)) for token in range(tokenizer.vocab_size))
    if has_others:
        yield Finding(
            "problem",
            f"The template writes {shown}, which this model does not know as special and would read as plain text: "
            "the template was made for another model. Choose a prompt template that fits.",
            "another",
        )
    else:
        yield Finding("note", f"The template writes {shown} as plain text; this model's vocabulary has no special tokens of that kind.")


def _is_one_special(text: str, tokenizer: Tokenizer) -> bool:
    ids = tokenizer.encode(text, add_special=False, parse_special=True)
    return len(ids) == 1 and _piece(tokenizer, ids[0]) == text  # <|assistant|> of some models is one token, though not a hidden one


def _piece(tokenizer: Tokenizer, token_id: int) -> str:
    return tokenizer.piece(token_id).decode("utf-8", "replace")


def _system_role(render: Callable[..., Rendered], ending: Ending) -> Iterator[Finding]:
    """A system text reaches the model, in a role of its own or in front of the question."""
    if ending.supports_system:
        return
    try:
        is_lost = INSTRUCTION.content not in render([INSTRUCTION, QUESTION]).text
    except InvalidRequest:
        is_lost = True
    if is_lost:
        yield Finding(
            "problem",
            "The template leaves out the system text, so instructions and characters do not reach the model. "
            "Choose a prompt template that has a system role, or write the instructions into the first message.",
            "another",
        )
    else:
        yield Finding("note", "The template has no system role: the system text is put in front of the first user message.")


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
    """The header of the assistant's turn has to come from somewhere, and be the one that replies follow."""
    asked = render([QUESTION], add_generation_prompt=False).text
    try:
        answered = render([QUESTION, ANSWER], add_generation_prompt=False).text
    except InvalidRequest:
        return
    if not answered.startswith(asked) or not prompt.startswith(asked):
        return  # it writes the question anew in each case: nothing to compare
    header, opened = _begun(answered.removeprefix(asked).partition(ANSWER.content)[0]), _begun(prompt.removeprefix(asked))
    if prompt == asked and header:
        yield Finding(
            "problem",
            "The template writes no beginning of an assistant turn after the question, so the model may go on writing the question. "
            "Choose a prompt template that fits.",
            "another",
        )
    elif not header.startswith(opened) and not opened.startswith(header):
        yield Finding(
            "problem",
            f"The template begins a reply with “{opened[:60]}”, but writes “{header[:60]}” before the replies of a conversation: "
            "the model is asked in another form than it was trained in. Choose a prompt template that fits.",
            "another",
        )


def _begun(header: str) -> str:
    """A header without thinking blocks, which some templates write only in one of the cases, and without space at its ends."""
    return THOUGHT.sub("", header).strip()
