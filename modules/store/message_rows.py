"""Rows of messages as values, and the tree of a conversation from its rows. For the stores that read messages; each call belongs to their transaction."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, select

from modules.core.errors import NotFound
from modules.store.conversations import batches
from modules.store.files import files_of
from modules.store.images import images_of
from modules.store.records import MessageRecord, MessageStatus, Rating, StoredFile, StoredImage
from modules.store.schema import conversations, messages
from modules.store.tree import MessageTree


def owned_message(connection: Connection, owner: str, message_id: str) -> Row[Any]:
    """The row of a message of this owner.

    Raises:
        NotFound: there is none, or it is another owner's.
    """
    row = connection.execute(
        select(messages)
        .join(conversations, conversations.c.id == messages.c.conversation_id)
        .where(messages.c.id == message_id, messages.c.bin_id.is_(None), conversations.c.owner == owner, conversations.c.bin_id.is_(None))
    ).one_or_none()
    if row is None:
        raise NotFound("There is no such message; it may have been deleted. Reload the conversation.")
    return row


def tree_of(connection: Connection, conversation_id: str) -> MessageTree:
    """The links of a conversation."""
    query = select(messages.c.id, messages.c.parent_id).where(messages.c.conversation_id == conversation_id, messages.c.bin_id.is_(None))
    return MessageTree((row.id, row.parent_id) for row in connection.execute(query.order_by(messages.c.position)))


def versions_below(connection: Connection, conversation_id: str, parents: Collection[str | None]) -> dict[str | None, tuple[str, ...]]:
    """The ids of the messages that follow each of these (None: first messages), oldest first."""
    links = select(messages.c.id, messages.c.parent_id).where(messages.c.bin_id.is_(None)).order_by(messages.c.position)
    queries = [links.where(messages.c.parent_id.in_(batch)) for batch in batches([parent for parent in parents if parent is not None])]
    if None in parents:
        queries.append(links.where(messages.c.conversation_id == conversation_id, messages.c.parent_id.is_(None)))
    found: dict[str | None, list[str]] = {parent: [] for parent in parents}
    for query in queries:
        for row in connection.execute(query):
            found[row.parent_id].append(row.id)
    return {parent: tuple(ids) for parent, ids in found.items()}


def records_of(connection: Connection, ids: Sequence[str], versions: Mapping[str, tuple[str, ...]]) -> tuple[MessageRecord, ...]:
    """Messages in the order of their ids; `versions` has those of each."""
    found: dict[str, MessageRecord] = {}
    images, files = images_of(connection, ids), files_of(connection, ids)
    for batch in batches(ids):
        for row in connection.execute(select(messages).where(messages.c.id.in_(batch))):
            found[row.id] = record_with(row, versions[row.id], images.get(row.id, ()), files.get(row.id, ()))
    return tuple(found[message_id] for message_id in ids)


def record_of(connection: Connection, row: Row[Any]) -> MessageRecord:
    """One message with its versions."""
    versions = versions_below(connection, row.conversation_id, (row.parent_id,))[row.parent_id]
    images, files = images_of(connection, [row.id]), files_of(connection, [row.id])
    return record_with(row, versions, images.get(row.id, ()), files.get(row.id, ()))


def record_with(row: Row[Any], version_ids: tuple[str, ...], images: tuple[StoredImage, ...], files: tuple[StoredFile, ...]) -> MessageRecord:
    """A row with what is kept beside it."""
    status: MessageStatus = row.status
    rating: Rating = row.rating
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
        rating=rating,
        edited_from=row.edited_from,
        pinned=row.pinned,
        speaker=row.speaker,
        files=files,
    )
