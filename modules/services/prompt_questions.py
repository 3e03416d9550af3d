"""What can be asked about prompts of a loaded model without writing anything: the text it would see, token by token, and what its template is.

Lives in the engine's process. Works on plain values, as they cross the wire; each question is one function and one row of `QUESTIONS`.
"""

from __future__ import annotations

import codecs
import hashlib
import secrets
import sys
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from modules.core.errors import AppError, InvalidRequest
from modules.core.generation import ChatPrompt
from modules.core.model import ImageToken, TemplateSource
from modules.core.params import GenerationParams
from modules.services.template_look import LookRequest

if TYPE_CHECKING:
    from modules.core.messages import Message
    from modules.core.model import Tokenizer
    from modules.prompts.ending import Ending

SEARCH_BYTES = 64  # how far behind its place a token is looked for where a tokenizer changes the text
LARGEST_NUMBER = (1 << 63) - 1
OF_THE_TEMPLATE = -1  # instead of the place of a message


class Part(NamedTuple):
    """A piece of a rendered conversation: text, or an image."""

    text: str  # empty for an image
    token_ids: list[int]
    image_of: int = OF_THE_TEMPLATE  # for an image: which of the messages left it belongs to


@dataclass(frozen=True, slots=True)
class Shown:
    """A chat prompt as a model would get it."""

    messages: tuple[Message, ...]  # those that are left
    places: tuple[int, ...]  # of these in the conversation as it was asked
    parts: list[Part]
    skeleton: str  # the same text with the marks instead of the messages' contents; empty if the template refuses them
    marks: tuple[str, ...]
    dropped: tuple[int, ...]  # places of those left out
    limit_tokens: int
    template: TemplateSource


class Prompts(Protocol):
    """What the questions need of the maker of prompts."""

    @property
    def tokenizer(self) -> Tokenizer:
        """Of the model."""
        ...

    def show(self, prompt: ChatPrompt, params: GenerationParams, marks: Callable[[int], str]) -> Shown:
        """The prompt, made to fit, and once more with marks in place of the contents."""
        ...

    def described(self, chosen: TemplateSource | None) -> tuple[TemplateSource, Ending]:
        """The template in force, and how replies end under it."""
        ...

    def tokenize(self, text: str) -> list[int]:
        """Token ids of plain text."""
        ...

    def look(self, request: LookRequest) -> dict[str, Any]:
        """How a template writes a conversation, and what the doctor finds about it."""
        ...

    def fitting(self, sources: Sequence[TemplateSource]) -> list[dict[str, Any]]:
        """For each prompt template how well it fits."""
        ...


def answer(prompts: Prompts, question: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to a question.

    Raises:
        InvalidRequest: there is no such question, or it lacks something.
        ContextOverflow: the prompt cannot be made to fit.
    """
    asked = QUESTIONS.get(question)
    if asked is None:
        raise InvalidRequest(f"“{question[:40]}” cannot be asked about prompts; ask {', '.join(QUESTIONS)}.", field="question")
    try:
        return asked(prompts, values)
    except KeyError as error:
        raise InvalidRequest(f"The question {question} needs the value {error}.", field="values") from error


# ---- render --------------------------------------------------------------------------------------------------------


def _render(prompts: Prompts, values: Mapping[str, Any]) -> dict[str, Any]:
    """Text and tokens of a chat prompt, each token with the place of its message (-1: the template's own words)."""
    prompt = ChatPrompt.model_validate(values["prompt"])
    secret = secrets.randbelow(10**18)
    shown = prompts.show(prompt, GenerationParams.model_validate(values.get("params") or {}), lambda place: f"[{secret:018}-{place}]")  # nothing that a change of case would touch
    ids = [token_id for part in shown.parts for token_id in part.token_ids]
    return {
        "text": "".join(part.text for part in shown.parts),
        "tokens": [[token_id, piece, owner] for token_id, piece, owner in _tokens(prompts.tokenizer, shown)],
        "dropped": list(shown.dropped),
        "limit": shown.limit_tokens,
        "hash": prompt_hash(ids),
        "template": {"origin": shown.template.origin, "hash": text_hash(shown.template.text)},
    }


def _tokens(tokenizer: Tokenizer, shown: Shown) -> Iterator[tuple[int, str | None, int]]:
    """Each token, what it adds to the text (nothing: a place of an image), and the place of the message it belongs to."""
    owners = _owners("".join(part.text for part in shown.parts), shown)
    begin = 0
    for part in shown.parts:
        if not part.text:
            yield from ((int(token_id), None, shown.places[part.image_of]) for token_id in part.token_ids)
            continue
        raw = part.text.encode("utf-8", "replace")
        characters = codecs.getincrementaldecoder("utf-8")("replace")  # a character of several tokens is added by the last of them
        for token_id, end in _ends(tokenizer, part.token_ids, raw):
            yield token_id, characters.decode(tokenizer.piece(token_id)), owners[begin + max(0, end - 1)]
        begin += len(raw)


def _ends(tokenizer: Tokenizer, ids: Sequence[int], raw: bytes) -> Iterator[tuple[int, int]]:
    """Where each token ends among the bytes of a text. A piece that is not found as it is written (a space put in front) takes no room."""
    at = 0
    for token_id in ids:
        piece = tokenizer.piece(token_id)
        for spelling in (piece, piece.lstrip(b" ")):
            found = raw.find(spelling, at, at + SEARCH_BYTES + len(spelling)) if spelling else -1
            if found >= 0:
                at = found + len(spelling)
                break
        yield token_id, at


def _owners(text: str, shown: Shown) -> array[int]:
    """For each byte of the text the message it comes from."""
    owners = array("i", [OF_THE_TEMPLATE]) * len(text.encode("utf-8", "replace"))
    for place, (begin, end) in zip(shown.places, _spans(text, shown), strict=True):
        first = len(text[:begin].encode("utf-8", "replace"))
        size = len(text[begin:end].encode("utf-8", "replace"))
        owners[first : first + size] = array("i", [place]) * size
    return owners


def _spans(text: str, shown: Shown) -> Iterator[tuple[int, int]]:
    """Where the content of each message stands: between the words that the template writes around it."""
    gaps = _gaps(shown)
    at = 0
    for place, message in enumerate(shown.messages):
        before, after = gaps[place : place + 2] if gaps else ("", "")
        opened = text.find(before, at)
        begin = opened + len(before) if opened >= 0 else at
        content = _visible(message)
        found = text.find(content, begin, begin + len(content) + SEARCH_BYTES if gaps else None) if content else -1
        if found >= 0:
            at = found + len(content)
        elif gaps and after:  # the template changed it: all up to its own next words
            found, at = begin, max(begin, text.find(after, begin))
        else:
            found = at = begin
        yield found, at


def _gaps(shown: Shown) -> list[str]:
    """What the template writes before the first message, between each two, and after the last; nothing where it does not say."""
    gaps, rest = [], shown.skeleton
    for mark in shown.marks:
        gap, found, rest = rest.partition(mark)
        if not found:
            return []
        gaps.append(gap)
    return [*gaps, rest]


def _visible(message: Message) -> str:
    """The content as templates write it, in the longest piece that has no image in it."""
    pieces = [part for part in message.parts() if isinstance(part, str)]
    return max((piece.strip() for piece in pieces), key=len, default="")


# ---- pieces and template -------------------------------------------------------------------------------------------


def _pieces(prompts: Prompts, values: Mapping[str, Any]) -> dict[str, Any]:
    """Token ids of a text, each with its own text and, where that is only a part of a character, its bytes in hexadecimal."""
    tokenizer = prompts.tokenizer
    ids = [int(token_id) for token_id in values["token_ids"]] if "token_ids" in values else prompts.tokenize(str(values["text"]))
    wrong = next((token_id for token_id in ids if not 0 <= token_id < tokenizer.vocab_size), None)
    if wrong is not None:
        raise InvalidRequest(f"Token id {wrong} is not in the vocabulary, which has the ids 0 to {tokenizer.vocab_size - 1}.", field="token_ids")
    return {"tokens": [[token_id, *_written(tokenizer.piece(token_id))] for token_id in ids]}


def _written(raw: bytes) -> tuple[str, str]:
    try:
        return raw.decode("utf-8"), ""
    except UnicodeDecodeError:
        return raw.decode("utf-8", "replace"), raw.hex()


def _template(prompts: Prompts, values: Mapping[str, Any]) -> dict[str, Any]:
    """The template in force: its text, where it is from, and what follows from it for a reply."""
    chosen = values.get("template")
    source, ending = prompts.described(TemplateSource.model_validate(chosen) if chosen is not None else None)
    return {
        "origin": source.origin,
        "hash": text_hash(source.text),
        "text": source.text,
        "stop": list(ending.stop),
        "variables": list(ending.variables),
        "starts_thinking": ending.starts_thinking,
        "supports_system": ending.supports_system,
    }


def _look(prompts: Prompts, values: Mapping[str, Any]) -> dict[str, Any]:
    """A template under the doctor's eyes: for the editor of templates."""
    return prompts.look(LookRequest.model_validate(values))


def _fitting(prompts: Prompts, values: Mapping[str, Any]) -> dict[str, Any]:
    """Which of the templates given fit the model."""
    return {"templates": prompts.fitting([TemplateSource.model_validate(value) for value in values["templates"]])}


QUESTIONS: Mapping[str, Callable[[Prompts, Mapping[str, Any]], dict[str, Any]]] = MappingProxyType(
    {"render": _render, "pieces": _pieces, "template": _template, "look": _look, "fitting": _fitting}
)


# ---- small ---------------------------------------------------------------------------------------------------------


def told_ids(token_ids: Sequence[int]) -> tuple[int, ...]:
    """The ids of a prompt, for whoever sends them again.

    Raises:
        InvalidRequest: some are positions of images.
    """
    if any(isinstance(token_id, ImageToken) for token_id in token_ids):
        raise InvalidRequest("An image in a prompt has no token ids that could be sent again; leave return_token_ids out.", field="return_token_ids")
    return tuple(int(token_id) for token_id in token_ids)


def prompt_hash(token_ids: Sequence[int]) -> str:
    """SHA-256 of token ids, each as a whole number of 64 bits, least byte first."""
    numbers = array("q", [int(token_id) & LARGEST_NUMBER for token_id in token_ids])  # one too large is refused later, in words
    if sys.byteorder == "big":
        numbers.byteswap()
    return hashlib.sha256(numbers.tobytes()).hexdigest()


def text_hash(text: str) -> str:
    """SHA-256 of a text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def left_out(whole: Sequence[Message], kept: Sequence[Message]) -> tuple[int, ...]:
    """Places of the messages that a shortened conversation lacks."""
    left = {id(message) for message in kept}
    return tuple(place for place, message in enumerate(whole) if id(message) not in left)


def places_of(whole: Sequence[Message], kept: Sequence[Message]) -> tuple[int, ...]:
    """For each message of a shortened conversation its place in the whole one; -1 for one that is not in it."""
    places = {id(message): place for place, message in enumerate(whole)}
    return tuple(places.get(id(message), OF_THE_TEMPLATE) for message in kept)


def skeleton_of(render: Callable[[tuple[Message, ...]], str], messages: Sequence[Message], marks: Sequence[str]) -> str:
    """The rendered conversation with marks instead of contents; empty where the template does not take that."""
    marked = tuple(message.model_copy(update={"content": mark, "images": ()}) for message, mark in zip(messages, marks, strict=True))
    try:
        return render(marked)
    except AppError:
        return ""
