"""Conversations of an owner: list, make, read, change, delete. Their messages are in messages.py.

Another owner's id is answered like one that does not exist.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from modules.core.errors import Conflict, NotFound
from modules.store.database import Database
from modules.store.records import ConversationSummary, NewConversation, StoredConversation
from modules.store.schema import conversations, messages
from modules.store.search import matches, terms_of

ID_LETTERS = "0123456789abcdefghjkmnpqrstvwxyz"  # base 32 without letters that are read wrongly
ID_LENGTH = 26
NEW_TITLE = "New conversation"


def new_id() -> str:
    """128 bits: milliseconds since 1970, so that ids sort by time, then 80 random bits."""
    number = (time.time_ns() // 1_000_000 << 80) | secrets.randbits(80)
    return "".join(ID_LETTERS[number >> 5 * place & 31] for place in reversed(range(ID_LENGTH)))


class ConversationStore:
    """Conversations, each with an owner that every call names."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def list(self, owner: str, search: str = "") -> tuple[ConversationSummary, ...]:
        """Pinned first, then the newest first; with `search` those that have every term."""
        count = select(func.count()).where(messages.c.conversation_id == conversations.c.id).scalar_subquery()
        query = select(conversations, count.label("message_count")).where(conversations.c.owner == owner)
        for term in terms_of(search):
            query = query.where(matches(term))
        query = query.order_by(conversations.c.pinned.desc(), conversations.c.updated_s.desc(), conversations.c.position.desc())
        with self._database.read() as connection:
            return tuple(
                ConversationSummary(row.id, row.title, row.created_s, row.updated_s, row.pinned, row.message_count)
                for row in connection.execute(query)
            )

    def create(self, owner: str, settings: Mapping[str, Any]) -> str:
        """The id of an empty conversation: the owner's newest one when nothing was done with it, else a new one."""
        with self._database.write() as connection:
            newest = connection.execute(
                select(conversations).where(conversations.c.owner == owner).order_by(conversations.c.position.desc()).limit(1)
            ).one_or_none()
            if newest is not None and newest.head_id is None and newest.title_is_auto and not newest.pinned:
                return str(newest.id)
            return insert_conversation(connection, owner, NewConversation(NEW_TITLE, dict(settings), title_is_auto=True))

    def read(self, owner: str, conversation_id: str) -> StoredConversation:
        """A conversation without its messages.

        Raises:
            NotFound: there is none, or it is another owner's.
        """
        with self._database.read() as connection:
            return conversation_of(owned(connection, owner, conversation_id))

    def rename(self, owner: str, conversation_id: str, title: str, rev: int | None = None) -> None:
        """Give a title that stays."""
        with self._database.write() as connection:
            owned(connection, owner, conversation_id, rev)
            change(connection, conversation_id, title=title, title_is_auto=False)

    def pin(self, owner: str, conversation_id: str, pinned: bool) -> None:
        """Keep on top of the list, or no longer."""
        with self._database.write() as connection:
            owned(connection, owner, conversation_id)
            change(connection, conversation_id, pinned=pinned)

    def change_settings(self, owner: str, conversation_id: str, settings: Mapping[str, Any], rev: int | None = None) -> None:
        """Replace the settings as a whole."""
        with self._database.write() as connection:
            owned(connection, owner, conversation_id, rev)
            change(connection, conversation_id, settings=dict(settings))

    def delete(self, owner: str, conversation_id: str) -> None:
        """Delete a conversation with all its messages."""
        with self._database.write() as connection:
            owned(connection, owner, conversation_id)
            connection.execute(delete(conversations).where(conversations.c.id == conversation_id))


def owned(connection: Connection, owner: str, conversation_id: str, rev: int | None = None) -> Row[Any]:
    """The row of a conversation of this owner, still at the revision the caller saw.

    Raises:
        NotFound: there is none, or it is another owner's.
        Conflict: it was changed since.
    """
    row = connection.execute(
        select(conversations).where(conversations.c.id == conversation_id, conversations.c.owner == owner)
    ).one_or_none()
    if row is None:
        raise NotFound("There is no such conversation; it may have been deleted. Choose one from the list.")
    if rev is not None and rev != row.rev:
        raise Conflict("This conversation was changed in another window meanwhile; look at it again and repeat.", rev=row.rev)
    return row


def change(connection: Connection, conversation_id: str, **values: Any) -> None:
    """Set columns of a conversation and count the revision up."""
    connection.execute(
        update(conversations).where(conversations.c.id == conversation_id).values(rev=conversations.c.rev + 1, **values)
    )


def insert_conversation(connection: Connection, owner: str, new: NewConversation) -> str:
    """Store a conversation without messages; its id."""
    conversation_id = new_id()
    now_s = time.time()
    connection.execute(
        insert(conversations).values(
            id=conversation_id,
            owner=owner,
            title=new.title,
            title_is_auto=new.title_is_auto,
            created_s=now_s,
            updated_s=now_s,
            pinned=new.pinned,
            settings=new.settings,
            head_id=None,
            rev=1,
        )
    )
    return conversation_id


def conversation_of(row: Row[Any]) -> StoredConversation:
    """A row as a value, without messages."""
    return StoredConversation(
        id=row.id,
        title=row.title,
        title_is_auto=row.title_is_auto,
        created_s=row.created_s,
        updated_s=row.updated_s,
        pinned=row.pinned,
        settings=row.settings,
        rev=row.rev,
        head_id=row.head_id,
    )
