"""What a prompt of the chat is made of, as it is stored: the path to a message with its images and documents, and what is not sent yet."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from modules.core.errors import InvalidRequest
from modules.core.messages import Image
from modules.services.conversation_files import new_images
from modules.services.conversation_prompt import PromptPart, prompt_parts, summarised_path, with_summary
from modules.services.conversation_settings import ConversationSettings, stored_settings
from modules.services.storage import Stores
from modules.store.records import MessageRecord, StoredFile, StoredImage

IMAGES_IN_PROMPT_BYTES = 32 << 20
NO_IMAGES: Mapping[str, bytes] = MappingProxyType({})
UNSENT = "unsent"  # id of the message that is still being typed


@dataclass(frozen=True, slots=True)
class PromptMaterial:
    """What goes into a prompt: documents by what was read from each, and stored messages in their order, by their ids."""

    parts: tuple[PromptPart, ...]
    files: tuple[StoredFile, ...]
    texts: Mapping[str, str]
    records: Mapping[str, MessageRecord]
    summary: str = ""  # that stands for the ones before them


def material_of(stores: Stores, owner: str, message_id: str) -> PromptMaterial:
    """What a model gets to see to answer (or continue) a message: system prompt, then the path to it.

    Raises:
        InvalidRequest: more of images than can be looked at for one reply.
        NotFound: there is no such message, or it is another owner's; so below.
    """
    found, path = stores.messages.path(owner, message_id)
    return _made(stores, owner, found.id, path, stored_settings(found.settings))


def unsent_material(stores: Stores, owner: str, conversation_id: str, text: str, images: Sequence[Image] = ()) -> PromptMaterial:
    """What a model would get to see if `text` and `images` were sent now, with the documents that wait.

    Raises:
        InvalidRequest: more of images than can be looked at for one reply, or one that is damaged.
    """
    new = {hashlib.sha256(image.file).hexdigest(): image for image in new_images(images)}
    found = stores.messages.read(owner, conversation_id)
    waiting = stores.files.waiting(owner, conversation_id)
    path = found.messages
    if text.strip() or waiting or new:
        shown = tuple(StoredImage(image.kind, key) for key, image in new.items())
        path = (*path, MessageRecord(UNSENT, conversation_id, None, "user", text, 0.0, 0.0, images=shown, files=waiting))
    unsent = {key: image.file for key, image in new.items()}
    return _made(stores, owner, conversation_id, path, stored_settings(found.settings), unsent)


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
