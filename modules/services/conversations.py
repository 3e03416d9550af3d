"""Conversations for the page and the API: asynchronous, with checked settings and news for other tabs.

The store works in threads (see storage.py), so nothing here blocks the event loop. Knows no model and no HTML.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modules.core.errors import Conflict, InvalidRequest, NotFound
from modules.core.messages import Image, Message
from modules.services.conversation_branches import branched
from modules.services.conversation_files import TITLE_LIMIT, exported, imported, new_images, title_from
from modules.services.conversation_news import ConversationChange, ConversationNews, Subscription
from modules.services.conversation_paths import ConversationPaths
from modules.services.conversation_settings import (
    ConversationSettings,
    Values,
    Within,
    edited,
    settings_from,
    stored_settings,
)
from modules.services.kept_prompts import KeptPrompts
from modules.services.prompt_material import PromptMaterial, material_of, unsent_material
from modules.services.storage import Storage, Stores
from modules.store.records import (
    ConversationSummary,
    MessageRecord,
    MessageStatus,
    NewMessage,
    Outline,
    Rating,
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
TAG_LIMIT, TAG_LENGTH_LIMIT = 20, 40
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
        self._storage = storage
        self._news = ConversationNews()
        self.paths = ConversationPaths(storage)
        self.prompts = KeptPrompts(storage)

    def subscribe(self, conversation_id: str) -> Subscription:
        """Follow a conversation: its tree, title, settings or end; close the subscription when done."""
        return self._news.subscribe(conversation_id)

    def tell(self, conversation_id: str, *message_ids: str) -> None:
        """Have the followers of a conversation read these messages again, or all of it: a finished message begins to grow, others are back from the bin."""
        self._news.publish(conversation_id, "tree", message_ids=message_ids or None)

    # ---- conversations ---------------------------------------------------------------------------------------------

    async def list(
        self, owner: str, search: str = "", *, tag: str = "", character: str = "", before: str = "", limit: int = 0
    ) -> tuple[ConversationSummary, ...]:
        """Pinned first, then newest first; with `search` those that have every word in title or messages.

        Args:
            owner: whose.
            search: what they must have.
            tag: a tag that they must have.
            character: the character that they must have.
            before: the key of one of them: only what comes after it.
            limit: at most so many; 0 means all.

        Raises:
            InvalidRequest: `before` is no such key.
        """
        return await self._storage.run(lambda stores: stores.conversations.list(owner, search, tag=tag, character=character, before=before, limit=limit))

    async def summary(self, owner: str, conversation_id: str) -> ConversationSummary:
        """The line of one conversation in the list."""
        return await self._storage.of(conversation_id).run(lambda stores: stores.conversations.summary(owner, conversation_id))

    async def tags(self, owner: str) -> dict[str, int]:
        """The tags in use and how many conversations have each, the most used first."""
        return await self._storage.run(lambda stores: stores.conversations.tags(owner))

    async def characters(self, owner: str) -> dict[str, int]:
        """The characters in use and how many conversations have each, the most used first."""
        return await self._storage.run(lambda stores: stores.conversations.characters(owner))

    async def create(self, owner: str, settings: Mapping[str, Any] | None = None) -> str:
        """The id of an empty conversation; the newest one when it is still untouched.

        Raises:
            InvalidRequest: a setting outside its limits.
        """
        values = settings_from(settings or {}).model_dump(mode="json")
        return await self._storage.run(lambda stores: stores.conversations.create(owner, values))

    async def read(self, owner: str, conversation_id: str) -> ConversationRecord:
        """A conversation with the path shown.

        Raises:
            NotFound: there is none, or it is another owner's; so for every verb.
        """
        found = await self._storage.of(conversation_id).run(lambda stores: stores.messages.read(owner, conversation_id))
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

    async def rename(self, owner: str, conversation_id: str, title: str, rev: int | None = None, *, instead_of: str = "") -> None:
        """Give a title that stays, any text that is not empty; `instead_of`: one that takes the place of this one, unless a person gave it.

        Raises:
            InvalidRequest: empty or too long.
            Conflict: the conversation was changed since `rev`; so for every verb that takes it.
        """
        cleaned = " ".join(title.split())
        if not 0 < len(cleaned) <= TITLE_LIMIT:
            raise InvalidRequest(f"A title needs 1 to {TITLE_LIMIT} characters; this one has {len(cleaned)}.", field="title")
        if await self._storage.of(conversation_id).run(lambda stores: stores.conversations.rename(owner, conversation_id, cleaned, rev, instead_of=instead_of)):
            self._news.publish(conversation_id, "title", cleaned)

    async def pin(self, owner: str, conversation_id: str, pinned: bool) -> None:
        """Keep on top of the list, or no longer."""
        await self._storage.of(conversation_id).run(lambda stores: stores.conversations.pin(owner, conversation_id, pinned))

    async def tag(self, owner: str, conversation_id: str, tags: Sequence[str]) -> None:
        """Replace the tags.

        Raises:
            InvalidRequest: too many, or one is too long.
        """
        cleaned = checked_tags(tags)
        await self._storage.of(conversation_id).run(lambda stores: stores.conversations.tag(owner, conversation_id, cleaned))

    async def update_settings(self, owner: str, conversation_id: str, values: Values, rev: int | None = None, within: Within = None) -> ConversationSettings:
        """Replace the named settings, leave the others; of those in `within` single entries change. The settings as they are then.

        Raises:
            InvalidRequest: an unknown name or a value outside its limits.
        """
        settings, changed = await self._storage.of(conversation_id).run(lambda stores: _update_settings(stores, owner, conversation_id, (values, within), rev))
        if changed:
            self._news.publish(conversation_id, "settings")
        return settings

    async def delete(self, owner: str, conversation_id: str) -> str:
        """Put a conversation into the bin with all its messages; the id it has there."""
        bin_id = await self._storage.of(conversation_id).run(lambda stores: stores.conversations.delete(owner, conversation_id))
        self._news.publish(conversation_id, "deleted")
        return bin_id

    async def export(self, owner: str, conversation_id: str) -> dict[str, Any]:
        """The whole tree as plain values, for a JSON file."""
        return await self._storage.of(conversation_id).run(lambda stores: _exported(stores, owner, conversation_id))

    async def import_(self, owner: str, values: Mapping[str, Any]) -> str:
        """Store the content of an exported file as a new conversation; its id.

        Raises:
            InvalidRequest: not a conversation; the sentence says why.
        """
        new = imported(values)
        return await self._storage.run(lambda stores: stores.messages.insert_tree(owner, new))

    # ---- messages --------------------------------------------------------------------------------------------------

    async def message(self, owner: str, message_id: str, conversation_id: str = "") -> MessageRecord:
        """One message with its versions.

        Raises:
            NotFound: there is none, or it is not of the conversation that was named.
        """
        found = await self._storage.of(message_id).run(lambda stores: stores.messages.message(owner, message_id))
        if conversation_id and found.conversation_id != conversation_id:
            raise NotFound("This message belongs to another conversation; reload the page.")
        return found

    async def outline(self, owner: str, conversation_id: str) -> Outline:
        """The map of a conversation: all messages with their beginnings."""
        return await self._storage.of(conversation_id).run(lambda stores: stores.messages.outline(owner, conversation_id))

    async def message_text(self, owner: str, message_id: str) -> str:
        """The text of a message as it was written."""
        return (await self.message(owner, message_id)).content

    async def messages_for_prompt(self, owner: str, message_id: str) -> tuple[Message, ...]:
        """What a model gets to see to answer (or continue) a message: system prompt, then the path to it."""
        return tuple(part.message for part in (await self.prompt_material(owner, message_id)).parts)

    async def prompt_material(self, owner: str, message_id: str, limit_characters: int | None = None) -> PromptMaterial:
        """The same with what it was made of; with a limit only as much of the path as there can be room for.

        Raises:
            InvalidRequest: more of images than can be looked at for one reply.
        """
        return await self._storage.of(message_id).run(lambda stores: material_of(stores, owner, message_id, limit_characters))

    async def unsent_material(
        self, owner: str, conversation_id: str, text: str, images: Sequence[Image] = (), limit_characters: int | None = None
    ) -> PromptMaterial:
        """What a model would get to see if a text and images were sent now, with the documents that wait; with a limit as above."""
        return await self._storage.of(conversation_id).run(
            lambda stores: unsent_material(stores, owner, conversation_id, text, images, limit_characters=limit_characters)
        )

    async def pin_message(self, owner: str, message_id: str, pinned: bool) -> None:
        """Keep a message in the prompt when older ones are left out, or no longer."""
        conversation_id = await self._storage.of(message_id).run(lambda stores: stores.messages.pin(owner, message_id, pinned))
        self.tell(conversation_id, message_id)

    async def image(self, owner: str, message_id: str, place: int) -> tuple[str, bytes]:
        """Kind and file of an image of a message."""
        found, file = await self._storage.of(message_id).run(lambda stores: stores.messages.image(owner, message_id, place))
        return found.kind, file

    async def append(  # noqa: PLR0913 - all that a new message can have
        self,
        owner: str,
        conversation_id: str,
        parent_id: str | None,
        role: str,
        content: str,
        *,
        status: MessageStatus = "complete",
        images: Sequence[Image] = (),
        files: Sequence[str] = (),
    ) -> MessageRecord:
        """Add a message below another one (None: a first message) and show it; the first user message gives the title.

        `files` are the ids of attachments that wait in the conversation (attachments.py); they are the message's from now on.

        Raises:
            InvalidRequest: no such role, or an image that is not in base64.
            NotFound: an attachment waits no longer.
        """
        if role not in ROLES:
            raise InvalidRequest(f"“{role[:40]}” is no role of a message; use {', '.join(ROLES)}.", field="role")
        new = NewMessage(role, content, None, time.time(), status=status, images=new_images(images), files=tuple(files))
        auto_title = title_from(content) if role == "user" else ""
        message, title = await self._storage.of(conversation_id).run(
            lambda stores: stores.messages.append(owner, conversation_id, parent_id, new, auto_title=auto_title)
        )
        self.tell(conversation_id, message.id)
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
        """Add what a person made of a message as another version, and show it; what followed stays with the old one."""
        new = NewMessage("", content, None, time.time(), model=model, status=status)
        message = await self._storage.of(message_id).run(lambda stores: stores.messages.add_version(owner, message_id, new, rev))
        self.tell(message.conversation_id, message.id)
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
        await self._storage.of(message_id).run(lambda stores: stores.messages.save(owner, message_id, values))

    async def select_version(self, owner: str, message_id: str, rev: int | None = None) -> None:
        """Show a version, and of what follows it the newest."""
        conversation_id, _ = await self._storage.of(message_id).run(lambda stores: stores.messages.select(owner, message_id, rev))
        self._news.publish(conversation_id, "tree")

    async def rate(self, owner: str, message_id: str, rating: Rating) -> None:
        """Find a reply good (1) or bad (-1), or take that back (0). The conversation keeps its place in the list.

        Raises:
            InvalidRequest: it is no reply.
        """
        conversation_id = await self._storage.of(message_id).run(lambda stores: stores.messages.rate(owner, message_id, rating))
        self.tell(conversation_id, message_id)

    async def delete_message(self, owner: str, message_id: str, rev: int | None = None) -> str:
        """Put a message and all that follow it into the bin; shown is then its nearest version, or what came before. The id in the bin."""
        conversation_id, bin_id = await self._storage.of(message_id).run(lambda stores: stores.messages.delete(owner, message_id, rev))
        self.tell(conversation_id, message_id)
        return bin_id

    async def branch(self, owner: str, message_id: str) -> str:
        """Copy the history up to a message into a new conversation; its id."""
        return await self._storage.of(message_id).run(lambda stores: _branch(stores, owner, message_id))


def checked_tags(tags: Sequence[str]) -> tuple[str, ...]:
    """Tags as they are kept: without # and doubled spaces, each once.

    Raises:
        InvalidRequest: too many, or one is too long.
    """
    cleaned = {tag.casefold(): tag for words in tags if (tag := " ".join(words.split()).lstrip("#").strip())}
    if len(cleaned) > TAG_LIMIT:
        raise InvalidRequest(f"A conversation can have {TAG_LIMIT} tags; these are {len(cleaned)}.", field="tags")
    for tag in cleaned.values():
        if len(tag) > TAG_LENGTH_LIMIT:
            raise InvalidRequest(f"A tag can have {TAG_LENGTH_LIMIT} characters; “{tag[:TAG_LENGTH_LIMIT]}…” has {len(tag)}.", field="tags")
    return tuple(cleaned.values())


def _update_settings(stores: Stores, owner: str, conversation_id: str, edits: tuple[Values, Within], rev: int | None) -> tuple[ConversationSettings, bool]:
    """Merge and store; when another change comes between reading and writing, once more on top of that one."""
    for _ in range(SETTINGS_TRIES):
        found = stores.conversations.read(owner, conversation_id)
        if rev is not None and rev != found.rev:
            break
        before = stored_settings(found.settings)
        after = settings_from(edited(before.model_dump(), *edits))
        if after == before:
            return after, False
        try:
            stores.conversations.change_settings(owner, conversation_id, after.model_dump(mode="json"), found.rev)
        except Conflict:
            continue
        return after, True
    raise Conflict("This conversation was changed in another window meanwhile; look at it again and repeat.")


def _exported(stores: Stores, owner: str, conversation_id: str) -> dict[str, Any]:
    found = stores.messages.read_all(owner, conversation_id)
    texts = stores.files.texts(owner, conversation_id, (file for message in found.messages for file in message.files))
    return exported(found, stores.messages.image_files(owner, conversation_id, found.messages), texts)


def _branch(stores: Stores, owner: str, message_id: str) -> str:
    return stores.messages.insert_tree(owner, branched(*stores.messages.path(owner, message_id)))
