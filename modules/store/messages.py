"""Messages as a tree: branch, version and edit are the same thing, a message beside another one.

The head of a conversation is the last message of the path shown; it always is a message nothing shown follows. Each change is one
transaction, and each call names the owner.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update

from modules.core.errors import InvalidRequest, NotFound
from modules.store.conversations import change, conversation_of, insert_conversation, new_id, owned
from modules.store.database import Database
from modules.store.images import ID_BATCH, file_of, images_of, put_images
from modules.store.records import (
    MessageRecord,
    MessageStatus,
    NewConversation,
    NewMessage,
    StoredConversation,
    StoredImage,
)
from modules.store.schema import conversations, messages
from modules.store.tree import MessageTree

INTERRUPTED = "The server stopped while this was being written; the text so far was kept."


class MessageStore:
    """Messages of conversations."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def recover(self) -> int:
        """Mark what was being written when the server died as stopped; how many messages that were."""
        with self._database.write() as connection:
            done = connection.execute(
                update(messages).where(messages.c.status == "streaming").values(status="stopped", error=INTERRUPTED)
            )
            return done.rowcount

    # ---- reading ---------------------------------------------------------------------------------------------------

    def read(self, owner: str, conversation_id: str) -> StoredConversation:
        """A conversation with the path shown."""
        with self._database.read() as connection:
            row = owned(connection, owner, conversation_id)
            tree = _tree(connection, conversation_id)
            head_id = row.head_id if row.head_id in tree else tree.newest_leaf()
            return replace(conversation_of(row), messages=_records(connection, tree, tree.path(head_id)))

    def read_all(self, owner: str, conversation_id: str) -> StoredConversation:
        """A conversation with all its messages, oldest first."""
        query = select(messages).where(messages.c.conversation_id == conversation_id).order_by(messages.c.position)
        with self._database.read() as connection:
            found = conversation_of(owned(connection, owner, conversation_id))
            rows = connection.execute(query).all()
            images = images_of(connection, [row.id for row in rows])
            return replace(found, messages=tuple(_record(row, (), images.get(row.id, ())) for row in rows))

    def message(self, owner: str, message_id: str) -> MessageRecord:
        """One message.

        Raises:
            NotFound: there is none, or it is another owner's.
        """
        with self._database.read() as connection:
            return _with_versions(connection, _owned_message(connection, owner, message_id))

    def path(self, owner: str, message_id: str) -> tuple[StoredConversation, tuple[MessageRecord, ...]]:
        """The conversation of a message, and the messages from the first one to it."""
        with self._database.read() as connection:
            row = _owned_message(connection, owner, message_id)
            tree = _tree(connection, row.conversation_id)
            found = conversation_of(owned(connection, owner, row.conversation_id))
            return found, _records(connection, tree, tree.path(message_id))

    def image(self, owner: str, message_id: str, place: int) -> tuple[StoredImage, bytes]:
        """An image of a message with its file.

        Raises:
            NotFound: there is none, or it is another owner's.
        """
        with self._database.read() as connection:
            _owned_message(connection, owner, message_id)
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
                parent = _owned_message(connection, owner, parent_id)
                if parent.conversation_id != conversation_id:
                    raise NotFound("The message to follow belongs to another conversation; reload the page.")
            title = auto_title if row.title_is_auto and not _has_role(connection, conversation_id, new.role) else ""
            message_id = _insert(connection, conversation_id, parent_id, new)
            values = {"title": title} if title else {}
            change(connection, conversation_id, head_id=message_id, updated_s=time.time(), **values)
            return _with_versions(connection, _owned_message(connection, owner, message_id)), title

    def add_version(self, owner: str, message_id: str, new: NewMessage, rev: int | None = None) -> MessageRecord:
        """Add a message beside another one, in its role and with its images, and show it."""
        with self._database.write() as connection:
            row = _owned_message(connection, owner, message_id)
            owned(connection, owner, row.conversation_id, rev)
            images = images_of(connection, [message_id]).get(message_id, ())
            added_id = _insert(connection, row.conversation_id, row.parent_id, replace(new, role=row.role, images=images))
            change(connection, row.conversation_id, head_id=added_id, updated_s=time.time())
            return _with_versions(connection, _owned_message(connection, owner, added_id))

    def save(self, owner: str, message_id: str, values: dict[str, Any]) -> str:
        """Set columns of a message that is being written; the id of its conversation.

        The revision stays: a text that grows is no change that could be in anybody's way.
        """
        now_s = time.time()
        with self._database.write() as connection:
            row = _owned_message(connection, owner, message_id)
            connection.execute(update(messages).where(messages.c.id == message_id).values(updated_s=now_s, **values))
            if values.get("status", row.status) != "streaming":
                connection.execute(update(conversations).where(conversations.c.id == row.conversation_id).values(updated_s=now_s))
            return str(row.conversation_id)

    def select(self, owner: str, message_id: str, rev: int | None = None) -> tuple[str, str]:
        """Show the path through a message to the newest one below it; ids of the conversation and of the new head."""
        with self._database.write() as connection:
            row = _owned_message(connection, owner, message_id)
            owned(connection, owner, row.conversation_id, rev)
            head_id = _tree(connection, row.conversation_id).newest_leaf(message_id) or message_id
            change(connection, row.conversation_id, head_id=head_id)
            return str(row.conversation_id), head_id

    def delete(self, owner: str, message_id: str, rev: int | None = None) -> str:
        """Delete a message and all that follow it in every branch; the id of the conversation."""
        with self._database.write() as connection:
            row = _owned_message(connection, owner, message_id)
            conversation = owned(connection, owner, row.conversation_id, rev)
            tree = _tree(connection, row.conversation_id)
            head_id = tree.head_without(message_id, conversation.head_id)
            for batch in _batches(tree.below(message_id)):
                connection.execute(delete(messages).where(messages.c.id.in_(batch)))
            change(connection, row.conversation_id, head_id=head_id)
            return str(row.conversation_id)

    def insert_tree(self, owner: str, new: NewConversation) -> str:
        """Store a whole conversation under new ids; its id.

        Raises:
            InvalidRequest: a message follows one that does not come before it.
        """
        with self._database.write() as connection:
            conversation_id = insert_conversation(connection, owner, new)
            rows: list[dict[str, Any]] = []
            for place, message in enumerate(new.messages):
                if message.parent is not None and not 0 <= message.parent < place:
                    raise InvalidRequest(f"Message {place + 1} follows one that does not come before it.", field="messages")
                parent_id = None if message.parent is None else rows[message.parent]["id"]
                rows.append(_row(conversation_id, parent_id, message))
            if rows:
                connection.execute(insert(messages), rows)
                put_images(connection, ((row["id"], message.images) for row, message in zip(rows, new.messages, strict=True)))
                head_id = rows[-1 if new.head is None else new.head]["id"]
                connection.execute(update(conversations).where(conversations.c.id == conversation_id).values(head_id=head_id))
            return conversation_id


# ---- rows ----------------------------------------------------------------------------------------------------------


def _owned_message(connection: Connection, owner: str, message_id: str) -> Row[Any]:
    row = connection.execute(
        select(messages)
        .join(conversations, conversations.c.id == messages.c.conversation_id)
        .where(messages.c.id == message_id, conversations.c.owner == owner)
    ).one_or_none()
    if row is None:
        raise NotFound("There is no such message; it may have been deleted. Reload the conversation.")
    return row


def _has_role(connection: Connection, conversation_id: str, role: str) -> bool:
    query = select(messages.c.id).where(messages.c.conversation_id == conversation_id, messages.c.role == role).limit(1)
    return connection.execute(query).first() is not None


def _insert(connection: Connection, conversation_id: str, parent_id: str | None, new: NewMessage) -> str:
    row = _row(conversation_id, parent_id, new)
    connection.execute(insert(messages), [row])
    put_images(connection, [(row["id"], new.images)])
    return str(row["id"])


def _row(conversation_id: str, parent_id: str | None, new: NewMessage) -> dict[str, Any]:
    """A message under a new id, column by column."""
    return {
        "id": new_id(),
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
    }


def _tree(connection: Connection, conversation_id: str) -> MessageTree:
    query = select(messages.c.id, messages.c.parent_id).where(messages.c.conversation_id == conversation_id)
    return MessageTree((row.id, row.parent_id) for row in connection.execute(query.order_by(messages.c.position)))


def _records(connection: Connection, tree: MessageTree, path: Sequence[str]) -> tuple[MessageRecord, ...]:
    """The messages of a path, in its order."""
    found: dict[str, MessageRecord] = {}
    images = images_of(connection, path)
    for batch in _batches(path):
        for row in connection.execute(select(messages).where(messages.c.id.in_(batch))):
            found[row.id] = _record(row, tree.versions(row.id), images.get(row.id, ()))
    return tuple(found[message_id] for message_id in path)


def _with_versions(connection: Connection, row: Row[Any]) -> MessageRecord:
    same_parent = messages.c.parent_id.is_(None) if row.parent_id is None else messages.c.parent_id == row.parent_id
    query = select(messages.c.id).where(messages.c.conversation_id == row.conversation_id, same_parent).order_by(messages.c.position)
    return _record(row, tuple(connection.execute(query).scalars()), images_of(connection, [row.id]).get(row.id, ()))


def _record(row: Row[Any], version_ids: tuple[str, ...], images: tuple[StoredImage, ...]) -> MessageRecord:
    status: MessageStatus = row.status
    return MessageRecord(
        id=row.id,
        conversation_id=row.conversation_id,
        parent_id=row.parent_id,
        role=row.role,
        content=row.content,
        created_s=row.created_s,
        updated_s=row.updated_s,
        model=row.model,
        status=status,
        error=row.error,
        receipt=row.receipt,
        version_ids=version_ids,
        images=images,
    )


def _batches(ids: Sequence[str]) -> Iterable[list[str]]:
    for start in range(0, len(ids), ID_BATCH):
        yield list(ids[start : start + ID_BATCH])
