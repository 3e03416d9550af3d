"""Conversations as JSON: written whole, read back from our own form.

Our own (`format` is `paddock-conversation`) is a tree; a plain list of `messages` with role and content is one as well, and histories with
`internal` are told in it first. The readers of other programs' files (foreign_*.py) tell them in our form too, so all is checked here.
Knows no store: ids are made new there.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError

from modules.core.errors import InvalidRequest
from modules.core.messages import IMAGE_LIMIT, IMAGE_LIMIT_BYTES, Image, ImageKind
from modules.core.settings import validation_sentence
from modules.services.conversation_settings import settings_from
from modules.services.foreign_textgen import from_textgen, is_textgen
from modules.services.prompt_files import FilePrompt, PromptTexts
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


class FileMessage(BaseModel, frozen=True, extra="ignore"):
    """A message as a file tells it."""

    id: str = Field("", max_length=100)
    parent_id: str | None = Field(None, max_length=100)
    role: Literal["system", "user", "assistant"]
    content: str = Field(max_length=4_000_000)
    created_s: Seconds | None = None
    model: str = Field("", max_length=500)
    status: Literal["complete", "streaming", "stopped", "failed"] = "complete"
    error: str = Field("", max_length=100_000)
    receipt: dict[str, Any] | None = None
    rating: Rating = 0
    edited_from: str | None = Field(None, max_length=100)
    images: tuple[_FileImage, ...] = Field((), max_length=IMAGE_LIMIT)
    pinned: bool = False
    speaker: str = Field("", max_length=200)
    files: tuple[_FileText, ...] = Field((), max_length=FILES_LIMIT)
    prompt: FilePrompt | None = None


class FileHead(BaseModel, frozen=True, extra="ignore"):
    """What a file tells of a conversation besides its messages."""

    format: Literal["paddock-conversation"] | None = None
    version: int = Field(VERSION, ge=1, le=VERSION)
    title: str = Field("", max_length=2000)
    created_s: Seconds | None = None
    updated_s: Seconds | None = None
    pinned: bool = False
    tags: tuple[Annotated[str, Field(max_length=100)], ...] = Field((), max_length=TAGS_LIMIT)
    settings: dict[str, Any] = Field(default_factory=dict)
    head_id: str | None = None


class _File(FileHead, frozen=True):
    messages: tuple[FileMessage, ...] = Field(max_length=MESSAGE_LIMIT)


def title_from(text: str) -> str:
    """The first words of a message, cut at a word border near 40 characters; empty for an empty text."""
    words = " ".join(text[:1000].split())
    if len(words) <= TITLE_CUT:
        return words
    cut = words[: TITLE_CUT + 1].rpartition(" ")[0] or words[:TITLE_CUT]
    return cut.rstrip(" ,.;:–—-") + "…"


def exported(conversation: StoredConversation, images: Mapping[str, bytes], texts: Mapping[str, str] = MappingProxyType({})) -> dict[str, Any]:
    """A conversation with all its messages as plain values; `images` are the files of its images and `texts` those of its attachments, by hash."""
    return {**exported_head(conversation), "messages": [exported_message(message, images, texts) for message in conversation.messages]}


def exported_head(conversation: StoredConversation) -> dict[str, Any]:
    """A conversation as plain values without its messages; the format comes first, a reader knows it by that."""
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
    }


def exported_message(message: MessageRecord, images: Mapping[str, bytes], texts: Mapping[str, str]) -> dict[str, Any]:
    """A message as plain values with its images and what was read from its files."""
    return {name: getattr(message, name) for name in FIELDS} | _images(message, images) | _texts(message, texts)


def _images(message: MessageRecord, files: Mapping[str, bytes]) -> dict[str, Any]:
    images = [{"kind": image.kind, "data": base64.b64encode(files[image.hash]).decode()} for image in message.images if image.hash in files]
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
    tree = FileTree()
    messages = tuple(tree.placed(message) for message in file.messages)
    return tree.conversation(file, messages)


class FileTree:
    """The messages of a file as they come, each with its place among them."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}
        self._parents: list[int | None] = []
        self._first_words = ""
        self._newest_s: float | None = None
        self._now_s = time.time()
        self._prompts = PromptTexts()

    def placed(self, message: FileMessage) -> NewMessage:
        """The next message, to be stored.

        Raises:
            InvalidRequest: another one has its id, it follows none that came before, or an image is damaged.
        """
        place = len(self._parents)
        if message.id and self._places.setdefault(message.id, place) != place:
            raise InvalidRequest(f"Messages {self._places[message.id] + 1} and {place + 1} of the file have the same id; the file is damaged.", field="file")
        parent = self._parent(message, place)
        self._parents.append(parent)
        if message.role == "user" and not self._first_words:
            self._first_words = message.content[:1000]
        if message.created_s is not None:
            self._newest_s = max(message.created_s, self._newest_s or 0.0)
        original = self._places.get(message.edited_from or "", place)
        return NewMessage(
            message.role, message.content, parent, self._now_s if message.created_s is None else message.created_s, message.model,
            "stopped" if message.status == "streaming" else message.status, message.error, message.receipt, new_images(message.images),
            message.rating, original if original < place else message.edited_from, message.pinned, message.speaker,
            tuple(NewFile(file.name, file.kind, file.text, file.note, file.size_bytes) for file in message.files),
            self._prompts.read(message.prompt) if message.prompt is not None else None,
        )  # fmt: skip

    def _parent(self, message: FileMessage, place: int) -> int | None:
        if "parent_id" not in message.model_fields_set:  # a plain list: each follows the one before
            return place - 1 if place else None
        if message.parent_id is None:
            return None
        parent = self._places.get(message.parent_id, place)
        if parent >= place:
            raise InvalidRequest(f"Message {place + 1} of the file follows one that does not come before it; the file is damaged.", field="file")
        return parent

    def conversation(self, head: FileHead, messages: Iterable[NewMessage]) -> NewConversation:
        """The whole, once all messages have their places.

        Raises:
            InvalidRequest: a setting outside its limits.
        """
        settings = settings_from(head.settings).model_dump(mode="json")
        until = self._places.get(settings["summary_until"]) if settings["summary_until"] else None
        title = " ".join(head.title.split())[:TITLE_LIMIT] or title_from(self._first_words) or "Imported conversation"
        updated_s = self._newest_s if self._newest_s is not None else head.created_s
        return NewConversation(
            title, settings, messages, head=self._head(head.head_id), pinned=head.pinned, tags=head.tags, created_s=head.created_s,
            updated_s=updated_s if head.updated_s is None else head.updated_s, places_in_settings={} if until is None else {"summary_until": until},
        )  # fmt: skip

    def _head(self, head_id: str | None) -> int | None:
        """The place of the message shown last: the file's head, or the newest below it, or the last message."""
        if not self._parents:
            return None
        head = self._places.get(head_id or "")
        if head is None:
            return len(self._parents) - 1
        below = {head}
        for place, parent in enumerate(self._parents):
            if parent in below:
                below.add(place)
        parents = set(self._parents)
        return max(place for place in below if place not in parents)
