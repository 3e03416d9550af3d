"""Who a session or a key belongs to, and the lists of both. What was found is remembered for some seconds, and forgotten with every change made here."""

from __future__ import annotations

import contextlib
import hmac
import time
from collections import OrderedDict
from collections.abc import Awaitable, Sequence

from modules.core.errors import AppError, InvalidRequest
from modules.core.person import Person, Scope, grantable
from modules.services.passwords import digest_of, new_token
from modules.services.storage import Storage
from modules.store.account_records import KeyRecord, SessionRecord, UserRecord

SESSION_KEPT_S = 30 * 24 * 3600.0  # since it was seen last
REMEMBERED_S = 5.0  # so late another process's change is seen
REMEMBERED = 10_000
SEEN_EVERY_S = 60.0  # so often a use is written down
AGENT_LIMIT = 200
NAME_LIMIT = 64
DAYS_LIMIT = 3650
KEY_MARK = "pdk_"
UNKNOWN_DIGEST = digest_of("")


class Identities:
    """Finds people by what they send."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._found: OrderedDict[str, tuple[Person, float]] = OrderedDict()
        self._changes = 0

    def forget(self) -> None:
        """Something of accounts has changed."""
        self._changes += 1
        self._found.clear()

    # ---- sessions --------------------------------------------------------------------------------------------------

    async def begin_session(self, user_id: str, agent: str) -> str:
        """The token of a new session; only its hash is kept."""
        token = new_token()
        await self._storage.run(lambda stores: stores.access.begin_session(user_id, digest_of(token), agent[:AGENT_LIMIT], SESSION_KEPT_S))
        return token

    async def of_session(self, token: str, *, fresh: bool = False) -> Person | None:
        """Whose session this is the token of; `fresh`: as the database has it now, and not as it was seconds ago."""
        digest = digest_of(token)
        return (None if fresh else self._remembered(digest)) or await self._remember(digest, self._person_of_session(digest))

    async def end_session(self, token: str) -> None:
        """Log out."""
        await self._storage.run(lambda stores: stores.access.end_session(digest_of(token)))
        self.forget()

    async def sessions(self, user_id: str) -> tuple[SessionRecord, ...]:
        """Where somebody is logged in, the last used first."""
        return await self._storage.run(lambda stores: stores.access.sessions(user_id))

    async def end_sessions(self, user_id: str, session_id: str = "", *, but: str = "") -> int:
        """End one session of somebody, or all but one; how many those were."""
        ended = await self._storage.run(lambda stores: stores.access.end_sessions(user_id, session_id, but=but))
        self.forget()
        return ended

    async def _person_of_session(self, digest: str) -> Person | None:
        found = await self._storage.run(lambda stores: stores.access.session(digest))
        if found is None:
            return None
        session, user = found
        if time.time() - session.seen_s > SEEN_EVERY_S:
            with contextlib.suppress(AppError):  # a full disk locks nobody out
                await self._storage.run(lambda stores: stores.access.see_session(digest, SESSION_KEPT_S))
        return Person(user.id, user.role, user.name, session_id=session.id)

    # ---- keys ------------------------------------------------------------------------------------------------------

    async def of_key(self, text: str, *, fresh: bool = False) -> Person | None:
        """Whose key this is, if it can be used; `fresh` as above."""
        digest = digest_of(text)
        return (None if fresh else self._remembered(digest)) or await self._remember(digest, self._person_of_key(text))

    async def create_key(self, user: UserRecord, name: str, scopes: Sequence[Scope], days: float | None = None) -> tuple[str, KeyRecord]:
        """A new key of somebody, which is told this once, and what is kept of it.

        Raises:
            InvalidRequest: no scope, one that their role lacks, a name that is none, or too many keys.
        """
        chosen = tuple(scope for scope in grantable(user.role) if scope in scopes)
        beyond = [scope for scope in scopes if scope not in chosen]
        if beyond or not chosen:
            offered = ", ".join(grantable(user.role))
            problem = f"A key of {user.name} cannot have the scope “{beyond[0]}”" if beyond else "A key needs a scope"
            raise InvalidRequest(f"{problem}; the role “{user.role}” offers: {offered}.", field="scopes")
        label = name.strip()
        if not 0 < len(label) <= NAME_LIMIT:
            raise InvalidRequest(f"A key needs a name of 1 to {NAME_LIMIT} characters, which says where it is used.", field="name")
        if days is not None and not 0 < days <= DAYS_LIMIT:
            raise InvalidRequest(f"A key is good for more than 0 and at most {DAYS_LIMIT} days; leave it out for one that does not expire.", field="days")
        secret, expires_s = new_token(), None if days is None else time.time() + days * 24 * 3600
        row = await self._storage.run(lambda stores: stores.access.add_key(user.id, label, digest_of(secret), chosen, expires_s))
        self.forget()
        return f"{KEY_MARK}{row.id}_{secret}", row

    async def keys(self, user_id: str) -> tuple[KeyRecord, ...]:
        """All keys of somebody, the newest first."""
        return await self._storage.run(lambda stores: stores.access.keys(user_id))

    async def revoke_key(self, user_id: str, key_id: str) -> None:
        """End a key; one that was ended before leaves the list.

        Raises:
            NotFound: it is not there, or another's.
        """
        await self._storage.run(lambda stores: stores.access.revoke_key(user_id, key_id))
        self.forget()

    async def _person_of_key(self, text: str) -> Person | None:
        key_id, _, secret = text.removeprefix(KEY_MARK).partition("_")
        if not text.startswith(KEY_MARK) or not secret:
            return None
        known = await self._storage.run(lambda stores: stores.access.key(key_id))
        if not hmac.compare_digest(digest_of(secret), known.digest if known else UNKNOWN_DIGEST) or known is None:
            return None
        if known.key.used_s is None or time.time() - known.key.used_s > SEEN_EVERY_S:
            with contextlib.suppress(AppError):  # as above
                await self._storage.run(lambda stores: stores.access.use_key(key_id))
        return Person(known.user.id, known.user.role, known.user.name, key_id=key_id, scopes=frozenset(known.key.scopes))

    # ---- what was found --------------------------------------------------------------------------------------------

    def _remembered(self, digest: str) -> Person | None:
        person, until_s = self._found.get(digest, (None, 0.0))
        return person if until_s > time.monotonic() else None

    async def _remember(self, digest: str, looking: Awaitable[Person | None]) -> Person | None:
        changes = self._changes
        person = await looking
        if person is not None and changes == self._changes:  # what nobody has is not remembered: guesses would push out what is
            self._found[digest] = (person, time.monotonic() + REMEMBERED_S)
            while len(self._found) > REMEMBERED:
                self._found.popitem(last=False)
        return person
