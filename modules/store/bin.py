"""What was deleted and can be brought back: one row for each thing that a person deleted at once.

Deleting is in conversations.py and messages.py; here is what comes after it. Nothing else reads what lies in the bin.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterable
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, delete, func, or_, select, update

from modules.core.errors import NotFound
from modules.store.conversations import change
from modules.store.database import Database
from modules.store.images import ID_BATCH
from modules.store.records import DeletedRecord
from modules.store.schema import conversations, deleted, messages
from modules.store.tree import MessageTree

LIST_LIMIT = 500
PURGE_BATCH = 50  # of one transaction: others who write wait for it


class BinStore:
    """The bin of conversations and messages."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def list(self, owner: str) -> tuple[DeletedRecord, ...]:
        """What can be restored, the newest first; messages of a conversation that is in the bin itself come back with it."""
        query = (
            select(deleted, conversations.c.title.label("conversation_title"))
            .join(conversations, conversations.c.id == deleted.c.conversation_id)
            .where(deleted.c.owner == owner, or_(deleted.c.what == "conversation", conversations.c.bin_id.is_(None)))
            .order_by(deleted.c.deleted_s.desc(), deleted.c.id.desc())
            .limit(LIST_LIMIT)
        )
        with self._database.read() as connection:
            rows = connection.execute(query).all()
            counts = _counts(connection, rows)
            return tuple(
                DeletedRecord(row.id, row.conversation_id, row.what, row.title, row.conversation_title, row.deleted_s, counts.get(row.id, 0)) for row in rows
            )

    def restore(self, owner: str, bin_id: str) -> str:
        """Bring something back, with what it follows if that was deleted later; the id of the conversation, which shows it again.

        Raises:
            NotFound: it is not in the bin, or another owner's.
        """
        with self._database.write() as connection:
            row = _owned_entry(connection, owner, bin_id)
            if row.what == "conversation":
                _end_growing(connection, messages.c.conversation_id == row.conversation_id)
                change(connection, row.conversation_id, bin_id=None)
                connection.execute(delete(deleted).where(deleted.c.id == bin_id))
            else:
                _restore_messages(connection, row)
            return str(row.conversation_id)

    def discard(self, owner: str, bin_id: str) -> None:
        """Delete something for good.

        Raises:
            NotFound: it is not in the bin, or another owner's.
        """
        with self._database.write() as connection:
            _discard(connection, _owned_entry(connection, owner, bin_id))

    def empty(self, owner: str) -> int:
        """Delete for good all that can be restored; how many things that were."""
        return self._discard_all([row.id for row in self.list(owner)])

    def purge(self, before_s: float) -> int:
        """Delete for good what was deleted before a time, of every owner; how many things that were."""
        with self._database.read() as connection:
            ids = builtins.list(connection.execute(select(deleted.c.id).where(deleted.c.deleted_s < before_s).order_by(deleted.c.deleted_s)).scalars())
        return self._discard_all(ids)

    def _discard_all(self, ids: builtins.list[str]) -> int:
        done = 0
        for start in range(0, len(ids), PURGE_BATCH):
            with self._database.write() as connection:
                for bin_id in ids[start : start + PURGE_BATCH]:
                    row = connection.execute(select(deleted).where(deleted.c.id == bin_id)).one_or_none()
                    if row is not None:  # not gone with something before, nor restored meanwhile
                        _discard(connection, row)
                        done += 1
        return done


def _owned_entry(connection: Connection, owner: str, bin_id: str) -> Row[Any]:
    row = connection.execute(
        select(deleted)
        .join(conversations, conversations.c.id == deleted.c.conversation_id)
        .where(deleted.c.id == bin_id, deleted.c.owner == owner, or_(deleted.c.what == "conversation", conversations.c.bin_id.is_(None)))
    ).one_or_none()
    if row is None:
        raise NotFound("That is no longer in the bin; refresh the list.")
    return row


def _counts(connection: Connection, rows: Iterable[Row[Any]]) -> dict[str, int]:
    """How many messages each entry has."""
    by_conversation = {row.conversation_id: row.id for row in rows if row.what == "conversation"}
    counts: dict[str, int] = {}
    ids = [row.id for row in rows if row.what == "message"]
    query = select(messages.c.bin_id, func.count()).where(messages.c.bin_id.in_(ids)).group_by(messages.c.bin_id)
    counts.update(connection.execute(query).all())
    alive = and_(messages.c.conversation_id.in_(list(by_conversation)), messages.c.bin_id.is_(None))
    for conversation_id, count in connection.execute(select(messages.c.conversation_id, func.count()).where(alive).group_by(messages.c.conversation_id)):
        counts[by_conversation[conversation_id]] = count
    return counts


def _end_growing(connection: Connection, which: ColumnElement[bool]) -> None:
    """What was deleted while it was being written does not grow any more."""
    connection.execute(update(messages).where(which, messages.c.status == "streaming").values(status="stopped"))


def _restore_messages(connection: Connection, row: Row[Any]) -> None:
    """Bring messages back, then what they follow; shown is again what was shown when they were deleted, if it is of them."""
    own = connection.execute(select(messages.c.id).where(messages.c.id == row.head_id, messages.c.bin_id == row.id)).scalar()
    waiting = [row.id]
    parent = messages.alias()
    while waiting:
        bin_id = waiting.pop()
        above = select(parent.c.bin_id).join(messages, messages.c.parent_id == parent.c.id).where(messages.c.bin_id == bin_id, parent.c.bin_id != bin_id)
        waiting.extend(connection.execute(above.distinct()).scalars())
        _end_growing(connection, messages.c.bin_id == bin_id)
        connection.execute(update(messages).where(messages.c.bin_id == bin_id).values(bin_id=None))
        connection.execute(delete(deleted).where(deleted.c.id == bin_id))
    links = select(messages.c.id, messages.c.parent_id).where(messages.c.conversation_id == row.conversation_id, messages.c.bin_id.is_(None))
    tree = MessageTree((found.id, found.parent_id) for found in connection.execute(links.order_by(messages.c.position)))
    shown = own or connection.execute(select(conversations.c.head_id).where(conversations.c.id == row.conversation_id)).scalar_one()
    change(connection, row.conversation_id, head_id=tree.newest_leaf(shown if shown in tree else None))


def _discard(connection: Connection, row: Row[Any]) -> None:
    """Delete an entry with all that is in it; what follows its messages lies in the bin too, and goes along."""
    if row.what == "conversation":
        connection.execute(delete(conversations).where(conversations.c.id == row.conversation_id))
        return
    query = select(messages.c.id, messages.c.parent_id, messages.c.bin_id).where(messages.c.conversation_id == row.conversation_id).order_by(messages.c.position)
    rows = connection.execute(query).all()
    tree = MessageTree((found.id, found.parent_id) for found in rows)
    doomed = list(dict.fromkeys(below for found in rows if found.bin_id == row.id for below in tree.below(found.id)))
    for start in range(0, len(doomed), ID_BATCH):
        connection.execute(delete(messages).where(messages.c.id.in_(doomed[start : start + ID_BATCH])))
    connection.execute(delete(deleted).where(deleted.c.id == row.id))
    connection.execute(
        delete(deleted).where(
            deleted.c.conversation_id == row.conversation_id,
            deleted.c.what == "message",
            ~select(messages.c.id).where(messages.c.bin_id == deleted.c.id).exists(),
        )
    )
