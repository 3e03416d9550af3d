"""Accounts: who there is, with which role. Every rule about several of them (one name once, an administrator always) is kept in the transaction that would break it.

What somebody owns is marked with their id elsewhere; deleting them puts it into the bin.
"""

from __future__ import annotations

import secrets
import time
import unicodedata
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, delete, func, select, update

from modules.core.errors import Conflict, InvalidRequest, NotFound
from modules.core.person import FIRST_PERSON, Role
from modules.store.account_records import KnownUser, UserRecord
from modules.store.account_tables import users
from modules.store.conversations import change, into_bin
from modules.store.database import Database
from modules.store.notebook_tables import notebooks
from modules.store.schema import conversations


class UserStore:
    """The accounts of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def any(self) -> bool:
        """Whether there is an account."""
        with self._database.read() as connection:
            return _any(connection)

    def create_first(self, name: str, password: str) -> UserRecord:
        """The first account: an administrator, to whom all belongs that was there before.

        Raises:
            Conflict: there is one already, perhaps since a moment ago.
        """
        with self._database.write() as connection:
            if _any(connection):
                raise Conflict("There are accounts already; log in, or have an administrator make one for you.")
            return _insert(connection, FIRST_PERSON, name, "admin", password)

    def create(self, name: str, role: Role, password: str) -> UserRecord:
        """One more account.

        Raises:
            Conflict: the name is taken; upper and lower case are the same.
        """
        with self._database.write() as connection:
            return _insert(connection, f"u{secrets.token_hex(12)}", name, role, password)

    def list(self) -> tuple[UserRecord, ...]:
        """All accounts, the oldest first."""
        with self._database.read() as connection:
            return tuple(map(record_of, connection.execute(select(users).order_by(users.c.position))))

    def get(self, user_id: str) -> KnownUser:
        """One account.

        Raises:
            NotFound: there is none.
        """
        with self._database.read() as connection:
            return _known(_one(connection, users.c.id == user_id))

    def named(self, name: str) -> KnownUser | None:
        """The account with a name, if there is one."""
        with self._database.read() as connection:
            row = connection.execute(select(users).where(users.c.name_key == name_key(name))).one_or_none()
            return _known(row) if row is not None else None

    def change(self, user_id: str, **values: Any) -> UserRecord:
        """Give an account other values of its columns: name, role, password, disabled, daily_tokens.

        Raises:
            NotFound: there is none.
            Conflict: the name is taken.
            InvalidRequest: no administrator would be left.
        """
        with self._database.write() as connection:
            _one(connection, users.c.id == user_id)
            if "name" in values:
                _check_free(connection, values["name"], user_id)
                values["name_key"] = name_key(values["name"])
            connection.execute(update(users).where(users.c.id == user_id).values(**values))
            _check_administered(connection)
            return record_of(_one(connection, users.c.id == user_id))

    def delete(self, user_id: str) -> None:
        """Delete an account with its sessions and keys; its conversations and notebooks go into the bin, from which they are gone after thirty days.

        Raises:
            NotFound: there is none.
            InvalidRequest: no administrator would be left.
        """
        with self._database.write() as connection:
            _one(connection, users.c.id == user_id)
            connection.execute(delete(users).where(users.c.id == user_id))
            _check_administered(connection)
            for row in connection.execute(select(conversations).where(conversations.c.owner == user_id, conversations.c.bin_id.is_(None))).all():
                change(connection, row.id, bin_id=into_bin(connection, row, "conversation", row.title))
            connection.execute(update(notebooks).where(notebooks.c.owner == user_id, notebooks.c.deleted_s.is_(None)).values(deleted_s=time.time()))


def name_key(name: str) -> str:
    """A name as it is compared."""
    return unicodedata.normalize("NFKC", name).casefold().strip()


def record_of(row: Row[Any]) -> UserRecord:
    """An account as a row has it."""
    return UserRecord(row.id, row.name, row.role, row.created_s, row.disabled, row.daily_tokens)


def _known(row: Row[Any]) -> KnownUser:
    return KnownUser(record_of(row), row.password)


def _any(connection: Connection) -> bool:
    return connection.execute(select(users.c.position).limit(1)).first() is not None


def _one(connection: Connection, which: ColumnElement[bool]) -> Row[Any]:
    row = connection.execute(select(users).where(which)).one_or_none()
    if row is None:
        raise NotFound("There is no such account; refresh the list.")
    return row


def _check_free(connection: Connection, name: str, own_id: str = "") -> None:
    found = connection.execute(select(users.c.name).where(users.c.name_key == name_key(name), users.c.id != own_id)).scalar()
    if found is not None:
        raise Conflict(f"There is an account “{found}” already; choose another name.")


def _insert(connection: Connection, user_id: str, name: str, role: Role, password: str) -> UserRecord:
    _check_free(connection, name)
    values = {"id": user_id, "name": name, "name_key": name_key(name), "role": role, "password": password, "created_s": time.time(), "disabled": False}
    connection.execute(users.insert().values(**values))
    return record_of(_one(connection, users.c.id == user_id))


def _check_administered(connection: Connection) -> None:
    administrators = select(func.count()).where(users.c.role == "admin", users.c.disabled.is_(False))
    if not connection.execute(administrators).scalar_one():
        raise InvalidRequest("This is the only administrator who can log in; make another account an administrator first.")
