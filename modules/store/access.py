"""How accounts get in: sessions of browsers and API keys, found by hashes of what was handed out."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, delete, func, or_, select, update

from modules.core.errors import InvalidRequest, NotFound
from modules.core.person import Scope
from modules.store.account_records import SHOWN_DIGITS, KeyRecord, KnownKey, SessionRecord, UserRecord
from modules.store.account_tables import api_keys, sessions, users
from modules.store.database import Database
from modules.store.users import record_of

SESSION_LIMIT = 100  # of one account; the one not seen for longest goes
KEY_LIMIT = 100  # of one account, revoked ones counted


class AccessStore:
    """Sessions and keys of all accounts of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # ---- sessions --------------------------------------------------------------------------------------------------

    def begin_session(self, user_id: str, digest: str, agent: str, kept_s: float) -> None:
        """Somebody has logged in; what has expired goes at this opportunity."""
        now_s = time.time()
        values = {"digest": digest, "user_id": user_id, "created_s": now_s, "seen_s": now_s, "expires_s": now_s + kept_s, "agent": agent}
        kept = select(sessions.c.digest).where(sessions.c.user_id == user_id).order_by(sessions.c.seen_s.desc()).limit(SESSION_LIMIT)
        with self._database.write() as connection:
            connection.execute(sessions.insert().values(**values))
            connection.execute(delete(sessions).where(or_(sessions.c.expires_s < now_s, (sessions.c.user_id == user_id) & sessions.c.digest.not_in(kept))))

    def session(self, digest: str) -> tuple[SessionRecord, UserRecord] | None:
        """The session with this hash and whose it is, if it has not expired and they may log in."""
        query = select(sessions).where(sessions.c.digest == digest, sessions.c.expires_s > time.time())
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
            user = connection.execute(select(users).where(users.c.id == row.user_id, users.c.disabled.is_(False))).one_or_none() if row is not None else None
            return (_session(row), record_of(user)) if row is not None and user is not None else None

    def see_session(self, digest: str, kept_s: float) -> None:
        """It was used just now, and so lasts longer."""
        now_s = time.time()
        with self._database.write() as connection:
            connection.execute(update(sessions).where(sessions.c.digest == digest).values(seen_s=now_s, expires_s=now_s + kept_s))

    def sessions(self, user_id: str) -> tuple[SessionRecord, ...]:
        """The sessions of an account, the one seen last first."""
        query = select(sessions).where(sessions.c.user_id == user_id, sessions.c.expires_s > time.time()).order_by(sessions.c.seen_s.desc())
        with self._database.read() as connection:
            return tuple(map(_session, connection.execute(query)))

    def end_session(self, digest: str) -> None:
        """It was logged out of."""
        with self._database.write() as connection:
            connection.execute(delete(sessions).where(sessions.c.digest == digest))

    def end_sessions(self, user_id: str, session_id: str = "", *, but: str = "") -> int:
        """End the session with this id, or all but one; how many those were."""
        which, shown = [sessions.c.user_id == user_id], func.substr(sessions.c.digest, 1, SHOWN_DIGITS)
        if session_id:
            which.append(shown == session_id)
        if but:
            which.append(shown != but)
        with self._database.write() as connection:
            return connection.execute(delete(sessions).where(*which)).rowcount

    # ---- keys ------------------------------------------------------------------------------------------------------

    def add_key(self, user_id: str, name: str, digest: str, scopes: Sequence[Scope], expires_s: float | None) -> KeyRecord:
        """Keep the hash of a new key.

        Raises:
            InvalidRequest: there are too many.
        """
        values = {
            "id": secrets.token_hex(8), "user_id": user_id, "name": name, "digest": digest, "scopes": list(scopes), "created_s": time.time(), "expires_s": expires_s,
        }  # fmt: skip
        with self._database.write() as connection:
            if len(connection.execute(select(api_keys.c.id).where(api_keys.c.user_id == user_id)).all()) >= KEY_LIMIT:
                raise InvalidRequest(f"An account has at most {KEY_LIMIT} keys, revoked ones counted; remove one first.")
            connection.execute(api_keys.insert().values(**values))
            return _key(connection.execute(select(api_keys).where(api_keys.c.id == values["id"])).one())

    def key(self, key_id: str) -> KnownKey | None:
        """A key that can be used now, with its hash and whose it is."""
        now_s = time.time()
        query = select(api_keys).where(api_keys.c.id == key_id, api_keys.c.revoked_s.is_(None), or_(api_keys.c.expires_s.is_(None), api_keys.c.expires_s > now_s))
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
            user = connection.execute(select(users).where(users.c.id == row.user_id, users.c.disabled.is_(False))).one_or_none() if row is not None else None
            return KnownKey(_key(row), row.digest, record_of(user)) if row is not None and user is not None else None

    def use_key(self, key_id: str) -> None:
        """It was used just now."""
        with self._database.write() as connection:
            connection.execute(update(api_keys).where(api_keys.c.id == key_id).values(used_s=time.time()))

    def keys(self, user_id: str) -> tuple[KeyRecord, ...]:
        """All keys of an account, the newest first."""
        with self._database.read() as connection:
            return tuple(map(_key, connection.execute(select(api_keys).where(api_keys.c.user_id == user_id).order_by(api_keys.c.created_s.desc()))))

    def revoke_key(self, user_id: str, key_id: str) -> None:
        """End a key for good; one that was ended before is removed from the list.

        Raises:
            NotFound: it is not there, or another account's.
        """
        which = (api_keys.c.id == key_id, api_keys.c.user_id == user_id)
        with self._database.write() as connection:
            row = connection.execute(select(api_keys).where(*which)).one_or_none()
            if row is None:
                raise NotFound("There is no such key; refresh the list.")
            gone = delete(api_keys) if row.revoked_s is not None else update(api_keys).values(revoked_s=time.time())
            connection.execute(gone.where(*which))


def _session(row: Row[Any]) -> SessionRecord:
    return SessionRecord(row.digest[:SHOWN_DIGITS], row.user_id, row.created_s, row.seen_s, row.expires_s, row.agent)


def _key(row: Row[Any]) -> KeyRecord:
    return KeyRecord(row.id, row.user_id, row.name, tuple(row.scopes), row.created_s, row.expires_s, row.used_s, row.revoked_s)
