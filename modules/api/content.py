"""Messages as OpenAI clients send them: text, or text and images in parts.

Knows the wire form and its limits; what an image shows is found out where the model is. No address is ever fetched: an image comes inside the request.
Source: the public OpenAI API reference.
"""

from __future__ import annotations

import base64
import json
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from modules.core.messages import IMAGE_LIMIT, IMAGE_LIMIT_BYTES, Image, ImageKind, Message, Role

TEXT_TYPES = ("text", "input_text", "output_text")
LONGEST_CALL_NAME = 256
IMAGE_TYPES = ("image_url", "input_image")
SIGNATURES: tuple[tuple[ImageKind, bytes, int], ...] = (
    ("png", b"\x89PNG\r\n\x1a\n", 0), ("jpeg", b"\xff\xd8\xff", 0), ("gif", b"GIF8", 0), ("webp", b"WEBP", 8),
)  # fmt: skip


class ImageUrl(BaseModel):
    """Where an image is; `detail` is ignored."""

    url: str


class ContentPart(BaseModel):
    """A part of a message."""

    type: str
    text: str | None = None
    image_url: ImageUrl | str | None = None

    @property
    def address(self) -> str:
        """The address of an image, however it was given."""
        return self.image_url.url if isinstance(self.image_url, ImageUrl) else self.image_url or ""


class ChatMessage(BaseModel):
    """One message."""

    model_config = ConfigDict(extra="ignore")

    role: Role
    content: str | Annotated[list[ContentPart], Field(fail_fast=True)] | None = None  # here and elsewhere: the first thing that is wrong is told, and not looked for further
    name: str | None = None
    tool_calls: Annotated[list[dict[str, Any]], Field(fail_fast=True)] | None = None
    tool_call_id: str | None = None

    @field_validator("content")
    @classmethod
    def _known_parts(cls, value: str | list[ContentPart] | None) -> str | list[ContentPart] | None:
        for part in value if isinstance(value, list) else ():
            if part.type in IMAGE_TYPES:
                image_of(part.address)
            elif part.type not in TEXT_TYPES:
                raise ValueError(f"parts of type “{part.type[:60]}” are not supported yet; send text, or images as image_url")
        return value

    @field_validator("tool_calls")
    @classmethod
    def _known_calls(cls, value: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
        return [_known_call(call) for call in value] if value else None

    @model_validator(mode="after")
    def _calls_where_they_belong(self) -> Self:
        if self.tool_calls and self.role != "assistant":
            raise ValueError(f"tool_calls belong to messages of the assistant; this one is of the role {self.role}")
        return self

    def to_message(self) -> Message:
        """The message as everything behind the API knows it."""
        text, images = "", []
        for part in self.content if isinstance(self.content, list) else (ContentPart(type="text", text=self.content),):
            if part.type in IMAGE_TYPES:
                images.append(image_of(part.address).model_copy(update={"at": len(text)}))
            else:
                text += part.text or ""
        return Message(
            role=self.role,
            content=text,
            name=self.name,
            tool_calls=tuple(self.tool_calls) if self.tool_calls else None,
            tool_call_id=self.tool_call_id,
            images=tuple(images),
        )


def _known_call(call: dict[str, Any]) -> dict[str, Any]:
    """A call of a tool in OpenAI's form, its arguments as text."""
    function = call.get("function")
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(function, dict) or not isinstance(name, str) or not 0 < len(name) <= LONGEST_CALL_NAME:
        raise ValueError('a call is {"id": …, "type": "function", "function": {"name": …, "arguments": "{…}"}}')
    arguments = function.get("arguments")
    try:
        text = arguments if isinstance(arguments, str) else json.dumps(arguments or {}, ensure_ascii=False)
    except RecursionError:
        raise ValueError(f"the arguments of {name} are nested too deeply") from None
    call_id = call.get("id")
    return {"id": call_id if isinstance(call_id, str) else "", "type": "function", "function": {"name": name, "arguments": text or "{}"}}


def image_of(address: str) -> Image:
    """The image inside a data URL; what its first bytes say counts, not what it is called.

    Raises:
        ValueError: another kind of address or of file, or too large.
    """
    head, _, data = address.partition(",")
    scheme, *properties = head.lower().split(";")
    if not scheme.startswith("data:") or "base64" not in properties:
        raise ValueError("an image has to be in the request, as data:image/png;base64,…; Paddock fetches no addresses")
    size_bytes = len(data) * 3 // 4
    if size_bytes > IMAGE_LIMIT_BYTES:
        raise ValueError(f"an image of {size_bytes / (1 << 20):.1f} MiB is larger than the limit of {IMAGE_LIMIT_BYTES >> 20} MiB; make it smaller")
    try:
        begin = base64.b64decode(data[:24], validate=True)
    except ValueError as error:
        raise ValueError("an image is not in base64") from error
    kind = next((kind for kind, signature, at in SIGNATURES if begin[at:].startswith(signature)), None)
    if kind is None:
        raise ValueError("an image is no PNG, JPEG, WebP or GIF file; save it as one of these")
    return Image(kind=kind, data=data)


def _checked(addresses: list[str]) -> list[str]:
    for address in addresses:
        image_of(address)
    return addresses


ImageAddresses = Annotated[list[str], Field(max_length=IMAGE_LIMIT), AfterValidator(_checked)]


def check_count(messages: list[ChatMessage]) -> list[ChatMessage]:
    """The messages, if they do not have too many images.

    Raises:
        ValueError: they do.
    """
    count = sum(part.type in IMAGE_TYPES for message in messages if isinstance(message.content, list) for part in message.content)
    if count > IMAGE_LIMIT:
        raise ValueError(f"{count} images are more than the limit of {IMAGE_LIMIT} in one request; leave the oldest out")
    return messages
