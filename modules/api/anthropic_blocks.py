"""Messages in blocks, as Anthropic's clients send them, told as messages of our own chat.

Knows the blocks and no route. What only a service of Anthropic's could do is refused by its name; what a model said to itself earlier is not sent back.
Source: the public reference of Anthropic's Messages API.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from modules.api.content import image_of
from modules.services.conversation_prompt import SEPARATOR, document_block

BLOCKS_LIMIT = 10_000
FAILED = "Error: "  # in front of what a tool says that failed: chat templates know no other way to tell

ChatDict = dict[str, Any]


def _as_blocks(value: Any) -> Any:
    """Text alone is one block of text, and nothing is none."""
    return [{"type": "text", "text": value}] if isinstance(value, str) else [] if value is None else value


class _Lenient(BaseModel):
    model_config = ConfigDict(extra="ignore")


class TextBlock(_Lenient):
    """Text; where a cache may end is ignored, as every beginning is cached."""

    type: Literal["text"] = "text"
    text: str


TextBlocks = Annotated[list[TextBlock], Field(max_length=BLOCKS_LIMIT, fail_fast=True), BeforeValidator(_as_blocks, json_schema_input_type=str | list[TextBlock] | None)]


class Source(_Lenient):
    """Where an image or a document is: inside the request."""

    type: Literal["base64", "text", "content", "url", "file"]
    media_type: str = Field("", max_length=200)
    data: str = Field("", repr=False)
    content: TextBlocks = Field(default_factory=list)

    def image(self) -> ChatDict:
        """The image as a part of our own chat.

        Raises:
            ValueError: it is elsewhere, or none that can be read.
        """
        if self.type != "base64":
            raise ValueError("an image has to be in the request, with a source of type base64; Paddock fetches no addresses and keeps no files")
        address = f"data:{self.media_type};base64,{self.data}"
        image_of(address)
        return {"type": "image_url", "image_url": address}

    def text(self) -> str:
        """The text of a document.

        Raises:
            ValueError: it is elsewhere, or no text.
        """
        if self.type == "text":
            return self.data
        if self.type == "content":
            return SEPARATOR.join(block.text for block in self.content)
        raise ValueError("a document has to be text, with a source of type text or content; Paddock reads no PDF here: send the text in it")


class Citations(_Lenient):
    """Whether the answer is to say where in the documents it comes from."""

    enabled: bool = False


class InnerBlock(_Lenient):
    """A block that says something: also inside of what a tool answered."""

    type: Literal["text", "image", "document", "search_result"]
    text: str = ""
    source: Source | str | None = None
    title: str | None = None
    context: str | None = None
    citations: Citations | None = None
    content: TextBlocks = Field(default_factory=list)

    @model_validator(mode="after")
    def _readable(self) -> InnerBlock:
        if self.citations is not None and self.citations.enabled:
            raise ValueError("citations are not supported; leave them out")
        self.part()
        return self

    def part(self) -> ChatDict:
        """The block as a part of our own chat.

        Raises:
            ValueError: it cannot be one.
        """
        if self.type == "text":
            return _text(self.text)
        if self.type == "search_result":
            found = f"{self.title} ({self.source})" if self.title and isinstance(self.source, str) else self.title or str(self.source or "")
            return _text(document_block(found, SEPARATOR.join(block.text for block in self.content)))
        if not isinstance(self.source, Source):
            raise ValueError(f"a block of the type {self.type} needs its source")
        if self.type == "image":
            return self.source.image()
        about = [self.context] if self.context else []
        return _text(SEPARATOR.join([*about, document_block(self.title or "document", self.source.text())]))


InnerBlocks = Annotated[list[InnerBlock], Field(max_length=BLOCKS_LIMIT, fail_fast=True), BeforeValidator(_as_blocks, json_schema_input_type=str | list[InnerBlock] | None)]


class ToolUse(_Lenient):
    """A call that the model made."""

    type: Literal["tool_use"]
    id: str = Field(max_length=200)
    name: str = Field(max_length=200)
    input: dict[str, Any] = Field(default_factory=dict)

    def call(self) -> ChatDict:
        """The call as our own chat has it."""
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": json.dumps(self.input, ensure_ascii=False)}}


class ToolResult(_Lenient):
    """What a call brought."""

    type: Literal["tool_result"]
    tool_use_id: str = Field(max_length=200)
    content: InnerBlocks = Field(default_factory=list)
    is_error: bool = False

    def message(self) -> ChatDict:
        """The message of the tool, as our own chat has it."""
        parts = joined(block.part() for block in self.content)
        if self.is_error and not (parts and parts[0].get("text", "").startswith(FAILED)):
            parts.insert(0, _text(FAILED))
        return {"role": "tool", "tool_call_id": self.tool_use_id, "content": parts}


class Thinking(_Lenient):
    """What the model thought; a signature is not looked at."""

    type: Literal["thinking", "redacted_thinking"]
    thinking: str = ""


Block = Annotated[InnerBlock | ToolUse | ToolResult | Thinking, Field(discriminator="type")]
Blocks = Annotated[list[Block], Field(max_length=BLOCKS_LIMIT, fail_fast=True), BeforeValidator(_as_blocks, json_schema_input_type=str | list[Block] | None)]


class Turn(_Lenient):
    """One message."""

    role: Literal["user", "assistant", "system"]
    content: Blocks

    @model_validator(mode="after")
    def _placed(self) -> Turn:
        allowed = ToolResult if self.role == "user" else ToolUse | Thinking if self.role == "assistant" else InnerBlock
        wrong = next((block for block in self.content if not isinstance(block, InnerBlock | allowed)), None)
        if wrong is not None:
            raise ValueError(f"a message of the role {self.role} has no blocks of the type {wrong.type}")
        return self


def chat_messages(system: Sequence[TextBlock], turns: Iterable[Turn]) -> list[ChatDict]:
    """The same conversation as messages of our own chat. Turns of the same role that follow each other are one, as Anthropic has it."""
    told: list[ChatDict] = [{"role": "system", "content": [_text(block.text) for block in system]}] if system else []
    for turn in turns:
        for message in _messages(turn):
            before = told[-1] if told else None
            if before is not None and before["role"] == message["role"] in ("user", "assistant") and "tool_calls" not in before:
                told[-1] = {**before, **message, "content": before["content"]}
                before["content"].extend(message["content"])  # put together at the end: there may be thousands
            else:
                told.append(message)
    return [message if message["role"] == "tool" else {**message, "content": joined(message["content"])} for message in told]


def _messages(turn: Turn) -> Iterator[ChatDict]:
    """What tools answered stands in a message of its own for each, before what the person says."""
    yield from (block.message() for block in turn.content if isinstance(block, ToolResult))
    parts = [block.part() for block in turn.content if isinstance(block, InnerBlock)]
    calls = [block.call() for block in turn.content if isinstance(block, ToolUse)]
    if parts or calls or not turn.content:
        more = {"tool_calls": calls} if calls else {}
        yield {"role": turn.role, "content": parts, **more}


def joined(parts: Iterable[ChatDict]) -> list[ChatDict]:
    """The parts, with an empty line between pieces of text that follow each other: in this dialect each is a paragraph of its own."""
    found: list[ChatDict] = []
    for is_text, group in groupby(parts, lambda part: part["type"] == "text"):
        run = list(group)
        found += [_text(SEPARATOR.join(part["text"] for part in run if part["text"]))] if is_text else run
    return found


def _text(text: str) -> ChatDict:
    return {"type": "text", "text": text}
