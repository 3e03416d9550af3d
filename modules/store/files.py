"""Files attached to messages, or waiting for the next one of a conversation: what was read from each, once by its hash.

The files themselves are not kept. Functions over a connection are for messages.py, which has checked whose a message is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, delete, select, update
from sqlalchemy.dialects.sqlite import insert

from modules.core.errors import InvalidRequest, NotFound
from modules.store.conversations import new_id, owned
from modules.store.database import Database
from modules.store.file_tables import attachments, file_texts
from modules.store.images import ID_BATCH
from modules.store.records import MessageRecord, NewFile, StoredFile
from modules.store.schema import conversations, storable

GONE = "There is no such attachment; it may have been removed, or its message deleted. Reload the conversation."


class FileStore:
    """Attachments that wait for a message, and the texts of all."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, owner: str, conversation_id: str, new: NewFile, most: int) -> StoredFile:
        """Keep a file for the next message of a conversation.

        Raises:
            InvalidRequest: `most` wait already.
        """
        with self._database.write() as connection:
            owned(connection, owner, conversation_id)
            if len(_waiting(connection, conversation_id)) >= most:
                raise InvalidRequest(f"{most} files are attached already, the limit for one message. Remove one, or send these first.", field="files")
            attachment_id = _added(connection, conversation_id, None, new)
            row = connection.execute(select(attachments).where(attachments.c.id == attachment_id)).one()
            return _stored(row)

    def waiting(self, owner: str, conversation_id: str) -> tuple[StoredFile, ...]:
        """Those that wait for the next message, in their order."""
        with self._database.read() as connection:
            owned(connection, owner, conversation_id)
            return _waiting(connection, conversation_id)

    def wait_again(self, owner: str, conversation_id: str, files: Iterable[StoredFile]) -> tuple[StoredFile, ...]:
        """Have copies of files that a message of a conversation had wait for the next one; the copies."""
        with self._database.write() as connection:
            owned(connection, owner, conversation_id)
            ids = {_added(connection, conversation_id, None, file) for file in files}
            return tuple(file for file in _waiting(connection, conversation_id) if file.id in ids)

    def remove(self, owner: str, conversation_id: str, attachment_id: str) -> None:
        """Take one back that waits; one that is gone already is no error."""
        mine = (attachments.c.id == attachment_id, attachments.c.conversation_id == conversation_id, attachments.c.message_id.is_(None))
        with self._database.write() as connection:
            owned(connection, owner, conversation_id)
            connection.execute(delete(attachments).where(*mine))

    def text(self, owner: str, attachment_id: str) -> tuple[StoredFile, str]:
        """An attachment and what was read from it.

        Raises:
            NotFound: there is none, or it is another owner's.
        """
        query = (
            select(attachments, file_texts.c.text)
            .join(file_texts, file_texts.c.hash == attachments.c.hash)
            .join(conversations, conversations.c.id == attachments.c.conversation_id)
            .where(attachments.c.id == attachment_id, conversations.c.owner == owner)
        )
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
            if row is None:
                raise NotFound(GONE)
            return _stored(row), row.text

    def texts(self, owner: str, conversation_id: str, files: Iterable[StoredFile]) -> dict[str, str]:
        """What was read from files of a conversation, by hash."""
        with self._database.read() as connection:
            owned(connection, owner, conversation_id)
            wanted = {file.hash for file in files}
            mine = select(attachments.c.hash).where(attachments.c.conversation_id == conversation_id)
            known = wanted.intersection(connection.execute(mine).scalars())
            return {key: connection.execute(select(file_texts.c.text).where(file_texts.c.hash == key)).scalar_one() for key in known}


def files_in(records: Iterable[MessageRecord]) -> tuple[StoredFile, ...]:
    """All files of messages."""
    return tuple(file for record in records for file in record.files)


def put_files(connection: Connection, conversation_id: str, rows: Iterable[tuple[str, Sequence[NewFile | StoredFile | str]]]) -> None:
    """Give files to messages that have just been stored: new ones, copies, or by their ids those that waited.

    Raises:
        NotFound: one that was to be taken over waits no longer.
    """
    for message_id, files in rows:
        for file in files:
            if isinstance(file, str):
                waits = (attachments.c.id == file, attachments.c.conversation_id == conversation_id, attachments.c.message_id.is_(None))
                if not connection.execute(update(attachments).where(*waits).values(message_id=message_id)).rowcount:
                    raise NotFound(GONE)
            else:
                _added(connection, conversation_id, message_id, file)


def files_of(connection: Connection, message_ids: Sequence[str]) -> dict[str, tuple[StoredFile, ...]]:
    """The files of those messages that have any, in their order."""
    found: dict[str, list[StoredFile]] = {}
    for start in range(0, len(message_ids), ID_BATCH):
        query = select(attachments).where(attachments.c.message_id.in_(message_ids[start : start + ID_BATCH])).order_by(attachments.c.position)
        for row in connection.execute(query):
            found.setdefault(row.message_id, []).append(_stored(row))
    return {message_id: tuple(files) for message_id, files in found.items()}


def _waiting(connection: Connection, conversation_id: str) -> tuple[StoredFile, ...]:
    query = select(attachments).where(attachments.c.conversation_id == conversation_id, attachments.c.message_id.is_(None))
    return tuple(_stored(row) for row in connection.execute(query.order_by(attachments.c.position)))


def _added(connection: Connection, conversation_id: str, message_id: str | None, file: NewFile | StoredFile) -> str:
    key = file.hash if isinstance(file, StoredFile) else _kept(connection, file.text)
    values: Mapping[str, Any] = {
        "id": new_id(conversation_id),
        "conversation_id": conversation_id,
        "message_id": message_id,
        "hash": key,
        "name": file.name,
        "kind": file.kind,
        "note": file.note,
        "characters": file.characters if isinstance(file, StoredFile) else len(file.text),
        "size_bytes": file.size_bytes,
    }
    connection.execute(insert(attachments).values(**values))
    return str(values["id"])


def _kept(connection: Connection, text: str) -> str:
    """The hash of a text that is stored now."""
    whole = storable(text)
    key = hashlib.sha256(whole.encode()).hexdigest()
    connection.execute(insert(file_texts).values(hash=key, text=whole).on_conflict_do_nothing())
    return key


def _stored(row: Row[Any]) -> StoredFile:
    return StoredFile(row.id, row.hash, row.name, row.kind, row.note, row.characters, row.size_bytes)
