"""Conversations for the page and the API: asynchronous, with checked settings and news for other tabs.

The store works in threads (see storage.py), so nothing here blocks the event loop. Knows no model and no HTML.
"""

from __future__ import annotations

import builtins
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modules.core.errors import Conflict, InvalidRequest, NotFound
from modules.core.messages import Image, Message
from modules.services.conversation_files import TITLE_LIMIT, exported, imported, new_images, title_from
from modules.services.conversation_news import ConversationChange, ConversationNews, Subscription
from modules.services.conversation_prompt import prompt_messages
from modules.services.conversation_settings import ConversationSettings, settings_from, stored_settings
from modules.services.storage import Storage, Stores
from modules.store.records import (
    ConversationSummary,
    MessageRecord,
    MessageStatus,
    NewConversation,
    NewMessage,
    StoredConversation,
)

__all__ = [
    "ConversationChange",
    "ConversationRecord",
    "ConversationService",
    "ConversationSettings",
    "ConversationSummary",
    "MessageRecord",
    "MessageStatus",
    "Subscription",
]

SETTINGS_TRIES = 5
IMAGES_IN_PROMPT_BYTES = 32 << 20
BRANCH_MARK = " (branch)"
ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class ConversationRecord:
    """One conversation as it is shown: `messages` is the path to its head, first message first."""

    id: str
    title: str
    rev: int
    settings: ConversationSettings
    messages: tuple[MessageRecord, ...]
    pinned: bool = False
    created_s: float = 0.0
    updated_s: float = 0.0


class ConversationService:
    """All verbs on conversations. The owner is part of every call; what is another's does not exist."""

    def __init__(self, storage: Storage) -> None:
        self._run = storage.run
        self._news = ConversationNews()

    def subscribe(self, conversation_id: str) -> Subscription:
        """Follow a conversation: its tree, title, settings or end; close the subscription when done."""
        return self._news.subscribe(conversation_id)

    def tell(self, conversation_id: str) -> None:
        """Have the followers of a conversation read it again: a finished message begins to grow."""
        self._news.publish(conversation_id, "tree")

    # ---- conversations ---------------------------------------------------------------------------------------------

    async def list(self, owner: str, search: str = "") -> tuple[ConversationSummary, ...]:
        """Pinned first, then newest first; with `search` those that have every word in title or messages."""
        return await self._run(lambda stores: stores.conversations.list(owner, search))

    async def create(self, owner: str, settings: Mapping[str, Any] | None = None) -> str:
        """The id of an empty conversation; the newest one when it is still untouched.

        Raises:
            InvalidRequest: a setting outside its limits.
        """
        values = settings_from(settings or {}).model_dump(mode="json")
        return await self._run(lambda stores: stores.conversations.create(owner, values))

    async def read(self, owner: str, conversation_id: str) -> ConversationRecord:
        """A conversation with the path shown.

        Raises:
            NotFound: there is none, or it is another owner's; so for every verb.
        """
        found = await self._run(lambda stores: stores.messages.read(owner, conversation_id))
        return ConversationRecord(
            id=found.id,
            title=found.title,
            rev=found.rev,
            settings=stored_settings(found.settings),
            messages=found.messages,
            pinned=found.pinned,
            created_s=found.created_s,
            updated_s=found.updated_s,
        )

    async def rename(self, owner: str, conversation_id: str, title: str, rev: int | None = None) -> None:
        """Give a title that stays; any text that is not empty.

        Raises:
            InvalidRequest: empty or too long.
            Conflict: the conversation was changed since `rev`; so for every verb that takes it.
        """
        cleaned = " ".join(title.split())
        if not 0 < len(cleaned) <= TITLE_LIMIT:
            raise InvalidRequest(f"A title needs 1 to {TITLE_LIMIT} characters; this one has {len(cleaned)}.", field="title")
        await self._run(lambda stores: stores.conversations.rename(owner, conversation_id, cleaned, rev))
        self._news.publish(conversation_id, "title", cleaned)

    async def pin(self, owner: str, conversation_id: str, pinned: bool) -> None:
        """Keep on top of the list, or no longer."""
        await self._run(lambda stores: stores.conversations.pin(owner, conversation_id, pinned))

    async def update_settings(self, owner: str, conversation_id: str, values: Mapping[str, Any], rev: int | None = None) -> ConversationSettings:
        """Replace the named settings, leave the others; the settings as they are then.

        Raises:
            InvalidRequest: an unknown name or a value outside its limits.
        """
        settings, changed = await self._run(lambda stores: _update_settings(stores, owner, conversation_id, values, rev))
        if changed:
            self._news.publish(conversation_id, "settings")
        return settings

    async def delete(self, owner: str, conversation_id: str) -> None:
        """Delete a conversation with all its messages."""
        await self._run(lambda stores: stores.conversations.delete(owner, conversation_id))
        self._news.publish(conversation_id, "deleted")

    async def export(self, owner: str, conversation_id: str) -> dict[str, Any]:
        """The whole tree as plain values, for a JSON file."""
        return await self._run(lambda stores: _exported(stores, owner, conversation_id))

    async def import_(self, owner: str, values: Mapping[str, Any]) -> str:
        """Store the content of an exported file as a new conversation; its id.

        Raises:
            InvalidRequest: not a conversation; the sentence says why.
        """
        new = imported(values)
        return await self._run(lambda stores: stores.messages.insert_tree(owner, new))

    # ---- messages --------------------------------------------------------------------------------------------------

    async def message(self, owner: str, message_id: str, conversation_id: str = "") -> MessageRecord:
        """One message with its versions.

        Raises:
            NotFound: there is none, or it is not of the conversation that was named.
        """
        found = await self._run(lambda stores: stores.messages.message(owner, message_id))
        if conversation_id and found.conversation_id != conversation_id:
            raise NotFound("This message belongs to another conversation; reload the page.")
        return found

    async def message_text(self, owner: str, message_id: str) -> str:
        """The text of a message as it was written."""
        return (await self.message(owner, message_id)).content

    async def messages_for_prompt(self, owner: str, message_id: str) -> tuple[Message, ...]:
        """What a model gets to see to answer (or continue) a message: system prompt, then the path to it."""
        found, path, files = await self._run(lambda stores: _path_with_files(stores, owner, message_id))
        total_bytes = sum(len(files[image.hash]) for record in path for image in record.images)
        if total_bytes > IMAGES_IN_PROMPT_BYTES:
            raise InvalidRequest(
                f"The images of this conversation have {total_bytes >> 20} MiB; {IMAGES_IN_PROMPT_BYTES >> 20} MiB can be looked at for one reply. "
                "Go on in a new conversation.",
                field="images",
            )
        return prompt_messages(path, stored_settings(found.settings).system_prompt, files)

    async def image(self, owner: str, message_id: str, place: int) -> tuple[str, bytes]:
        """Kind and file of an image of a message."""
        found, file = await self._run(lambda stores: stores.messages.image(owner, message_id, place))
        return found.kind, file

    async def append(
        self,
        owner: str,
        conversation_id: str,
        parent_id: str | None,
        role: str,
        content: str,
        *,
        status: MessageStatus = "complete",
        images: Sequence[Image] = (),
    ) -> MessageRecord:
        """Add a message below another one (None: a first message) and show it; the first user message gives the title.

        Raises:
            InvalidRequest: no such role, or an image that is not in base64.
        """
        if role not in ROLES:
            raise InvalidRequest(f"“{role[:40]}” is no role of a message; use {', '.join(ROLES)}.", field="role")
        new = NewMessage(role, content, None, time.time(), status=status, images=new_images(images))
        auto_title = title_from(content) if role == "user" else ""
        message, title = await self._run(
            lambda stores: stores.messages.append(owner, conversation_id, parent_id, new, auto_title=auto_title)
        )
        self._news.publish(conversation_id, "tree")
        if title:
            self._news.publish(conversation_id, "title", title)
        return message

    async def add_version(
        self,
        owner: str,
        message_id: str,
        content: str,
        *,
        status: MessageStatus = "complete",
        model: str = "",
        rev: int | None = None,
    ) -> MessageRecord:
        """Add another version of a message, in its role, and show it; what followed stays with the old one."""
        new = NewMessage("", content, None, time.time(), model=model, status=status)
        message = await self._run(lambda stores: stores.messages.add_version(owner, message_id, new, rev))
        self._news.publish(message.conversation_id, "tree")
        return message

    async def save_reply(
        self,
        owner: str,
        message_id: str,
        *,
        content: str,
        status: MessageStatus,
        model: str = "",
        receipt: Mapping[str, Any] | None = None,
        error: str = "",
    ) -> None:
        """Save a message that is being written; on disk when this returns. No news is sent and the revision stays."""
        values = {"content": content, "status": status, "model": model, "receipt": dict(receipt) if receipt else None, "error": error}
        await self._run(lambda stores: stores.messages.save(owner, message_id, values))

    async def select_version(self, owner: str, message_id: str, rev: int | None = None) -> None:
        """Show a version, and of what follows it the newest."""
        conversation_id, _ = await self._run(lambda stores: stores.messages.select(owner, message_id, rev))
        self._news.publish(conversation_id, "tree")

    async def delete_message(self, owner: str, message_id: str, rev: int | None = None) -> None:
        """Delete a message and all that follow it; shown is then its nearest version, or what came before."""
        conversation_id = await self._run(lambda stores: stores.messages.delete(owner, message_id, rev))
        self._news.publish(conversation_id, "tree")

    async def branch(self, owner: str, message_id: str) -> str:
        """Copy the history up to a message into a new conversation; its id."""
        return await self._run(lambda stores: _branch(stores, owner, message_id))


def _update_settings(
    stores: Stores, owner: str, conversation_id: str, values: Mapping[str, Any], rev: int | None
) -> tuple[ConversationSettings, bool]:
    """Merge and store; when another change comes between reading and writing, once more on top of that one."""
    for _ in range(SETTINGS_TRIES):
        found = stores.conversations.read(owner, conversation_id)
        if rev is not None and rev != found.rev:
            break
        before = stored_settings(found.settings)
        after = settings_from({**before.model_dump(), **values})
        if after == before:
            return after, False
        try:
            stores.conversations.change_settings(owner, conversation_id, after.model_dump(mode="json"), found.rev)
        except Conflict:
            continue
        return after, True
    raise Conflict("This conversation was changed in another window meanwhile; look at it again and repeat.")


def _path_with_files(stores: Stores, owner: str, message_id: str) -> tuple[StoredConversation, tuple[MessageRecord, ...], dict[str, bytes]]:
    found, path = stores.messages.path(owner, message_id)
    return found, path, stores.messages.image_files(owner, found.id, path)


def _exported(stores: Stores, owner: str, conversation_id: str) -> dict[str, Any]:
    found = stores.messages.read_all(owner, conversation_id)
    return exported(found, stores.messages.image_files(owner, conversation_id, found.messages))


def _branch(stores: Stores, owner: str, message_id: str) -> str:
    found, path = stores.messages.path(owner, message_id)
    messages: builtins.list[NewMessage] = []
    for place, record in enumerate(path):
        growing = record.status == "streaming"
        messages.append(
            NewMessage(
                role=record.role,
                content=record.content,
                parent=place - 1 if place else None,
                created_s=record.created_s,
                model=record.model,
                status="stopped" if growing else record.status,
                error=record.error,
                receipt=record.receipt,
                images=record.images,
            )
        )
    title = found.title.removesuffix(BRANCH_MARK)[: TITLE_LIMIT - len(BRANCH_MARK)] + BRANCH_MARK
    return stores.messages.insert_tree(owner, NewConversation(title, found.settings, tuple(messages)))
