"""Shapes of replies in channels (gpt-oss): the shape is that of the final channel, and before it the model may think in another one.

Where a prompt ends with the name of who writes, nothing of a shape can come before the header of a channel. In the notation that llguidance reads.
Source: OpenAI's harmony response format.
"""

from __future__ import annotations

from collections.abc import Mapping

from modules.engine.detokenizer import CHANNEL, END, MESSAGE, START

WRITER = "assistant"
MARKS = (CHANNEL, START, MESSAGE, END)
THINKING = "THINKING: /(?s:.+)/\n"


def opened_by(prompt_end: bytes) -> str:
    """What a prompt has opened with its last words: `reply`, in which a channel has to begin, or `thinking`; nothing where it is none in channels."""
    ends = {"reply": f"{START}{WRITER}", "thinking": f"{START}{WRITER}{CHANNEL}analysis{MESSAGE}"}
    return next((name for name, end in ends.items() if prompt_end.endswith(end.encode())), "")


def before_answer(opened: str, special: Mapping[str, int]) -> tuple[str, str]:
    """What comes before the answer, as a part of a rule, and the terminals that it needs; `special` has the ids of all `MARKS`."""
    channel, start, message, end = (f"<[{special[mark]}]>" for mark in MARKS)
    thought = f'THINKING? {end} {start} "{WRITER}"'
    before = thought if opened == "thinking" else f'({channel} "analysis" {message} {thought})?'
    return f'{before} {channel} "final" {message}', THINKING
