"""An answer of POST /v1/responses as it grows: the events of its items, and at every moment the whole of it.

Knows the shapes and no route. Source: the public OpenAI API reference (responses, streaming events).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from modules.api.chat_choices import told_logprobs
from modules.api.chat_parts import CallPiece, ChatPart
from modules.api.errors import status_of
from modules.api.sse import frame
from modules.core.errors import AppError
from modules.core.generation import Usage

Event = dict[str, Any]
FAILURES: Mapping[int, str] = MappingProxyType({400: "invalid_prompt", 429: "rate_limit_exceeded"})


def usage_of(usage: Usage, reasoning_tokens: int) -> dict[str, Any]:
    """What an answer cost."""
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.reused_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


class _Names(NamedTuple):
    """How the events about the text of an item are called, and the field that counts its parts."""

    added: str
    delta: str
    done: str
    closed: str
    place: str


MESSAGE = _Names("response.content_part.added", "response.output_text.delta", "response.output_text.done", "response.content_part.done", "content_index")
THOUGHT = _Names("response.content_part.added", "response.reasoning_text.delta", "response.reasoning_text.done", "response.content_part.done", "content_index")
SUMMARY = _Names(
    "response.reasoning_summary_part.added", "response.reasoning_summary_text.delta", "response.reasoning_summary_text.done",
    "response.reasoning_summary_part.done", "summary_index",
)  # fmt: skip


class _Text:
    """An item that consists of one text: a message, or what was thought."""

    def __init__(self, index: int, names: _Names) -> None:
        self.index, self._names = index, names
        self.key: int | _Names = names
        self._kind = "message" if names is MESSAGE else "reasoning"
        self._id = f"{'msg' if names is MESSAGE else 'rs'}_{secrets.token_hex(12)}"
        self._text: list[str] = []
        self._logprobs: list[Event] = []

    def begin(self) -> Iterator[Event]:
        yield {"type": "response.output_item.added", "output_index": self.index, "item": self._item("in_progress", [])}
        yield {"type": self._names.added, **self._where(), "part": self._part("", [])}

    def add(self, text: str, logprobs: list[Event]) -> Iterator[Event]:
        self._text.append(text)
        self._logprobs += logprobs
        yield {"type": self._names.delta, **self._where(), "delta": text, **self._told(logprobs)}

    def end(self, status: str, finished: list[Event]) -> Iterator[Event]:
        text = "".join(self._text)
        item = self._item(status, [self._part(text, self._logprobs)])
        finished.append(item)
        yield {"type": self._names.done, **self._where(), "text": text, **self._told(self._logprobs)}
        yield {"type": self._names.closed, **self._where(), "part": self._part(text, self._logprobs)}
        yield {"type": "response.output_item.done", "output_index": self.index, "item": item}

    def _where(self) -> Event:
        return {"item_id": self._id, "output_index": self.index, self._names.place: 0}

    def _told(self, logprobs: list[Event]) -> Event:
        return {"logprobs": logprobs} if self._names is MESSAGE else {}

    def _part(self, text: str, logprobs: list[Event]) -> Event:
        if self._names is MESSAGE:
            return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}
        return {"type": "summary_text" if self._names is SUMMARY else "reasoning_text", "text": text}

    def _item(self, status: str, parts: list[Event]) -> Event:
        item: Event = {"id": self._id, "type": self._kind, "status": status}
        if self._names is MESSAGE:
            return {**item, "role": "assistant", "content": parts}
        return {**item, "summary": parts} if self._names is SUMMARY else {**item, "summary": [], "content": parts}


class _Call:
    """An item that calls a function."""

    def __init__(self, index: int, piece: CallPiece) -> None:
        self.index = index
        self.key: int | _Names = piece.index
        self._id = f"fc_{secrets.token_hex(12)}"
        self._call_id, self._name = piece.id, piece.name
        self._arguments: list[str] = []

    def begin(self) -> Iterator[Event]:
        yield {"type": "response.output_item.added", "output_index": self.index, "item": self._item("in_progress", "")}

    def add(self, arguments: str) -> Iterator[Event]:
        self._arguments.append(arguments)
        yield {"type": "response.function_call_arguments.delta", "item_id": self._id, "output_index": self.index, "delta": arguments}

    def end(self, status: str, finished: list[Event]) -> Iterator[Event]:
        item = self._item(status, "".join(self._arguments))
        finished.append(item)
        done = {"item_id": self._id, "output_index": self.index, "name": self._name, "arguments": item["arguments"]}
        yield {"type": "response.function_call_arguments.done", **done}
        yield {"type": "response.output_item.done", "output_index": self.index, "item": item}

    def _item(self, status: str, arguments: str) -> Event:
        return {"id": self._id, "type": "function_call", "status": status, "call_id": self._call_id, "name": self._name, "arguments": arguments}


class Answer:
    """One answer: takes parts, gives events, and is whole after the last part. `head` is what the request says of it."""

    def __init__(self, head: Mapping[str, Any], *, summarised: bool, logprobs: bool) -> None:
        self._head = {"id": f"resp_{secrets.token_hex(12)}", "object": "response", "created_at": int(time.time()), **head}
        self._thought = SUMMARY if summarised else THOUGHT
        self._with_logprobs = logprobs
        self._logprobs: list[Event] = []  # of tokens whose text is still held back
        self._open: _Text | _Call | None = None
        self._finished: list[Event] = []
        self._reasoning_tokens = 0
        self.whole = self._told("in_progress")

    def opened(self) -> Iterator[Event]:
        """The first events, before anything is known."""
        yield {"type": "response.created", "response": self.whole}
        yield {"type": "response.in_progress", "response": self.whole}

    def part(self, part: ChatPart) -> Iterator[Event]:
        """The events of a part."""
        if part.thinking:
            self._reasoning_tokens += _thought_tokens(part)
            yield from self._write(self._thought, part.thinking, [])
        elif self._with_logprobs:
            self._logprobs += told_logprobs(part.delta.logprobs)
        if part.text:
            told, self._logprobs = self._logprobs, []
            yield from self._write(MESSAGE, part.text, told)
        for piece in part.calls:
            yield from self._call(piece)
        if part.finish_reason is not None:
            yield from self._end(part)

    def failed(self, error: AppError) -> Iterator[Event]:
        """The events of an end by failure."""
        status, _ = status_of(error)
        yield from self._close("incomplete")
        self.whole = self._told("failed", error={"code": FAILURES.get(status, "server_error"), "message": error.message})
        yield {"type": "response.failed", "response": self.whole}

    def _write(self, names: _Names, text: str, logprobs: list[Event]) -> Iterator[Event]:
        if self._open is None or self._open.key is not names:
            yield from self._close("completed")
            self._open = _Text(len(self._finished), names)
            yield from self._open.begin()
        assert isinstance(self._open, _Text)
        yield from self._open.add(text, logprobs)

    def _call(self, piece: CallPiece) -> Iterator[Event]:
        if self._open is None or self._open.key != piece.index:
            yield from self._close("completed")
            self._open = _Call(len(self._finished), piece)
            yield from self._open.begin()
        assert isinstance(self._open, _Call)
        if piece.arguments:
            yield from self._open.add(piece.arguments)

    def _close(self, status: str) -> Iterator[Event]:
        if self._open is not None:
            yield from self._open.end(status, self._finished)
            self._open = None

    def _end(self, part: ChatPart) -> Iterator[Event]:
        cut = part.finish_reason == "length"
        if self._open is None and not self._finished:  # nothing was written: clients look for a message
            self._open = _Text(0, MESSAGE)
            yield from self._open.begin()
        yield from self._close("incomplete" if cut else "completed")
        usage = usage_of(part.delta.usage or Usage(), self._reasoning_tokens)
        if cut:
            self.whole = self._told("incomplete", incomplete_details={"reason": "max_output_tokens"}, usage=usage)
        else:
            self.whole = self._told("completed", completed_at=int(time.time()), usage=usage)
        yield {"type": f"response.{self.whole['status']}", "response": self.whole}

    def _told(self, status: str, **more: Any) -> Event:
        return {**self._head, "status": status, "error": None, "incomplete_details": None, "output": list(self._finished), "usage": None, **more}


class AnswerEvents:
    """An answer as numbered events of a stream."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._number = 0

    def opened(self) -> Iterator[bytes]:
        """What is said before anything is known."""
        yield from map(self._frame, self._answer.opened())

    def waiting(self) -> bytes:
        """A comment, which clients pass over."""
        return b": waiting\n\n"

    def part(self, part: ChatPart) -> Iterator[bytes]:
        """What a part brings."""
        yield from map(self._frame, self._answer.part(part))

    def failed(self, error: AppError) -> Iterator[bytes]:
        """The failure, as the last event."""
        yield from map(self._frame, self._answer.failed(error))

    def _frame(self, event: Event) -> bytes:
        numbered = {"type": event["type"], "sequence_number": self._number, **event}
        self._number += 1
        return frame(numbered, event["type"])


def _thought_tokens(part: ChatPart) -> int:
    """How many tokens of a part are thought: all, or of one in which a thought ends and something else begins its share by letters."""
    tokens, written = part.delta.tokens, len(part.text) + sum(len(piece.arguments) for piece in part.calls)
    return min(tokens - 1, round(tokens * len(part.thinking) / (len(part.thinking) + written))) if written and tokens else tokens
