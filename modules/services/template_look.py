"""How a chat template writes a conversation, token by token, and what the doctor finds about it. For the page's editor of templates.

Works in the engine's process with the model's tokenizer, and in the server's without one: there it shows the text alone. Everything goes
in and out as plain values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel, Field

from modules.core.errors import AppError
from modules.core.messages import Message
from modules.core.model import TemplateSource, Tokenizer
from modules.prompts.bos import single_bos
from modules.prompts.doctor import findings
from modules.prompts.renderer import TemplateRenderer
from modules.prompts.samples import PLAIN

SHOWN_CHARS = 40_000  # of a rendered conversation; more is cut off and said


class LookRequest(BaseModel, frozen=True, extra="forbid"):
    """A template and a conversation to look at it with."""

    template: TemplateSource | None = None  # None: the model's own
    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()
    asks: bool = True  # a reply comes next
    variables: dict[str, Any] = Field(default_factory=dict)


def look(
    renderer: TemplateRenderer, request: LookRequest, source: TemplateSource, tokenizer: Tokenizer | None, own: TemplateSource | None
) -> dict[str, Any]:
    """What the page shows: text, tokens, findings, or the error with its line.

    Args:
        renderer: what runs the template.
        request: what to look at.
        source: its template, with the model's special tokens.
        tokenizer: the model's; None where no model is loaded here.
        own: the model's own template, to compare with.
    """
    shown: dict[str, Any] = {"error": None, "text": "", "cut": False, "tokens": None, "count": None, "notes": [], "findings": [], "variables": []}
    try:
        shown["variables"] = list(renderer.options(source))
    except AppError as error:
        return {**shown, "error": _told(error)}
    try:
        rendered = renderer.render(source, request.messages, tools=request.tools, add_generation_prompt=request.asks, variables=request.variables)
    except AppError as error:
        shown["error"] = _told(error)
        if error.details.get("field") == "template":  # it fails or never ends: the doctor would only wait for that again
            return shown
    else:
        text = single_bos(rendered.text, source.bos_token)
        shown |= {"text": text[:SHOWN_CHARS], "cut": len(text) > SHOWN_CHARS, "notes": list(rendered.notes)}
        if tokenizer is not None:
            ids = tokenizer.encode(shown["text"], add_special=False, parse_special=True)
            shown |= {"tokens": list(_groups(tokenizer, ids)), "count": len(ids)}
    found = findings(renderer, source, tokenizer, own if own is not None and own.text != source.text else None)
    shown["findings"] = None if found is None else [{"level": one.level, "sentence": one.sentence, "fix": one.fix} for one in found]
    return shown


def _told(error: AppError) -> dict[str, Any]:
    return {"message": error.message, "line": error.details.get("line")}


def _groups(tokenizer: Tokenizer, ids: Sequence[int]) -> Iterator[tuple[str, list[int], bool]]:
    """Text, ids and whether it is a special token; tokens that only together make up a character are told together."""
    held: list[int] = []
    raw = b""
    for token_id in ids:
        if tokenizer.is_special(token_id) and not held:
            yield tokenizer.piece(token_id).decode("utf-8", "replace"), [token_id], True
            continue
        held, raw = [*held, token_id], raw + tokenizer.piece(token_id)
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            if len(held) < 8:  # no character has more bytes than that
                continue
            text = raw.decode("utf-8", "replace")
        yield text, held, False
        held, raw = [], b""
    if held:
        yield raw.decode("utf-8", "replace"), held, False


def fitting(renderer: TemplateRenderer, sources: Sequence[TemplateSource], tokenizer: Tokenizer, own: TemplateSource | None) -> list[dict[str, Any]]:
    """Which templates, given with the model's special tokens, fit it: how many problems the doctor sees, and whether each writes what its own does."""
    reference = _written(renderer, own) if own is not None else None
    found = []
    for source in sources:
        told = findings(renderer, source, tokenizer)
        same = reference is not None and _written(renderer, source) == reference
        found.append({"problems": None if told is None else sum(one.level == "problem" for one in told), "same": same})
    return found


def _written(renderer: TemplateRenderer, source: TemplateSource) -> list[str]:
    """The sample conversations under a template, or its refusals."""
    texts = []
    for sample in PLAIN:
        try:
            texts.append(renderer.render(source, sample.messages, add_generation_prompt=sample.asks).text)
        except AppError:
            texts.append("(refused)")
    return texts
