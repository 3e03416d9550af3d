"""Messages of a conversation and the split of a reply into thinking and answer.

Knows no template and no storage: a `Message` is what a chat template receives.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from pydantic import BaseModel

Role = Literal["system", "user", "assistant", "tool", "developer"]

THINKING_TAGS: tuple[tuple[str, str], ...] = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("<|channel|>analysis<|message|>", "<|end|>"),
)


class Message(BaseModel, frozen=True, extra="forbid"):
    """One turn as a chat template sees it."""

    role: Role
    content: str = ""
    name: str | None = None
    tool_calls: tuple[dict[str, Any], ...] | None = None
    tool_call_id: str | None = None

    def for_template(self) -> dict[str, Any]:
        """Plain dictionary without empty fields, as templates expect."""
        return self.model_dump(mode="json", exclude_none=True)


class Thought(NamedTuple):
    """A reply split in two; `open` is true while the thinking part has not ended."""

    thinking: str
    answer: str
    open: bool


def split_thinking(text: str, *, starts_open: str | None = None) -> Thought:
    """Split a reply that begins with a thinking block.

    Only a block at the very start counts: a tag in the middle of an answer is text about tags. `starts_open` is the opening tag that
    the template already wrote at the end of the prompt, so the text begins inside the block.
    """
    body = (starts_open or "") + text
    stripped = body.lstrip()
    for opening, closing in THINKING_TAGS:
        if stripped.startswith(opening):
            inner, found, answer = stripped[len(opening):].partition(closing)
            return Thought(inner.strip("\n"), answer.lstrip("\n"), not found)
        if stripped and opening.startswith(stripped):
            return Thought("", "", True)  # a tag that is still arriving is not shown as text
    return Thought("", text, False)


def without_thinking(text: str) -> str:
    """The answer alone: earlier thoughts are not sent back to the model."""
    return split_thinking(text).answer


class ThoughtStream:
    """Splits a growing reply into thinking and answer, piece by piece, each character once."""

    def __init__(self, starts_open: str = "") -> None:
        self._closing = next((closing for opening, closing in THINKING_TAGS if opening == starts_open), "")
        self._begun = bool(self._closing)
        self._held = ""
        self._trim = bool(self._closing)

    def feed(self, text: str, *, last: bool = False) -> tuple[str, str]:
        """New thinking text and new answer text; a tag that is still arriving is held back until `last`."""
        self._held += text
        if not self._begun and not self._begin(last):
            return "", ""
        if not self._closing:
            out = self._held.lstrip("\n") if self._trim else self._held
            self._trim = self._trim and not out
            self._held = ""
            return "", out
        thinking, found, rest = self._held.partition(self._closing)
        if found:
            self._closing, self._held, self._trim = "", rest, True
            return thinking, self.feed("", last=last)[1]
        keep = 0 if last else _partial_suffix(self._held, self._closing)
        thinking, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return thinking, ""

    def _begin(self, last: bool) -> bool:
        """Decide whether the text opens with a thinking block; False while that is still open."""
        body = self._held.lstrip()
        for opening, closing in THINKING_TAGS:
            if body.startswith(opening):
                self._closing, self._held, self._begun = closing, body[len(opening) :].lstrip("\n"), True
                return True
        if not last and any(opening.startswith(body) for opening, _ in THINKING_TAGS):
            return False
        self._begun = True
        return True


def _partial_suffix(text: str, tag: str) -> int:
    """Length of the longest end of `text` that begins `tag`."""
    return next((n for n in range(min(len(tag) - 1, len(text)), 0, -1) if text.endswith(tag[:n])), 0)
