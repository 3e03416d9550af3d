"""Items as OpenAI's Responses API has them, told as messages of our own chat.

Knows the items and no route. What only a service of OpenAI's could do is refused by its name; what a model said to itself earlier is not sent back.
Source: the public OpenAI API reference (responses).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from modules.api.content import image_of

ITEMS_LIMIT = 10_000
ITEM_TYPES = ("message", "function_call", "function_call_output", "reasoning")
PART_TYPES = ("input_text", "output_text", "text", "summary_text", "refusal", "input_image")

ChatDict = dict[str, Any]


class _Lenient(BaseModel):
    model_config = ConfigDict(extra="ignore")


class ItemPart(_Lenient):
    """A part of what an item says."""

    type: str
    text: str = ""
    refusal: str = ""
    image_url: str | None = None

    @model_validator(mode="after")
    def _readable(self) -> ItemPart:
        if self.type == "input_image":
            image_of(self.image_url or "")
        elif self.type not in PART_TYPES:
            raise ValueError(f"parts of type “{self.type[:60]}” are not supported; send input_text, or input_image with a data URL")
        return self

    def part(self) -> ChatDict:
        """The part as our own chat has it."""
        if self.type == "input_image":
            return {"type": "image_url", "image_url": self.image_url or ""}
        return {"type": "text", "text": self.text or self.refusal}


def _as_parts(value: Any) -> Any:
    return [{"type": "input_text", "text": value}] if isinstance(value, str) else value


ItemParts = Annotated[list[ItemPart], Field(max_length=ITEMS_LIMIT, fail_fast=True), BeforeValidator(_as_parts, json_schema_input_type=str | list[ItemPart])]


class SaidItem(_Lenient):
    """A message."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: ItemParts


class CallItem(_Lenient):
    """A call that the model made."""

    type: Literal["function_call"]
    call_id: str = Field(max_length=200)
    name: str = Field(max_length=200)
    arguments: str = ""


class OutputItem(_Lenient):
    """What a call brought."""

    type: Literal["function_call_output"]
    call_id: str = Field(max_length=200)
    output: ItemParts


class ReasoningPart(_Lenient):
    """A piece of what was thought."""

    text: str = ""


class ReasoningItem(_Lenient):
    """What the model thought."""

    type: Literal["reasoning"]
    summary: list[ReasoningPart] = Field(default_factory=list, fail_fast=True)
    content: list[ReasoningPart] | None = Field(None, fail_fast=True)


def _with_type(value: Any) -> Any:
    """The short form of a message has no type."""
    if not isinstance(value, dict):
        return value
    if value.get("type") is None and "role" in value:
        return {**value, "type": "message"}
    kind = value.get("type")
    if kind == "item_reference":
        raise ValueError("answers are not stored here, so none can be referred to by its id; send the items themselves")
    if isinstance(kind, str) and kind not in ITEM_TYPES:
        raise ValueError(f"items of type “{kind[:60]}” are not supported; there are {', '.join(ITEM_TYPES)}")
    return value


AnyItem = SaidItem | CallItem | OutputItem | ReasoningItem
Item = Annotated[
    Annotated[AnyItem, Field(discriminator="type")], BeforeValidator(_with_type, json_schema_input_type=SaidItem | CallItem | OutputItem | ReasoningItem)
]


def _as_items(value: Any) -> Any:
    return [{"type": "message", "role": "user", "content": value}] if isinstance(value, str) else value


Items = Annotated[list[Item], Field(min_length=1, max_length=ITEMS_LIMIT, fail_fast=True), BeforeValidator(_as_items, json_schema_input_type=str | list[Item])]


def chat_messages(instructions: str | None, items: Iterable[AnyItem]) -> list[ChatDict]:
    """The same conversation as messages of our own chat: what a model thinks, says and calls one after the other is one message of it."""
    told: list[ChatDict] = [{"role": "system", "content": instructions}] if instructions else []
    for item in items:
        if isinstance(item, OutputItem):
            told.append({"role": "tool", "tool_call_id": item.call_id, "content": [part.part() for part in item.output]})
        elif isinstance(item, SaidItem) and item.role != "assistant":
            told.append({"role": item.role, "content": [part.part() for part in item.content]})
        else:
            _add_to_reply(told, item)
    return told


def _add_to_reply(told: list[ChatDict], item: AnyItem) -> None:
    """Put it into the message of the model that is being written, or begin one."""
    reply = told[-1] if told and told[-1]["role"] == "assistant" else None
    if reply is None or (isinstance(item, ReasoningItem | SaidItem) and "tool_calls" in reply) or (isinstance(item, SaidItem) and reply["content"]):
        reply = {"role": "assistant", "content": []}
        told.append(reply)
    if isinstance(item, CallItem):
        call = {"id": item.call_id, "type": "function", "function": {"name": item.name, "arguments": item.arguments}}
        reply.setdefault("tool_calls", []).append(call)
    elif isinstance(item, SaidItem):
        reply["content"] = [part.part() for part in item.content]
