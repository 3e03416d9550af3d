"""Messages of a conversation and the split of a reply into thinking and answer.

Knows no template and no storage: a `Message` is what a chat template receives.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, Field

ImageKind = Literal["png", "jpeg", "webp", "gif"]
Role = Literal["system", "user", "assistant", "tool", "developer"]

IMAGE_LIMIT = 16  # in one request, or one message
IMAGE_LIMIT_BYTES = 16 << 20
FILE_LIMIT = 20  # documents of one message

THINKING_TAGS: tuple[tuple[str, str], ...] = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("<|channel|>analysis<|message|>", "<|end|>"),
    ("<|channel>thought", "<channel|>"),  # Gemma 4
)


# Variables by which templates switch thinking. The page and the API say the first one; it reaches templates that have another (prompts/template.py)
THINKING_SWITCHES = ("enable_thinking", "thinking", "thinking_budget")


class Image(BaseModel, frozen=True, extra="forbid"):
    """An image of a message: its file, and before which character of the text it stands."""

    kind: ImageKind
    data: str = Field(repr=False)  # base64
    at: int = Field(0, ge=0)

    @property
    def address(self) -> str:
        """The image as a data URL."""
        return f"data:image/{self.kind};base64,{self.data}"


class Message(BaseModel, frozen=True, extra="forbid"):
    """One turn as a chat template sees it."""

    role: Role
    content: str = ""
    name: str | None = None
    tool_calls: tuple[dict[str, Any], ...] | None = None
    tool_call_id: str | None = None
    images: tuple[Image, ...] = ()  # by their places in the text
    pinned: bool = False  # stays when older messages are left out

    def for_template(self) -> dict[str, Any]:
        """Plain dictionary without empty fields and without images, as templates expect."""
        return self.model_dump(mode="json", exclude_none=True, exclude={"images", "pinned"})

    def parts(self) -> list[str | Image]:
        """Text and images in their order, without empty text."""
        found: list[str | Image] = []
        begin = 0
        for image in self.images:
            found += [self.content[begin : image.at], image]
            begin = max(begin, image.at)
        return [part for part in (*found, self.content[begin:]) if part]

    def with_marks(self, marks: Iterable[str]) -> Message:
        """The same message with a mark in the text where each of its images stood."""
        left = iter(marks)
        text = "".join(part if isinstance(part, str) else next(left) for part in self.parts())
        return self.model_copy(update={"content": text, "images": ()})


class Thought(NamedTuple):
    """A reply split in two; `open` is true while the thinking part has not ended."""

    thinking: str
    answer: str
    open: bool


def split_thinking(text: str, *, starts_open: str | None = None) -> Thought:
    """Split a reply that begins with a thinking block.

    Only a block at the very start counts: a tag in the middle of an answer is text about tags. `starts_open` is the opening tag that
    the template already wrote at the end of the prompt, so the text begins inside the block. A closing tag on a line of its own that
    nothing has opened ends a block too: some models leave the opening one out.
    """
    body = (starts_open or "") + text
    stripped = body.lstrip()
    for opening, closing in THINKING_TAGS:
        if stripped.startswith(opening):
            inner, found, answer = stripped[len(opening):].partition(closing)
            return Thought(inner.strip("\n"), answer.lstrip("\n"), not found)
        if stripped and opening.startswith(stripped):
            return Thought("", "", True)  # a tag that is still arriving is not shown as text
    opening, closing = THINKING_TAGS[0]
    before, found, after = text.partition(f"\n{closing}\n")
    if found and opening not in before:
        return Thought(before.strip("\n"), after.lstrip("\n"), False)
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
        self._trim = self._begun  # newlines right after a tag belong to the tag

    def feed(self, text: str, *, last: bool = False) -> tuple[str, str]:
        """New thinking text and new answer text; a tag that is still arriving is held back until `last`."""
        self._held += text
        if not self._begun and not self._begin(last):
            return "", ""
        if not self._closing:
            return "", self._take(len(self._held))
        at = self._held.find(self._closing)
        if at < 0:
            keep = 0 if last else _partial_suffix(self._held, self._closing)
            return self._take(len(self._held) - keep), ""
        thinking = self._take(at)
        self._held = self._held.removeprefix(self._closing)
        self._closing, self._trim = "", True
        return thinking, self._take(len(self._held))

    def _take(self, length: int) -> str:
        """The next `length` held characters."""
        out, self._held = self._held[:length], self._held[length:]
        if self._trim:
            out = out.lstrip("\n")
            self._trim = not out
        return out

    def _begin(self, last: bool) -> bool:
        """Decide whether the text opens with a thinking block; False while that is still open."""
        body = self._held.lstrip()
        for opening, closing in THINKING_TAGS:
            if body.startswith(opening):
                self._closing, self._held, self._begun, self._trim = closing, body[len(opening) :], True, True
                return True
        if not last and any(opening.startswith(body) for opening, _ in THINKING_TAGS):
            return False
        self._begun = True
        return True


def _partial_suffix(text: str, tag: str) -> int:
    """Length of the longest end of `text` that begins `tag`."""
    return next((n for n in range(min(len(tag) - 1, len(text)), 0, -1) if text.endswith(tag[:n])), 0)
