"""How a reply ends under a template: stop strings, the opened thinking block, and which roles and options there are.

Learns it by rendering conversations of made-up texts and looking at what stands between them. Knows no template text and no vocabulary.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from modules.core.errors import InvalidRequest
from modules.core.messages import Message
from modules.prompts.template import Rendered, open_thinking_tag

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SYSTEM, FIRST, REPLY, SECOND, LAST = "PaddockSystem", "PaddockFirst", "PaddockReply", "PaddockSecond", "PaddockLast"
SENTINEL = "Paddock"

# How special tokens are written: <|im_end|>, </s>, <end_of_turn>, <｜end▁of▁sentence｜>, <turn|>, [INST], [/INST]
MARKER = re.compile(r"<[^<>\s]{1,60}>|\[/?[A-Z_]{2,30}\]")
LONGEST_STOP = 64


@dataclass(frozen=True, slots=True)
class Ending:
    """What follows from a template for writing a reply."""

    stop: tuple[str, ...]
    end_of_turn: str = ""  # what the template writes after a reply, where that looks like a special token
    starts_thinking: str = ""  # the opening tag at the end of the prompt, with default options
    supports_system: bool = True  # a system text gets into the prompt by its own role
    variables: tuple[str, ...] = ()  # options the template reads: enable_thinking …


def derive_ending(
    render: Callable[..., Rendered], *, eos_token: str = "", extra_stop: Sequence[str] = (), variables: Sequence[str] = ()
) -> Ending:
    """Find how a reply ends.

    Args:
        render: `Template.render`, or a renderer's with the source bound.
        eos_token: the model's, so that one that looks like ordinary text is known too.
        extra_stop: stop strings that come with the template.
        variables: options of the template, handed through.

    Raises:
        InvalidRequest: the template does not even take a single user message.
    """
    prompt = render([_said("user", FIRST)]).text
    after_reply, before_next = _surroundings(render)
    end = _marker(after_reply, eos_token)
    stops = [end or _marker(before_next, eos_token), _next_speaker(before_next, end), *extra_stop]
    return Ending(
        stop=tuple(dict.fromkeys(stop for stop in stops if stop.strip() and SENTINEL not in stop)),
        end_of_turn=end,
        starts_thinking=open_thinking_tag(prompt),
        supports_system=_takes_system(render),
        variables=tuple(variables),
    )


def _said(role: str, text: str) -> Message:
    return Message.model_validate({"role": role, "content": text})


def _surroundings(render: Callable[..., Rendered]) -> tuple[str, str]:
    """What is written after the last reply, and what between a reply and the next user text; empty where not to be found."""
    turns = [_said("user", FIRST), _said("assistant", REPLY), _said("user", SECOND), _said("assistant", LAST)]
    try:
        text = render(turns, add_generation_prompt=False).text
        after_reply = text.rpartition(LAST)[2] if LAST in text else ""
        before_next = text.partition(REPLY)[2].partition(SECOND)[0] if REPLY in text and SECOND in text else ""
    except InvalidRequest:  # a template for one question and one answer
        try:
            text = render([_said("user", FIRST), _said("assistant", LAST)], add_generation_prompt=False).text
        except InvalidRequest:
            return "", ""
        return (text.rpartition(LAST)[2] if LAST in text else ""), ""
    return after_reply, before_next


def _marker(text: str, eos_token: str) -> str:
    """The special token at the front of a text, or empty."""
    body = text.lstrip()
    if eos_token and body.startswith(eos_token):
        return eos_token
    found = MARKER.match(body)
    return found[0] if found else ""


def _next_speaker(gap: str, end: str) -> str:
    """The written header of the next user turn (a line break and “User:”), where it is ordinary text and not a special token."""
    rest = gap.lstrip().removeprefix(end) if end and gap.lstrip().startswith(end) else gap
    header = rest.strip().split("\n")[0].rstrip()
    if not header or len(header) > LONGEST_STOP or MARKER.search(header) or not re.search(r"[^\w\s]", header):
        return ""  # a bare word such as "user" would end replies that merely use it
    return "\n" + header if "\n" in rest.partition(header)[0] else header


def _takes_system(render: Callable[..., Rendered]) -> bool:
    try:
        rendered = render([_said("system", SYSTEM), _said("user", FIRST)])
    except InvalidRequest:
        return False
    return SYSTEM in rendered.text and not rendered.notes
