"""Conversations of an owner: list, make, read, change, delete. Their messages are in messages.py, what was deleted in bin.py.

Another owner's id is answered like one that does not exist.
"""

from __future__ import annotations

import builtins
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, Row, func, insert, select, tuple_, update

from modules.core.errors import Conflict, InvalidRequest, NotFound
from modules.store.database import IN_MEMORY, Database
from modules.store.images import ID_BATCH
from modules.store.records import (
    NEW_TITLE,
    PRIVATE_MARK,
    ConversationSummary,
    NewConversation,
    Snippet,
    StoredConversation,
    is_private,
)
from modules.store.schema import conversations, deleted, messages
from modules.store.search import matches, snippets, terms_of

ID_LETTERS = "0123456789abcdefghjkmnpqrstvwxyz"  # base 32 without letters that are read wrongly
ID_LENGTH = 26
POSITION_DIGITS = 15
_CHARACTER = "$.character"  # where the settings of a conversation name it
_LIST_ORDER = (conversations.c.pinned, conversations.c.updated_s, conversations.c.position)


def new_id(beside: str = "") -> str:
    """128 bits: milliseconds since 1970, so that ids sort by time, then 80 random bits; what belongs to something private is marked as that is."""
    number = (time.time_ns() // 1_000_000 << 80) | secrets.randbits(80)
    letters = "".join(ID_LETTERS[number >> 5 * place & 31] for place in reversed(range(ID_LENGTH)))
    return PRIVATE_MARK + letters[1:] if is_private(beside) else letters  # the first letter of others is a digit: it has three bits


class ConversationStore:
    """Conversations, each with an owner that every call names."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def list(
        self, owner: str, search: str = "", *, tag: str = "", character: str = "", before: str = "", limit: int = 0
    ) -> tuple[ConversationSummary, ...]:
        """Pinned first, then the newest first.

        Args:
            owner: whose.
            search: only those that have every term.
            tag: only those with this tag.
            character: only those with this character.
            before: the key of a summary: only what comes after it in the list.
            limit: at most so many; 0 means all.

        Raises:
            InvalidRequest: `before` is no such key.
        """
        query = select(conversations).where(conversations.c.owner == owner, conversations.c.bin_id.is_(None))
        if tag:
            entry = func.json_each(conversations.c.tags).table_valued("value", joins_implicitly=True)
            query = query.where(select(entry.c.value).where(entry.c.value == tag).exists())
        if character:
            query = query.where(func.json_extract(conversations.c.settings, _CHARACTER) == character)
        if before:
            query = query.where(tuple_(*_LIST_ORDER) < tuple_(*_place(before)))
        query = query.order_by(*(column.desc() for column in _LIST_ORDER))
        terms = terms_of(search)
        with self._database.read() as connection:
            for term in terms:
                query = query.where(matches(connection, term))
            rows = connection.execute(query.limit(limit) if limit else query).all()
            ids = [row.id for row in rows]
            counts = _counts(connection, ids)
            found = snippets(connection, ids, terms)
            return tuple(_summary(row, counts.get(row.id, 0), found.get(row.id)) for row in rows)

    def summary(self, owner: str, conversation_id: str) -> ConversationSummary:
        """The line of one conversation in the list.

        Raises:
            NotFound: there is none, or it is another owner's.
        """
        with self._database.read() as connection:
            row = owned(connection, owner, conversation_id)
            return _summary(row, _counts(connection, [conversation_id]).get(conversation_id, 0), None)

    def tags(self, owner: str) -> dict[str, int]:
        """The tags in use and how many conversations have each, the most used first."""
        entry = func.json_each(conversations.c.tags).table_valued("value", joins_implicitly=True)
        query = (
            select(entry.c.value, func.count())
            .select_from(conversations, entry)
            .where(conversations.c.owner == owner, conversations.c.bin_id.is_(None))
            .group_by(entry.c.value)
            .order_by(func.count().desc(), entry.c.value)
        )
        with self._database.read() as connection:
            return dict(connection.execute(query).all())

    def characters(self, owner: str) -> dict[str, int]:
        """The characters in use and how many conversations have each, the most used first."""
        name = func.json_extract(conversations.c.settings, _CHARACTER)
        query = (
            select(name, func.count())
            .where(conversations.c.owner == owner, conversations.c.bin_id.is_(None), name != "")
            .group_by(name)
            .order_by(func.count().desc(), name)
        )
        with self._database.read() as connection:
            return dict(connection.execute(query).all())

    def newest(self, owner: str) -> StoredConversation | None:
        """The one that was made last, without its messages."""
        with self._database.read() as connection:
            row = _first(connection, owner, conversations.c.position)
            return conversation_of(row) if row else None

    def last_used(self, owner: str) -> StoredConversation | None:
        """The one in which something was said or written last, without its messages; a new one counts."""
        with self._database.read() as connection:
            row = _first(connection, owner, conversations.c.updated_s, conversations.c.position)
            return conversation_of(row) if row else None

    def create(self, owner: str, settings: Mapping[str, Any]) -> str:
        """The id of an empty conversation: the owner's newest one when nothing was done with it, else a new one."""
        with self._database.write() as connection:
            newest = _first(connection, owner, conversations.c.position)
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

    def rename(self, owner: str, conversation_id: str, title: str, rev: int | None = None, *, instead_of: str = "") -> bool:
        """Give a title that stays; with `instead_of` one that nobody chose, if that still is the title and nobody chose it. Whether it was given."""
        with self._database.write() as connection:
            row = owned(connection, owner, conversation_id, rev)
            if instead_of and not (row.title_is_auto and row.title == instead_of):
                return False
            change(connection, conversation_id, title=title, title_is_auto=bool(instead_of))
            return True

    def pin(self, owner: str, conversation_id: str, pinned: bool) -> None:
        """Keep on top of the list, or no longer."""
        with self._database.write() as connection:
            owned(connection, owner, conversation_id)
            change(connection, conversation_id, pinned=pinned)

    def tag(self, owner: str, conversation_id: str, tags: Sequence[str]) -> None:
        """Replace the tags."""
        with self._database.write() as connection:
            owned(connection, owner, conversation_id)
            change(connection, conversation_id, tags=builtins.list(tags))

    def change_settings(self, owner: str, conversation_id: str, settings: Mapping[str, Any], rev: int | None = None) -> None:
        """Replace the settings as a whole."""
        with self._database.write() as connection:
            owned(connection, owner, conversation_id, rev)
            change(connection, conversation_id, settings=dict(settings))

    def delete(self, owner: str, conversation_id: str) -> str:
        """Put a conversation into the bin with all its messages; the id it has there."""
        with self._database.write() as connection:
            row = owned(connection, owner, conversation_id)
            bin_id = into_bin(connection, row, "conversation", row.title)
            change(connection, conversation_id, bin_id=bin_id)
            return bin_id


def _first(connection: Connection, owner: str, *columns: ColumnElement[Any]) -> Row[Any] | None:
    """The row with the greatest value."""
    own = select(conversations).where(conversations.c.owner == owner, conversations.c.bin_id.is_(None))
    return connection.execute(own.order_by(*(column.desc() for column in columns)).limit(1)).one_or_none()


def _place(key: str) -> tuple[bool, float, int]:
    try:
        pinned, updated_s, position = key.split("_")
        if len(position) > POSITION_DIGITS:  # more than SQLite takes
            raise ValueError(position)
        return bool(int(pinned)), float(updated_s), int(position)
    except ValueError as error:
        raise InvalidRequest("This is no place in the list of conversations; reload the page.", field="before") from error


def _summary(row: Row[Any], count: int, snippet: Snippet | None) -> ConversationSummary:
    key = f"{int(row.pinned)}_{row.updated_s!r}_{row.position}"
    return ConversationSummary(row.id, row.title, row.created_s, row.updated_s, row.pinned, count, tuple(row.tags), key, snippet)


def _counts(connection: Connection, ids: Sequence[str]) -> dict[str, int]:
    """How many messages each of these conversations has."""
    counts: dict[str, int] = {}
    for batch in batches(ids):
        query = select(messages.c.conversation_id, func.count()).where(messages.c.conversation_id.in_(batch), messages.c.bin_id.is_(None))
        counts.update(connection.execute(query.group_by(messages.c.conversation_id)).all())
    return counts


def batches(ids: Sequence[str]) -> Iterator[list[str]]:
    """As many at once as one statement takes."""
    for start in range(0, len(ids), ID_BATCH):
        yield list(ids[start : start + ID_BATCH])


def owned(connection: Connection, owner: str, conversation_id: str, rev: int | None = None) -> Row[Any]:
    """The row of a conversation of this owner, still at the revision the caller saw.

    Raises:
        NotFound: there is none, or it is another owner's.
        Conflict: it was changed since.
    """
    row = connection.execute(
        select(conversations).where(conversations.c.id == conversation_id, conversations.c.owner == owner, conversations.c.bin_id.is_(None))
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


def into_bin(connection: Connection, row: Row[Any], what: Literal["conversation", "message"], title: str) -> str:
    """A new row of the bin for something of a conversation; its id, which the caller writes to what is deleted."""
    bin_id = new_id(row.id)
    connection.execute(
        insert(deleted).values(
            id=bin_id, owner=row.owner, conversation_id=row.id, what=what, title=title, deleted_s=time.time(), head_id=row.head_id
        )
    )
    return bin_id


def insert_conversation(connection: Connection, owner: str, new: NewConversation) -> str:
    """Store a conversation without messages; its id."""
    conversation_id = new_id(PRIVATE_MARK if connection.get_execution_options().get(IN_MEMORY) else "")
    now_s = time.time()
    connection.execute(
        insert(conversations).values(
            id=conversation_id,
            owner=owner,
            title=new.title,
            title_is_auto=new.title_is_auto,
            created_s=now_s if new.created_s is None else new.created_s,
            updated_s=now_s if new.updated_s is None else new.updated_s,
            pinned=new.pinned,
            tags=list(new.tags),
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
        tags=tuple(row.tags),
    )
