"""Where in a rendered conversation the replies stand: from the first character the model has to write to the end of its end-of-turn mark.

What is learned of a reply is its content and the mark that ends it: not the header, not what a template puts between header and content
(an empty thinking block, a channel), not the line break behind the mark. Space that stands between the prompt for a reply and its
content is learned, for the model has to write it.

A conversation is one text with several replies wherever the template writes every beginning of it as it will be asked at inference.
Where it does not (Qwen3 takes thinking out of earlier turns), or writes no mark at all, each reply gets a text of its own: what the
model would be shown for it, and the reply. Thinking of earlier turns is left out, as the chat leaves it out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from modules.core.errors import InvalidRequest
from modules.core.messages import THINKING_TAGS, Message, split_thinking, without_thinking
from modules.core.model import TemplateSource
from modules.prompts.bos import single_bos
from modules.prompts.ending import MARKER, derive_ending
from modules.prompts.template import Template, open_thinking_tag

MARK = "PaddockReplyStandsHere"
NEXT_MARK = re.compile(rf"\s*(?:{MARKER.pattern})")
EMPTY_THOUGHTS = tuple(re.compile(rf"\s*(?:{re.escape(opening)}\s*)?{re.escape(closing)}\s*") for opening, closing in THINKING_TAGS)

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Closing:
    """How a reply ends under a template.

    “written”: the template writes `text` behind a reply. “next”: the mark that opens the next turn ends this one (GLM-4).
    “added”: the template writes nothing of the kind; `text` is put behind the reply.
    """

    kind: Literal["written", "next", "added"]
    text: str


@dataclass(frozen=True, slots=True)
class Written:
    """A text to be learned in parts: `spans` are the character ranges of what is learned."""

    text: str
    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class _Turn:
    text: str  # the conversation up to and with the reply
    start: int
    end: int
    is_history: bool = True  # the template itself writes it so


def find_closing(template: Template, eos_token: str) -> Closing:
    """How replies end under a template.

    Raises:
        InvalidRequest: the template takes no conversation.
    """
    source = template.source
    ending = derive_ending(template.render, eos_token=eos_token or source.eos_token, extra_stop=source.stop)
    if ending.end_of_turn:
        return Closing("written", ending.end_of_turn)
    marks = [stop for stop in ending.stop if MARKER.fullmatch(stop) and stop != source.bos_token]
    if marks:
        return Closing("next", marks[0])
    return Closing("added", eos_token or source.eos_token or (ending.stop[0] if ending.stop else ""))


class TurnWriter:
    """Conversations as texts with the ranges of their replies, under one template."""

    def __init__(self, source: TemplateSource, eos_token: str) -> None:
        self.source = source
        self.template = Template(source)
        self.closing = find_closing(self.template, eos_token)
        mark = rf"(\s*{re.escape(self.closing.text)}(?:{MARKER.pattern})*)(?:\s|{MARKER.pattern})*" if self.closing.kind == "written" else r"()\s*"
        self._ending = re.compile(mark)
        self._last_ending = re.compile(mark + r"\Z")

    def replies(self, messages: Sequence[Message], learned: Sequence[int], tools: Sequence[Mapping[str, Any]] = ()) -> tuple[Written, ...]:
        """Texts in which the replies at the places `learned` are marked.

        Raises:
            InvalidRequest: the template refuses the conversation, or writes a reply in a form that cannot be found again.
        """
        turns = [self._turn(messages, place, tools) for place in learned]
        last = turns[-1]
        if self.closing.kind != "added" and all(turn.is_history and last.text.startswith(turn.text[: turn.end]) for turn in turns):
            spans = [(turn.start, self._end(last.text, turn)) for turn in turns]
            return (self._written(last, spans),)
        return tuple(self._written(turn, [(turn.start, turn.end)]) for turn in turns)

    def everything(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> Written:
        """The whole conversation, all of it to be learned."""
        text = self._complete(messages, tools)
        if messages[-1].role == "assistant" and self.closing.kind != "written" and not text.rstrip().endswith(self.closing.text):
            text = text.rstrip() + self.closing.text
        text = single_bos(text, self.source.bos_token)
        return Written(text, ((0, len(text)),))

    def _written(self, last: _Turn, spans: Sequence[Span]) -> Written:
        """The text up to the end of its last reply; a BOS that stands twice at the front is one."""
        text = last.text[: last.end]
        if self.closing.kind != "written":
            text += self.closing.text
            spans = [*spans[:-1], (spans[-1][0], len(text))]
        single = single_bos(text, self.source.bos_token)
        gone = len(text) - len(single)
        return Written(single, tuple((begin - gone, end - gone) for begin, end in spans))

    def _end(self, text: str, turn: _Turn) -> int:
        """The end of a reply in the middle of a conversation: where the next turn's mark ends it, behind that."""
        if self.closing.kind == "next" and (found := NEXT_MARK.match(text, turn.end)):
            return found.end()
        return turn.end

    def _turn(self, messages: Sequence[Message], place: int, tools: Sequence[Mapping[str, Any]]) -> _Turn:
        reply = messages[place]
        history = _without_old_thinking(messages[:place])
        complete = self._complete([*history, reply], tools)
        prompt = self._prompt(history, tools)
        begin = _beginning(prompt, complete)
        if reply.tool_calls:
            return self._call(complete, begin, reply, place)
        core = reply.content.strip()
        if begin is not None:
            body = complete[begin:].lstrip()
            end = self._end_of(body[len(core) :]) if body.startswith(core) else None
            if end is not None:
                return _Turn(complete, begin, len(complete) - len(body) + len(core) + end)
        try:
            return self._by_mark(complete, prompt, begin, [*history, reply], tools)
        except InvalidRequest:
            if not split_thinking(reply.content).thinking.strip():
                raise
        return self._thinking(complete, prompt, begin, [*history, reply], tools)

    def _end_of(self, tail: str) -> int | None:
        """How much of what stands behind a reply belongs to it: its end-of-turn mark, and marks that stick to that; None if other text stands there."""
        found = self._ending.fullmatch(tail)
        return found.end(1) if found else None

    @property
    def _mark(self) -> str:
        return self.closing.text if self.closing.kind == "written" else ""

    def _complete(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> str:
        """The conversation as the template remembers it."""
        return self.template.render(messages, tools=tools, add_generation_prompt=False, find_spans=False).text

    def _prompt(self, history: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> str | None:
        """What the model is shown for the reply; nothing is known of a greeting that comes first."""
        try:
            return self.template.render(history, tools=tools).text if history else None
        except InvalidRequest:
            return None

    def _call(self, complete: str, begin: int | None, reply: Message, place: int) -> _Turn:
        """A reply that calls tools: everything behind the header, since its form is the template's own."""
        body = complete[begin:] if begin is not None else ""
        if begin is None or any(_called(call) not in body for call in reply.tool_calls or ()):
            raise InvalidRequest(
                f"The chat template ({self.source.origin}) does not write the tool calls of message {place + 1}, so they cannot be learned. "
                "Choose a prompt template that knows tools.",
                field="template",
            )
        found = self._last_ending.search(complete, begin)
        return _Turn(complete, _behind_empty_thought(complete, begin, reply.content), found.end(1) if found and found[1] else len(complete.rstrip()))

    def _thinking(
        self, complete: str, prompt: str | None, begin: int | None, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]
    ) -> _Turn:
        """A reply that begins with thinking: all behind the header. Where the template takes thinking out, it is put back as it was written."""
        thought = split_thinking(messages[-1].content)
        answer, thinking = thought.answer.strip(), thought.thinking.strip()
        if begin is not None:
            at = complete.rfind(answer, begin)
            end = self._end_of(complete[at + len(answer) :]) if at >= 0 else None
            if end is not None and thinking in complete[begin:at]:
                return _Turn(complete, begin, at + len(answer) + end)
        text = self.template.render(messages, tools=tools, continue_final_message=True).text.rstrip() + self._mark
        if prompt is None or not text.startswith(prompt) or thinking not in text[len(prompt) :]:
            raise InvalidRequest(
                f"The chat template ({self.source.origin}) takes the thinking out of message {len(messages)}, so it cannot be learned. "
                "Take it out of the data, or choose a prompt template that keeps it.",
                field="template",
            )
        return _Turn(text, len(prompt), len(text), is_history=False)

    def _by_mark(
        self, complete: str, prompt: str | None, begin: int | None, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]
    ) -> _Turn:
        """A reply found by rendering the same conversation with a mark in its place."""
        *history, reply = messages
        marked = self._complete([*history, reply.model_copy(update={"content": MARK})], tools)
        header, found, tail = marked.rpartition(MARK)
        content = complete[len(header) : len(complete) - len(tail)]
        if not found or not complete.startswith(header) or not complete.endswith(tail) or content.strip() != reply.content.strip():
            raise self._unknown(len(messages))
        end = self._end_of(tail)
        behind = end if end is not None else len(tail.rstrip())
        if begin is None and prompt is not None and not open_thinking_tag(prompt):  # asked in another form than it is remembered in
            text = prompt + content + tail
            return _Turn(text, len(prompt), len(prompt) + len(content) + behind, is_history=False)
        start = begin if begin is not None and not header[begin:].strip() else len(header)
        return _Turn(complete, start, len(header) + len(content) + behind)

    def _unknown(self, number: int) -> InvalidRequest:
        return InvalidRequest(
            f"The chat template ({self.source.origin}) changes the text of message {number}, so what is to be learned cannot be told from the rest. "
            "Choose a prompt template that fits the model.",
            field="template",
        )


def _beginning(prompt: str | None, complete: str) -> int | None:
    """Where the reply begins in a conversation that the template writes on from the prompt for it."""
    if prompt is None:
        return None
    if complete.startswith(prompt):
        return len(prompt)
    if tag := open_thinking_tag(prompt):  # the prompt opens thinking, and history has none
        bare = prompt.rstrip().removesuffix(tag)
        if complete.startswith(bare):
            return len(bare)
    return None


def _without_old_thinking(history: Sequence[Message]) -> list[Message]:
    """Earlier turns as the chat sends them: without what was thought before the last question."""
    asked = max((place for place, message in enumerate(history) if message.role == "user"), default=-1)
    return [
        message.model_copy(update={"content": without_thinking(message.content)}) if message.role == "assistant" and place < asked else message
        for place, message in enumerate(history)
    ]


def _behind_empty_thought(text: str, begin: int, content: str) -> int:
    """Where a reply begins if the template put an empty thinking block before it, or closes one that the prompt for it opened."""
    for pattern in EMPTY_THOUGHTS:
        if (found := pattern.match(text, begin)) and found[0].strip() not in content:
            return found.end()
    return begin


def _called(call: Mapping[str, Any]) -> str:
    """The name of the tool that is called."""
    holder = call.get("function")
    return str((holder if isinstance(holder, dict) else call).get("name") or "")
