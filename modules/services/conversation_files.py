"""Conversations as JSON: written whole, read back from our own form.

Our own (`format` is `paddock-conversation`) is a tree; a plain list of `messages` with role and content is one as well, and histories with
`internal` are told in it first. The readers of other programs' files (foreign_*.py) tell them in our form too, so all is checked here.
Knows no store: ids are made new there.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError

from modules.core.errors import InvalidRequest
from modules.core.messages import IMAGE_LIMIT, IMAGE_LIMIT_BYTES, Image, ImageKind
from modules.core.settings import validation_sentence
from modules.services.conversation_settings import settings_from
from modules.services.foreign_textgen import from_textgen, is_textgen
from modules.store.records import (
    MessageRecord,
    NewConversation,
    NewFile,
    NewImage,
    NewMessage,
    Rating,
    StoredConversation,
)

FORMAT = "paddock-conversation"
VERSION = 1
MESSAGE_LIMIT = 50_000
TITLE_LIMIT = 200
TITLE_CUT = 40
FILES_LIMIT = 64  # of one message
TAGS_LIMIT = 100
FIELDS = (
    "id", "parent_id", "role", "content", "created_s", "model", "status", "error", "receipt", "rating", "edited_from", "pinned", "speaker",
)  # fmt: skip
Seconds = Annotated[float, Field(ge=0, le=1e11, allow_inf_nan=False)]


class _FileImage(BaseModel, frozen=True, extra="ignore"):
    kind: ImageKind
    data: str = Field(max_length=IMAGE_LIMIT_BYTES // 3 * 4 + 4)


class _FileText(BaseModel, frozen=True, extra="ignore"):
    name: str = Field(max_length=300)
    kind: str = Field("text", max_length=40)
    text: str = Field(max_length=20_000_000)
    note: str = Field("", max_length=2000)
    size_bytes: int = Field(0, ge=0, le=1 << 40)


class _FileMessage(BaseModel, frozen=True, extra="ignore"):
    id: str = Field("", max_length=100)
    parent_id: str | None = Field(None, max_length=100)
    role: Literal["system", "user", "assistant"]
    content: str = Field(max_length=2_000_000)
    created_s: Seconds | None = None
    model: str = Field("", max_length=500)
    status: Literal["complete", "streaming", "stopped", "failed"] = "complete"
    error: str = Field("", max_length=5000)
    receipt: dict[str, Any] | None = None
    rating: Rating = 0
    edited_from: str | None = Field(None, max_length=100)
    images: tuple[_FileImage, ...] = Field((), max_length=IMAGE_LIMIT)
    pinned: bool = False
    speaker: str = Field("", max_length=200)
    files: tuple[_FileText, ...] = Field((), max_length=FILES_LIMIT)


class _File(BaseModel, frozen=True, extra="ignore"):
    format: Literal["paddock-conversation"] | None = None
    version: int = Field(VERSION, ge=1, le=VERSION)
    title: str = Field("", max_length=2000)
    created_s: Seconds | None = None
    updated_s: Seconds | None = None
    pinned: bool = False
    tags: tuple[Annotated[str, Field(max_length=100)], ...] = Field((), max_length=TAGS_LIMIT)
    settings: dict[str, Any] = Field(default_factory=dict)
    head_id: str | None = None
    messages: tuple[_FileMessage, ...] = Field(max_length=MESSAGE_LIMIT)


def title_from(text: str) -> str:
    """The first words of a message, cut at a word border near 40 characters; empty for an empty text."""
    words = " ".join(text[:1000].split())
    if len(words) <= TITLE_CUT:
        return words
    cut = words[: TITLE_CUT + 1].rpartition(" ")[0] or words[:TITLE_CUT]
    return cut.rstrip(" ,.;:–—-") + "…"


def exported(conversation: StoredConversation, images: Mapping[str, bytes], texts: Mapping[str, str] = MappingProxyType({})) -> dict[str, Any]:
    """A conversation with all its messages as plain values; `images` are the files of its images and `texts` those of its attachments, by hash."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "title": conversation.title,
        "created_s": conversation.created_s,
        "updated_s": conversation.updated_s,
        "pinned": conversation.pinned,
        "tags": list(conversation.tags),
        "settings": conversation.settings,
        "head_id": conversation.head_id,
        "messages": [
            {name: getattr(message, name) for name in FIELDS} | _images(message, images) | _texts(message, texts) for message in conversation.messages
        ],
    }


def _images(message: MessageRecord, files: Mapping[str, bytes]) -> dict[str, Any]:
    images = [{"kind": image.kind, "data": base64.b64encode(files[image.hash]).decode()} for image in message.images]
    return {"images": images} if images else {}


def _texts(message: MessageRecord, texts: Mapping[str, str]) -> dict[str, Any]:
    fields = ("name", "kind", "note", "size_bytes")
    files = [{name: getattr(file, name) for name in fields} | {"text": texts[file.hash]} for file in message.files if file.hash in texts]
    return {"files": files} if files else {}


def new_images(images: Sequence[Image | _FileImage]) -> tuple[NewImage, ...]:
    """Images as files.

    Raises:
        InvalidRequest: one is not in base64.
    """
    try:
        return tuple(NewImage(image.kind, base64.b64decode(image.data, validate=True)) for image in images)
    except ValueError as error:
        raise InvalidRequest("An image is damaged: it is not in base64. Attach it again.", field="images") from error


def imported(values: Mapping[str, Any]) -> NewConversation:
    """A conversation from the content of a file.

    Raises:
        InvalidRequest: it is none of the known forms, or a value is outside its limits; the sentence says which.
    """
    if is_textgen(values):
        values = from_textgen(values)
    try:
        file = _File.model_validate(dict(values))
    except ValidationError as error:
        raise InvalidRequest(f"This file is not a conversation that Paddock can read: {validation_sentence(error)}", field="file") from error
    settings = settings_from(file.settings).model_dump(mode="json")
    places = _places(file.messages)
    messages = _new_messages(file.messages, places)
    first_words = next((message.content for message in messages if message.role == "user"), "")
    title = " ".join(file.title.split())[:TITLE_LIMIT] or title_from(first_words) or "Imported conversation"
    return NewConversation(
        title, settings, messages, head=_head(file, places, messages), pinned=file.pinned, tags=file.tags,
        created_s=file.created_s, updated_s=_updated_s(file),
    )  # fmt: skip


def _updated_s(file: _File) -> float | None:
    """When it was last changed: as the file says, or else when its newest message came."""
    if file.updated_s is not None:
        return file.updated_s
    return max((message.created_s for message in file.messages if message.created_s is not None), default=file.created_s)


def _places(messages: Sequence[_FileMessage]) -> dict[str, int]:
    places: dict[str, int] = {}
    for place, message in enumerate(messages):
        if message.id and places.setdefault(message.id, place) != place:
            raise InvalidRequest(f"Messages {places[message.id] + 1} and {place + 1} of the file have the same id; the file is damaged.", field="file")
    return places


def _new_messages(messages: Sequence[_FileMessage], places: Mapping[str, int]) -> tuple[NewMessage, ...]:
    now_s = time.time()
    found = []
    for place, message in enumerate(messages):
        if "parent_id" not in message.model_fields_set:  # a plain list: each follows the one before
            parent = place - 1 if place else None
        elif message.parent_id is None:
            parent = None
        else:
            parent = places.get(message.parent_id, place)
            if parent >= place:
                raise InvalidRequest(f"Message {place + 1} of the file follows one that does not come before it; the file is damaged.", field="file")
        status = "stopped" if message.status == "streaming" else message.status
        created_s = now_s if message.created_s is None else message.created_s
        found.append(
            NewMessage(
                message.role, message.content, parent, created_s, message.model, status, message.error, message.receipt, new_images(message.images),
                message.rating, _original(message, places, place), message.pinned, message.speaker,
                tuple(NewFile(file.name, file.kind, file.text, file.note, file.size_bytes) for file in message.files),
            )
        )
    return tuple(found)


def _original(message: _FileMessage, places: Mapping[str, int], place: int) -> int | str | None:
    """The version that a message was edited from: its place if it comes before in the file, else the id it had."""
    found = places.get(message.edited_from or "", place)
    return found if found < place else message.edited_from


def _head(file: _File, places: Mapping[str, int], messages: Sequence[NewMessage]) -> int | None:
    """The place of the message shown last: the file's head, or the newest below it, or the last message."""
    if not messages:
        return None
    head = places.get(file.head_id or "", None)
    if head is None:
        return len(messages) - 1
    below = {head}
    for place, message in enumerate(messages):
        if message.parent in below:
            below.add(place)
    parents = {message.parent for message in messages}
    return max(place for place in below if place not in parents)

