"""Messages as a tree: branch, version and edit are the same thing, a message beside another one.

The head of a conversation is the last message of the path shown; it always is a message nothing shown follows. Each change is one
transaction, and each call names the owner.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from modules.core.errors import InvalidRequest, NotFound
from modules.store.conversations import (
    batches,
    change,
    conversation_of,
    insert_conversation,
    into_bin,
    new_id,
    owned,
)
from modules.store.database import Database
from modules.store.files import files_of, put_files
from modules.store.images import ID_BATCH, file_of, images_of, put_images
from modules.store.message_rows import owned_message, record_of, record_with, records_of, tree_of
from modules.store.prompts import put_prompts
from modules.store.records import (
    MessageRecord,
    NewConversation,
    NewMessage,
    NewPrompt,
    Outline,
    OutlineRow,
    Rating,
    StoredConversation,
    StoredImage,
)
from modules.store.schema import conversations, messages
from modules.store.tree import MessageTree

BIN_TITLE_CUT = 120
BEGINNING = 400  # characters of a text on the map
UNFINISHED = " unfinished"  # owner of what is being brought in
BATCH_CHARACTERS = 4_000_000  # of messages that are stored together
INTERRUPTED = "The server stopped while this was being written; the text so far was kept."


class MessageStore:
    """Messages of conversations."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def recover(self) -> int:
        """Mark what was being written when the server died as stopped; how many messages that were. What was being brought in is gone."""
        with self._database.write() as connection:
            connection.execute(delete(conversations).where(conversations.c.owner == UNFINISHED))
            done = connection.execute(
                update(messages).where(messages.c.status == "streaming").values(status="stopped", error=INTERRUPTED)
            )
            return done.rowcount

    # ---- reading ---------------------------------------------------------------------------------------------------

    def read(self, owner: str, conversation_id: str) -> StoredConversation:
        """A conversation with the path shown."""
        with self._database.read() as connection:
            row = owned(connection, owner, conversation_id)
            tree = tree_of(connection, conversation_id)
            head_id = row.head_id if row.head_id in tree else tree.newest_leaf()
            return replace(conversation_of(row), messages=_path(connection, tree, head_id))

    def read_all(self, owner: str, conversation_id: str) -> StoredConversation:
        """A conversation with all its messages, oldest first."""
        query = select(messages).where(messages.c.conversation_id == conversation_id, messages.c.bin_id.is_(None)).order_by(messages.c.position)
        with self._database.read() as connection:
            found = conversation_of(owned(connection, owner, conversation_id))
            rows = connection.execute(query).all()
            ids = [row.id for row in rows]
            images, files = images_of(connection, ids), files_of(connection, ids)
            return replace(found, messages=tuple(record_with(row, (), images.get(row.id, ()), files.get(row.id, ())) for row in rows))

    def outline(self, owner: str, conversation_id: str) -> Outline:
        """All messages of a conversation with the beginnings of their texts."""
        beginning = func.substr(messages.c.content, 1, BEGINNING)
        query = select(messages.c.id, messages.c.parent_id, messages.c.role, beginning.label("beginning"), messages.c.rating)
        with self._database.read() as connection:
            row = owned(connection, owner, conversation_id)
            alive = query.where(messages.c.conversation_id == conversation_id, messages.c.bin_id.is_(None)).order_by(messages.c.position)
            rows = tuple(OutlineRow(*found) for found in connection.execute(alive))
            tree = MessageTree((found.id, found.parent_id) for found in rows)
            return Outline(rows, tuple(tree.path(row.head_id if row.head_id in tree else tree.newest_leaf())))

    def message(self, owner: str, message_id: str) -> MessageRecord:
        """One message.

        Raises:
            NotFound: there is none, or it is another owner's.
        """
        with self._database.read() as connection:
            return record_of(connection, owned_message(connection, owner, message_id))

    def path(self, owner: str, message_id: str) -> tuple[StoredConversation, tuple[MessageRecord, ...]]:
        """The conversation of a message, and the messages from the first one to it."""
        with self._database.read() as connection:
            row = owned_message(connection, owner, message_id)
            tree = tree_of(connection, row.conversation_id)
            found = conversation_of(owned(connection, owner, row.conversation_id))
            return found, _path(connection, tree, message_id)

    def image(self, owner: str, message_id: str, place: int) -> tuple[StoredImage, bytes]:
        """An image of a message with its file.

        Raises:
            NotFound: there is none, or it is another owner's.
        """
        with self._database.read() as connection:
            owned_message(connection, owner, message_id)
            found = images_of(connection, [message_id]).get(message_id, ())
            if not 0 <= place < len(found):
                raise NotFound("There is no such image; its message may have been deleted. Reload the conversation.")
            return found[place], file_of(connection, found[place].hash) or b""

    def image_files(self, owner: str, conversation_id: str, records: Iterable[MessageRecord]) -> dict[str, bytes]:
        """The files of the images of messages of a conversation, by their hashes."""
        with self._database.read() as connection:
            owned(connection, owner, conversation_id)
            own = [record.images for record in records if record.conversation_id == conversation_id]
            hashes = dict.fromkeys(image.hash for images in own for image in images)
            return {key: file for key in hashes if (file := file_of(connection, key)) is not None}

    # ---- writing ---------------------------------------------------------------------------------------------------

    def append(
        self, owner: str, conversation_id: str, parent_id: str | None, new: NewMessage, *, auto_title: str = "", rev: int | None = None
    ) -> tuple[MessageRecord, str]:
        """Add a message below `parent_id` (None: a first message) and show it; also the new title, if it gave one.

        Args:
            owner: whose conversation it is.
            conversation_id: where it is added.
            parent_id: the message it follows.
            new: what is added; its `parent` is not used.
            auto_title: title of a conversation that has none yet and no other message of this role.
            rev: the revision the caller saw, if that matters.

        Raises:
            NotFound: no such conversation, or no such message in it.
            Conflict: the conversation was changed since `rev`.
        """
        with self._database.write() as connection:
            row = owned(connection, owner, conversation_id, rev)
            if parent_id is not None:
                parent = owned_message(connection, owner, parent_id)
                if parent.conversation_id != conversation_id:
                    raise NotFound("The message to follow belongs to another conversation; reload the page.")
            title = auto_title if row.title_is_auto and not _has_role(connection, conversation_id, new.role) else ""
            message_id = _insert(connection, conversation_id, parent_id, new)
            values = {"title": title} if title else {}
            change(connection, conversation_id, head_id=message_id, updated_s=time.time(), **values)
            return record_of(connection, owned_message(connection, owner, message_id)), title

    def add_version(self, owner: str, message_id: str, new: NewMessage, rev: int | None = None) -> MessageRecord:
        """Add what a person made of a message beside it, in its role and with its images, and show it."""
        with self._database.write() as connection:
            row = owned_message(connection, owner, message_id)
            owned(connection, owner, row.conversation_id, rev)
            images = images_of(connection, [message_id]).get(message_id, ())
            files = files_of(connection, [message_id]).get(message_id, ())
            kept = replace(new, role=row.role, speaker=row.speaker, pinned=row.pinned, images=images, files=files, edited_from=message_id)
            added_id = _insert(connection, row.conversation_id, row.parent_id, kept)
            change(connection, row.conversation_id, head_id=added_id, updated_s=time.time())
            return record_of(connection, owned_message(connection, owner, added_id))

    def save(self, owner: str, message_id: str, values: dict[str, Any]) -> str:
        """Set columns of a message that is being written; the id of its conversation.

        The revision stays: a text that grows is no change that could be in anybody's way.
        """
        now_s = time.time()
        with self._database.write() as connection:
            row = owned_message(connection, owner, message_id)
            connection.execute(update(messages).where(messages.c.id == message_id).values(updated_s=now_s, **values))
            if values.get("status", row.status) != "streaming":
                connection.execute(update(conversations).where(conversations.c.id == row.conversation_id).values(updated_s=now_s))
            return str(row.conversation_id)

    def rate(self, owner: str, message_id: str, rating: Rating) -> str:
        """Find a reply good or bad, or neither; the id of its conversation, whose revision and place in the list stay.

        Raises:
            InvalidRequest: it is no reply.
        """
        with self._database.write() as connection:
            row = owned_message(connection, owner, message_id)
            if row.role != "assistant":
                raise InvalidRequest("Only a reply can be rated; choose one.", field="message_id")
            connection.execute(update(messages).where(messages.c.id == message_id).values(rating=rating))
            return str(row.conversation_id)

    def pin(self, owner: str, message_id: str, pinned: bool) -> str:
        """Keep a message in the prompt when others are left out, or no longer; the id of its conversation."""
        with self._database.write() as connection:
            row = owned_message(connection, owner, message_id)
            connection.execute(update(messages).where(messages.c.id == message_id).values(pinned=pinned))
            return str(row.conversation_id)

    def select(self, owner: str, message_id: str, rev: int | None = None) -> tuple[str, str]:
        """Show the path through a message to the newest one below it; ids of the conversation and of the new head."""
        with self._database.write() as connection:
            row = owned_message(connection, owner, message_id)
            owned(connection, owner, row.conversation_id, rev)
            head_id = tree_of(connection, row.conversation_id).newest_leaf(message_id) or message_id
            change(connection, row.conversation_id, head_id=head_id)
            return str(row.conversation_id), head_id

    def delete(self, owner: str, message_id: str, rev: int | None = None) -> tuple[str, str]:
        """Put a message and all that follow it in every branch into the bin; ids of the conversation and of the row in the bin."""
        with self._database.write() as connection:
            row = owned_message(connection, owner, message_id)
            conversation = owned(connection, owner, row.conversation_id, rev)
            tree = tree_of(connection, row.conversation_id)
            head_id = tree.head_without(message_id, conversation.head_id)
            bin_id = into_bin(connection, conversation, "message", " ".join(row.content[:BIN_TITLE_CUT].split()))
            for batch in batches(tree.below(message_id)):
                connection.execute(update(messages).where(messages.c.id.in_(batch)).values(bin_id=bin_id))
            change(connection, row.conversation_id, head_id=head_id)
            return str(row.conversation_id), bin_id

    def insert_tree(self, owner: str, new: NewConversation) -> str:
        """Store a whole conversation under new ids; its id. One whose messages are made as they are taken is nobody's until all are there: others write between them.

        Raises:
            InvalidRequest: a message follows one that does not come before it.
        """
        ids: list[str] = []
        if isinstance(new.messages, Sequence):
            with self._database.write() as connection:
                conversation_id = insert_conversation(connection, owner, new)
                for some in _in_batches(new.messages):
                    _insert_placed(connection, conversation_id, ids, some)
                _finish(connection, conversation_id, owner, ids, new)
                return conversation_id
        with self._database.write() as connection:
            conversation_id = insert_conversation(connection, UNFINISHED, new)
        try:
            for some in _in_batches(new.messages):
                with self._database.write() as connection:
                    _insert_placed(connection, conversation_id, ids, some)
            with self._database.write() as connection:
                _finish(connection, conversation_id, owner, ids, new)
        except BaseException:
            with self._database.write() as connection:
                connection.execute(delete(conversations).where(conversations.c.id == conversation_id))
            raise
        return conversation_id


# ---- rows ----------------------------------------------------------------------------------------------------------


def _path(connection: Connection, tree: MessageTree, message_id: str | None) -> tuple[MessageRecord, ...]:
    """The messages from the first one to this."""
    path = tree.path(message_id)
    return records_of(connection, path, {found: tree.versions(found) for found in path})


def _has_role(connection: Connection, conversation_id: str, role: str) -> bool:
    query = select(messages.c.id).where(messages.c.conversation_id == conversation_id, messages.c.role == role, messages.c.bin_id.is_(None)).limit(1)
    return connection.execute(query).first() is not None


def _insert(connection: Connection, conversation_id: str, parent_id: str | None, new: NewMessage) -> str:
    row = _row(conversation_id, parent_id, new)
    connection.execute(insert(messages), [row])
    put_images(connection, [(row["id"], new.images)])
    put_files(connection, conversation_id, [(row["id"], new.files)])
    return str(row["id"])


def _in_batches(new: Iterable[NewMessage]) -> Iterator[list[NewMessage]]:
    """As many as one statement takes well; long texts, images and files are in memory with the last of them only."""
    some: list[NewMessage] = []
    characters = 0
    for message in new:
        some.append(message)
        characters += len(message.content) + (sum(map(len, message.prompt.texts.values())) if isinstance(message.prompt, NewPrompt) else 0)
        if len(some) == ID_BATCH or characters > BATCH_CHARACTERS or message.images or message.files:
            yield some
            some, characters = [], 0
    if some:
        yield some


def _insert_placed(connection: Connection, conversation_id: str, ids: list[str], some: Sequence[NewMessage]) -> None:
    """Store messages of a tree; their ids join those of the messages before them."""
    rows = [_placed_row(conversation_id, ids, message) for message in some]
    connection.execute(insert(messages), rows)
    put_images(connection, ((row["id"], message.images) for row, message in zip(rows, some, strict=True)))
    put_files(connection, conversation_id, ((row["id"], message.files) for row, message in zip(rows, some, strict=True)))
    put_prompts(connection, ((row["id"], message.prompt) for row, message in zip(rows, some, strict=True)))


def _finish(connection: Connection, conversation_id: str, owner: str, ids: Sequence[str], new: NewConversation) -> None:
    """Say what needs the ids of all messages, and whose conversation it is."""
    values: dict[str, Any] = {"owner": owner}
    if ids:
        values["head_id"] = ids[-1 if new.head is None else new.head]
    if ids and new.places_in_settings:
        values["settings"] = new.settings | {name: ids[place] for name, place in new.places_in_settings.items()}
    connection.execute(update(conversations).where(conversations.c.id == conversation_id).values(**values))


def _placed_row(conversation_id: str, ids: list[str], message: NewMessage) -> dict[str, Any]:
    """A message of a tree under a new id, which joins those of the messages before it."""
    place = len(ids)
    if message.parent is not None and not 0 <= message.parent < place:
        raise InvalidRequest(f"Message {place + 1} follows one that does not come before it.", field="messages")
    original = message.edited_from
    edited_from = ids[original] if isinstance(original, int) else original
    row = _row(conversation_id, None if message.parent is None else ids[message.parent], replace(message, edited_from=edited_from))
    ids.append(row["id"])
    return row


def _row(conversation_id: str, parent_id: str | None, new: NewMessage) -> dict[str, Any]:
    """A message under a new id, column by column."""
    return {
        "id": new_id(conversation_id),
        "conversation_id": conversation_id,
        "parent_id": parent_id,
        "role": new.role,
        "content": new.content,
        "created_s": new.created_s,
        "updated_s": new.created_s,
        "model": new.model,
        "status": new.status,
        "error": new.error,
        "receipt": new.receipt,
        "rating": new.rating,
        "edited_from": new.edited_from,
        "pinned": new.pinned,
        "speaker": new.speaker,
    }
