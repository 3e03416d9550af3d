"""Accounts: who may use this server, with which role, and whether anybody must log in at all: as soon as there is one account, everybody must.

Who a session or key belongs to is found by identities.py; how a password is kept is known to passwords.py. Knows no HTTP.
"""

from __future__ import annotations

import contextlib
import shutil
import time
import unicodedata
from typing import Any

from modules.core.errors import Forbidden, InvalidRequest
from modules.core.person import ROLES, Role, own_folder
from modules.services.identities import Identities
from modules.services.passwords import Passwords, checked_password
from modules.services.storage import Storage, Stores
from modules.store.account_records import KeyRecord, SessionRecord, UserRecord
from modules.store.peek import is_marked, mark_accounts

__all__ = ["AccountService", "KeyRecord", "SessionRecord", "UserRecord"]

NAME_LIMIT = 64
MOST_DAILY_TOKENS = 10**12
LOOK_AGAIN_S = 5.0  # so late an account that another process made is seen
NONE_HERE = "A server started with --multi-user has no accounts: it keeps nothing on disk. Start it without that to have some."


class AccountService:
    """All verbs on accounts."""

    def __init__(self, storage: Storage, passwords: Passwords | None = None) -> None:
        """On a storage that is in memory only there are no accounts."""
        self._storage = storage
        self._passwords = passwords or Passwords()
        self._any = False
        self._looked_s = -LOOK_AGAIN_S
        self.identities = Identities(storage)

    async def on(self) -> bool:
        """Whether there is an account, so that everybody must log in; once true it stays, also where the database with the accounts was lost."""
        now_s, folder = time.monotonic(), self._storage.folder
        if not self._any and folder is not None and now_s - self._looked_s >= LOOK_AGAIN_S:
            self._any = is_marked(folder) or await self._storage.run(lambda stores: stores.users.any())
            self._looked_s = now_s
        return self._any

    async def close(self) -> None:
        """Wait for passwords that are being checked."""
        await self._passwords.close()

    # ---- accounts --------------------------------------------------------------------------------------------------

    async def create_first(self, name: str, password: str) -> UserRecord:
        """The first account, an administrator; all conversations that were there before are theirs.

        Raises:
            Conflict: there is one, perhaps since a moment ago.
            InvalidRequest: the name or the password cannot be one.
        """
        checked, kept = await self._kept(name, password)

        def make(stores: Stores) -> UserRecord:
            user = stores.users.create_first(checked, kept)
            if self._storage.folder is not None:
                with contextlib.suppress(OSError):  # it is only there for the day on which the database is lost
                    mark_accounts(self._storage.folder)
            return user

        user = await self._storage.run(make)
        self._any = True
        return user

    async def create(self, name: str, password: str, role: Role = "chat") -> UserRecord:
        """One more account.

        Raises:
            Conflict: the name is taken.
            InvalidRequest: the name, the role or the password cannot be one.
        """
        checked, kept = await self._kept(name, password)
        _check_role(role)
        return await self._storage.run(lambda stores: stores.users.create(checked, role, kept))

    async def list(self) -> tuple[UserRecord, ...]:
        """All accounts, the oldest first."""
        return await self._storage.run(lambda stores: stores.users.list())

    async def read(self, user_id: str) -> UserRecord:
        """One account.

        Raises:
            NotFound: there is none.
        """
        return (await self._storage.run(lambda stores: stores.users.get(user_id))).user

    async def named(self, name: str) -> UserRecord | None:
        """The account with a name, if there is one."""
        known = await self._storage.run(lambda stores: stores.users.named(name))
        return known.user if known else None

    async def change(self, user_id: str, *, name: str | None = None, role: Role | None = None, disabled: bool | None = None) -> UserRecord:
        """Change what is given. Who is disabled is logged out, and their keys do not work until they are enabled.

        Raises:
            NotFound: there is no such account.
            Conflict: the name is taken.
            InvalidRequest: no administrator would be left, or a value cannot be.
        """
        values: dict[str, Any] = {}
        if name is not None:
            values["name"] = checked_name(name)
        if role is not None:
            _check_role(role)
            values["role"] = role
        if disabled is not None:
            values["disabled"] = disabled
        if not values:
            return await self.read(user_id)
        user = await self._storage.run(lambda stores: stores.users.change(user_id, **values))
        if disabled:
            await self.identities.end_sessions(user_id)
        self.identities.forget()
        return user

    async def set_quota(self, user_id: str, daily_tokens: int | None) -> UserRecord:
        """How many tokens a day are computed for an account; 0 is no limit, None is what the settings say for all.

        Raises:
            NotFound: there is no such account.
            InvalidRequest: a number that cannot be one.
        """
        if daily_tokens is not None and not 0 <= daily_tokens <= MOST_DAILY_TOKENS:
            raise InvalidRequest(f"A daily limit is 0 (none) to {MOST_DAILY_TOKENS:,} tokens; got {daily_tokens:,}.", field="daily_tokens")
        return await self._storage.run(lambda stores: stores.users.change(user_id, daily_tokens=daily_tokens))

    async def delete(self, user_id: str) -> None:
        """Delete an account with its sessions, keys and profiles; its conversations and notebooks go into the bin, where nobody sees them, and thirty days later for good.

        Raises:
            NotFound: there is no such account.
            InvalidRequest: no administrator would be left.
        """

        def gone(stores: Stores) -> None:
            stores.users.delete(user_id)
            if self._storage.folder is not None:
                shutil.rmtree(own_folder(self._storage.folder, user_id), ignore_errors=True)

        await self._storage.run(gone)
        self.identities.forget()

    # ---- passwords -------------------------------------------------------------------------------------------------

    async def set_password(self, user_id: str, password: str, *, but: str = "") -> None:
        """Give an account another password; all its sessions end, but the one named.

        Raises:
            NotFound: there is no such account.
            InvalidRequest: the password cannot be one.
        """
        kept = await self._passwords.hash(checked_password(password))
        await self._storage.run(lambda stores: stores.users.change(user_id, password=kept))
        await self.identities.end_sessions(user_id, but=but)

    async def change_password(self, user_id: str, old: str, new: str, *, but: str = "") -> None:
        """The same by who has the account, who shows that they know the present one.

        Raises:
            Forbidden: that is not it.
        """
        known = await self._storage.run(lambda stores: stores.users.get(user_id))
        if not await self._passwords.fits(old, known.password):
            raise Forbidden("That is not your present password; nothing was changed.")
        await self.set_password(user_id, new, but=but)

    async def log_in(self, name: str, password: str, agent: str = "") -> tuple[UserRecord, str] | None:
        """Whose name and password these are, and the token of their new session; None where they do not fit. It takes as long where there is no such name.

        Raises:
            Busy: too many passwords are being checked.
        """
        known = await self._storage.run(lambda stores: stores.users.named(name))
        fits = await self._passwords.fits(password, known.password if known else None)
        if known is None or not fits or known.user.disabled:
            return None
        return known.user, await self.identities.begin_session(known.user.id, agent)

    async def _kept(self, name: str, password: str) -> tuple[str, str]:
        if not self._storage.on_disk:
            raise InvalidRequest(NONE_HERE)
        return checked_name(name), await self._passwords.hash(checked_password(password))


def checked_name(name: str) -> str:
    """A name as it is kept.

    Raises:
        InvalidRequest: it cannot be one.
    """
    found = unicodedata.normalize("NFC", name).strip()
    if not 0 < len(found) <= NAME_LIMIT or any(unicodedata.category(character).startswith("C") for character in found):
        raise InvalidRequest(f"A name has 1 to {NAME_LIMIT} characters, none of them invisible.", field="name")
    return found


def _check_role(role: str) -> None:
    if role not in ROLES:
        raise InvalidRequest(f"There is no role “{role}”; there are: {', '.join(ROLES)}.", field="role")
