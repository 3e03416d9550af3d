"""A chat template beside another one: the model's own, and what training writes. Findings are sentences, with what helps where something does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from modules.core.errors import InvalidRequest
from modules.prompts.samples import PLAIN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from modules.prompts.samples import Sample
    from modules.prompts.template import Rendered

Level = Literal["ok", "note", "problem"]
Fix = Literal["", "another", "stop"]
SHOWN_CHARS = 40  # of each side of a difference


@dataclass(frozen=True, slots=True)
class Finding:
    """One observation. "problem": replies will suffer; "note": good to know; "ok": checked and right."""

    level: Level
    sentence: str
    fix: Fix = ""  # what helps: another template, or a stop string


def beside_own(render: Callable[..., Rendered], render_own: Callable[..., Rendered]) -> Iterator[Finding]:
    """Whether a template writes the sample conversations as the model's own does, and where it first does not."""
    differing = [(sample, *pair) for sample in PLAIN if (pair := (_written(render, sample), _written(render_own, sample)))[0] != pair[1]]
    if not differing:
        yield Finding("ok", f"All {len(PLAIN)} sample conversations are written as by the model's own template.")
        return
    sample, here, there = differing[0]
    at = next((i for i, (one, other) in enumerate(zip(here, there, strict=False)) if one != other), min(len(here), len(there)))
    yield Finding(
        "note",
        f"{len(differing)} of {len(PLAIN)} sample conversations are written otherwise than by the model's own template. First difference, in "
        f"“{sample.name}”: here {_shown(here, at)}, there {_shown(there, at)}.",
    )


def trained_as_asked(render: Callable[..., Rendered]) -> Iterator[Finding]:
    """Whether training, which writes a conversation with its replies, has each reply behind the very text that a chat asks with."""
    sample = next(sample for sample in PLAIN if not sample.asks)
    replies = [message for message in sample.messages if message.role == "assistant"]
    try:
        rendered = render(sample.messages, add_generation_prompt=False)
    except InvalidRequest:
        try:
            rendered = render(sample.messages[1:], add_generation_prompt=False)
        except InvalidRequest as error:
            yield Finding("note", f"A conversation with replies cannot be written, so nothing can be trained with it: {error.message}")
            return
    if len(rendered.spans) == len(replies):
        yield Finding("ok", "Training writes every reply behind the same text that a chat asks with.")
    else:
        yield Finding(
            "note",
            f"In training, {len(replies) - len(rendered.spans)} of {len(replies)} replies stand behind another text than a chat asks with, "
            "so an adapter trained with this template learns another form.",
        )


def _written(render: Callable[..., Rendered], sample: Sample) -> str:
    """The prompt of a sample, or its refusal."""
    try:
        return render(sample.messages, add_generation_prompt=sample.asks).text
    except InvalidRequest:
        return "(refused)"


def _shown(text: str, at: int) -> str:
    part = text[at : at + SHOWN_CHARS].replace("\n", "↵")
    return f"“{part}{'…' if len(text) > at + SHOWN_CHARS else ''}”" if part else "nothing more"
