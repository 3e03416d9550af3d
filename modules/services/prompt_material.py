"""What a prompt of the chat is made of, as it is stored: the path to a message with its images and documents, and what is not sent yet.

Of a path that is longer than a prompt can be, only the end is read: what is sent costs as much as the context holds, not as much as was ever said.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from modules.core.errors import InvalidRequest
from modules.core.messages import Image, without_thinking
from modules.services.character_prompt import spoken
from modules.services.conversation_files import new_images
from modules.services.conversation_prompt import (
    SEPARATOR,
    PromptPart,
    prompt_parts,
    summarised_path,
    with_summary,
)
from modules.services.conversation_settings import ConversationSettings, stored_settings
from modules.services.kept_prompts import LEFT_OUT_LIMIT, named
from modules.services.storage import Stores
from modules.store.records import MessageRecord, StoredFile, StoredImage

if TYPE_CHECKING:
    from modules.store.paths import PathTail

IMAGES_IN_PROMPT_BYTES = 32 << 20
NO_IMAGES: Mapping[str, bytes] = MappingProxyType({})
UNSENT = "unsent"  # id of the message that is still being typed


@dataclass(frozen=True, slots=True)
class PromptMaterial:
    """What goes into a prompt: documents by what was read from each, and stored messages in their order, by their ids.

    `left_out` stored messages before them are missing: there is no room for them. The first of those are named for the prompt that is kept.
    """

    parts: tuple[PromptPart, ...]
    files: tuple[StoredFile, ...]
    texts: Mapping[str, str]
    records: Mapping[str, MessageRecord]
    summary: str = ""  # that stands for the ones before them
    left_out: int = 0
    first_left_out: tuple[dict[str, str], ...] = ()


def material_of(stores: Stores, owner: str, message_id: str, limit_characters: int | None = None) -> PromptMaterial:
    """What a model gets to see to answer (or continue) a message: system prompt, then the path to it.

    With `limit_characters` the oldest messages may be missing, as far as what follows them has more than that: only where they may be left out.

    Raises:
        InvalidRequest: more of images than can be looked at for one reply.
        NotFound: there is no such message, or it is another owner's; so below.
    """
    if limit_characters is None:
        found, path = stores.messages.path(owner, message_id)
        return _made(stores, owner, found.id, path, stored_settings(found.settings))
    conversation_id, path, left_out = _end_of(stores, owner, message_id, limit_characters)
    settings = stored_settings(stores.paths.conversation(owner, conversation_id).settings)
    first = stores.paths.records(owner, conversation_id, left_out[:LEFT_OUT_LIMIT])
    made = _made(stores, owner, conversation_id, path, settings)
    return replace(made, left_out=len(left_out), first_left_out=tuple(named(record.role, _told(record)) for record in first))


def unsent_material(
    stores: Stores, owner: str, conversation_id: str, text: str, images: Sequence[Image] = (), *, limit_characters: int | None = None
) -> PromptMaterial:
    """What a model would get to see if `text` and `images` were sent now, with the documents that wait; `limit_characters` as above.

    Raises:
        InvalidRequest: more of images than can be looked at for one reply, or one that is damaged.
    """
    new = {hashlib.sha256(image.file).hexdigest(): image for image in new_images(images)}
    found = stores.paths.conversation(owner, conversation_id)
    left_out: tuple[str, ...] = ()
    head_id = None if limit_characters is None else stores.paths.head(owner, conversation_id)
    if limit_characters is None or head_id is None:
        path = stores.messages.read(owner, conversation_id).messages
    else:
        _, path, left_out = _end_of(stores, owner, head_id, limit_characters)
    waiting = stores.files.waiting(owner, conversation_id)
    if text.strip() or waiting or new:
        shown = tuple(StoredImage(image.kind, key) for key, image in new.items())
        path = (*path, MessageRecord(UNSENT, conversation_id, None, "user", text, 0.0, 0.0, images=shown, files=waiting))
    unsent = {key: image.file for key, image in new.items()}
    return replace(_made(stores, owner, conversation_id, path, stored_settings(found.settings), unsent), left_out=len(left_out))


def _end_of(stores: Stores, owner: str, message_id: str, limit_characters: int) -> tuple[str, tuple[MessageRecord, ...], tuple[str, ...]]:
    """The conversation of a message, the path to it without the oldest turns that have no room, and the ids of the messages of those."""

    def enough(tail: PathTail) -> bool:
        start = _start(tail.records, limit_characters)
        gone = [(each.role, each.pinned) for each in tail.before] + [(each.role, each.pinned) for each in tail.records[:start]]
        return start > 0 and not any(pinned or (role == "system" and place) for place, (role, pinned) in enumerate(gone))

    tail = stores.paths.tail(owner, message_id, enough)
    records = tail.records
    conversation_id = records[-1].conversation_id
    if not tail.before:
        return conversation_id, records, ()
    start = _start(records, limit_characters)
    first = [stores.messages.message(owner, link.id) for link in tail.before[:1] if link.role == "system"]
    gone = (*(link.id for link in tail.before[len(first) :]), *(record.id for record in records[:start]))
    return conversation_id, (*first, *records[start:]), gone


def _start(records: Sequence[MessageRecord], limit_characters: int) -> int:
    """Where a path may begin because what is said from there on has no room already: at a question behind an answer, with which no other is joined; else 0."""
    said = [_said(record) for record in records]
    for place in range(1, len(records)):
        if records[place].role == "user" and records[place - 1].role == "assistant" and said[place - 1]:
            return place if sum(map(len, said[place:])) > limit_characters else 0
    return 0


def _told(record: MessageRecord) -> str:
    """What a message says, as far as it is known without its documents."""
    said = _said(record)
    return SEPARATOR.join([*(f"Attached file “{file.name}”" for file in record.files), *([spoken(record.speaker, said)] if said else [])])


def _said(record: MessageRecord) -> str:
    return (without_thinking(record.content) if record.role == "assistant" else record.content).strip()


def _made(
    stores: Stores, owner: str, conversation_id: str, whole: tuple[MessageRecord, ...], settings: ConversationSettings, unsent: Mapping[str, bytes] = NO_IMAGES
) -> PromptMaterial:
    shortened = summarised_path(whole, settings.summary_until) if settings.summary.strip() else None
    path = whole if shortened is None else shortened
    images = {**stores.messages.image_files(owner, conversation_id, path), **unsent}
    total_bytes = sum(len(images[image.hash]) for record in path for image in record.images)
    if total_bytes > IMAGES_IN_PROMPT_BYTES:
        raise InvalidRequest(
            f"The images of this conversation have {total_bytes >> 20} MiB; {IMAGES_IN_PROMPT_BYTES >> 20} MiB can be looked at for one reply. "
            "Go on in a new conversation.",
            field="images",
        )
    files = tuple(file for record in path for file in record.files)
    texts = stores.files.texts(owner, conversation_id, files)
    summary = settings.summary if shortened is not None else ""
    parts = with_summary(prompt_parts(path, settings.system_prompt, images, texts), summary)
    return PromptMaterial(parts, files, texts, {record.id: record for record in path}, summary)
