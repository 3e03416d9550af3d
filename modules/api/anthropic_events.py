"""A reply as Anthropic's clients read it: whole, and in events.

Knows the shapes and no route. Source: the public reference of Anthropic's Messages API (streaming).
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from modules.api.anthropic_errors import anthropic_error
from modules.api.chat_parts import CallPiece, ChatPart, ChatWhole
from modules.api.choices import CALLED
from modules.api.errors import status_of
from modules.api.sse import frame
from modules.core.errors import AppError
from modules.core.generation import Usage
from modules.core.tools import arguments_of
from modules.services.generation import ClientGeneration

STOP_REASONS: Mapping[str | None, str] = MappingProxyType({"stop": "end_turn", "length": "max_tokens", CALLED: "tool_use"})
THINKING, TEXT = "thinking", "text"


def usage_of(usage: Usage) -> dict[str, int]:
    """What a reply cost; the prompt is the sum of what was read and what was taken from the cache."""
    return {
        "input_tokens": usage.prompt_tokens - usage.reused_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.reused_tokens,
        "output_tokens": usage.completion_tokens,
    }


def message_head(generation: ClientGeneration) -> dict[str, Any]:
    """What is known of a message before it is written."""
    return {
        "id": f"msg_{secrets.token_hex(12)}",
        "type": "message",
        "role": "assistant",
        "model": generation.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage_of(Usage()),
    }


def whole_message(head: Mapping[str, Any], reply: ChatWhole, stop_sequences: Sequence[str]) -> dict[str, Any]:
    """A finished message."""
    content: list[dict[str, Any]] = []
    if reply.thinking:
        content.append({"type": THINKING, "thinking": reply.thinking, "signature": signature(reply.thinking)})
    if reply.text or not (reply.thinking or reply.calls):
        content.append({"type": TEXT, "text": reply.text})
    content += [{"type": "tool_use", "id": call.id, "name": call.name, "input": _input(call.arguments)} for call in reply.calls]
    return {**head, "content": content, **_ending(reply.finish_reason, reply.stop_string, stop_sequences), "usage": usage_of(reply.usage)}


def signature(thinking: str) -> str:
    """What stands where Anthropic signs thoughts: clients send it back, and nobody looks at it."""
    return hashlib.sha256(thinking.encode("utf-8", "replace")).hexdigest()


def _input(arguments: str) -> dict[str, Any]:
    """Arguments as an object; what is none is kept as text."""
    found = arguments_of(arguments)
    return {"arguments": arguments} if found is None else found


def _ending(finish_reason: str | None, stop_string: str | None, stop_sequences: Sequence[str]) -> dict[str, Any]:
    if stop_string in stop_sequences and finish_reason == "stop":  # and not one of the template's own
        return {"stop_reason": "stop_sequence", "stop_sequence": stop_string}
    return {"stop_reason": STOP_REASONS.get(finish_reason, "end_turn"), "stop_sequence": None}


class MessageEvents:
    """The events of one message: one block after the other, each opened, written and closed."""

    def __init__(self, generation: ClientGeneration, stop_sequences: Sequence[str]) -> None:
        self._generation = generation
        self._stop_sequences = stop_sequences
        self.head = message_head(generation)
        self._begun = False
        self._blocks = 0
        self._open: str | int | None = None  # the kind of the open block, or the number of its call
        self._thoughts: list[str] = []

    def opened(self) -> Iterator[bytes]:
        """Nothing: a message begins with the size of its prompt, which is not known yet."""
        yield from ()

    def waiting(self) -> bytes:
        """A ping."""
        return frame({"type": "ping"}, "ping")

    def part(self, part: ChatPart) -> Iterator[bytes]:
        """What a part brings."""
        yield from self._start()
        if part.thinking:
            self._thoughts.append(part.thinking)
            yield from self._write(THINKING, {"type": THINKING, "thinking": "", "signature": ""}, {"type": "thinking_delta", "thinking": part.thinking})
        if part.text:
            yield from self._write(TEXT, {"type": TEXT, "text": ""}, {"type": "text_delta", "text": part.text})
        for piece in part.calls:
            yield from self._call(piece)
        if part.finish_reason is not None:
            yield from self._end(part)

    def failed(self, error: AppError) -> Iterator[bytes]:
        """The failure, as the last event."""
        status, _ = status_of(error)
        yield frame(anthropic_error(status, error.message), "error")

    def _start(self) -> Iterator[bytes]:
        if self._begun:
            return
        self._begun = True
        head, started = dict(self.head), self._generation.started
        if started is not None:
            head["usage"] = usage_of(Usage(prompt_tokens=started.prompt_tokens, reused_tokens=started.reused_tokens, completion_tokens=0))
        yield _event("message_start", message=head)
        yield self.waiting()

    def _call(self, piece: CallPiece) -> Iterator[bytes]:
        delta = {"type": "input_json_delta", "partial_json": piece.arguments} if piece.arguments else None
        yield from self._write(piece.index, {"type": "tool_use", "id": piece.id, "name": piece.name, "input": {}}, delta)

    def _write(self, block: str | int, empty: dict[str, Any], delta: dict[str, Any] | None) -> Iterator[bytes]:
        """Add to a block; another one that is open is closed before."""
        if self._open != block:
            yield from self._close()
            self._open = block
            yield _event("content_block_start", index=self._blocks, content_block=empty)
        if delta is not None:
            yield _event("content_block_delta", index=self._blocks, delta=delta)

    def _close(self) -> Iterator[bytes]:
        if self._open is None:
            return
        if self._open == THINKING:
            yield _event("content_block_delta", index=self._blocks, delta={"type": "signature_delta", "signature": signature("".join(self._thoughts))})
        yield _event("content_block_stop", index=self._blocks)
        self._open, self._blocks = None, self._blocks + 1

    def _end(self, part: ChatPart) -> Iterator[bytes]:
        if self._open is None:  # nothing was written: clients look for a block
            yield from self._write(TEXT, {"type": TEXT, "text": ""}, None)
        yield from self._close()
        ending = _ending(part.finish_reason, part.delta.stop_string, self._stop_sequences)
        yield _event("message_delta", delta=ending, usage=usage_of(part.delta.usage or Usage()))
        yield _event("message_stop")


def _event(kind: str, **fields: Any) -> bytes:
    return frame({"type": kind, **fields}, kind)
