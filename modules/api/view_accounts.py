"""Accounts on the page: one's own (password, sessions, keys) below /ui/account, and for administrators everybody's below /ui/users."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, Field

from modules.api.auth import FAILURES_PER_MINUTE, Failures, Turns, set_session
from modules.api.login import COOKIE_KEPT_S
from modules.core.errors import Busy, Forbidden, InvalidRequest
from modules.core.person import ROLES, Person, Role, Scope, asking, grantable
from modules.services.accounts import AccountService, KeyRecord, SessionRecord, UserRecord
from modules.services.app import App

PASSWORD = Field(max_length=1000)


class NewUser(BaseModel):
    """An account to be made."""

    name: str = Field(max_length=200)
    password: str = PASSWORD
    role: Role = "chat"


class UserChange(BaseModel):
    """What is to be another value; what is left out stays."""

    name: str | None = Field(None, max_length=200)
    role: Role | None = None
    disabled: bool | None = None


class PasswordChange(BaseModel):
    """The present password and the next one."""

    old: str = PASSWORD
    new: str = PASSWORD


class NewPassword(BaseModel):
    """A password that an administrator gives."""

    new: str = PASSWORD


class NewKey(BaseModel):
    """A key to be made; without `days` it does not expire."""

    name: str = Field(max_length=200)
    scopes: list[Scope] = Field(max_length=10)
    days: float | None = None


def account_routers(app: App) -> tuple[APIRouter, ...]:
    """All routes of accounts."""
    return _own(app.accounts), _everybodys(app), _ones(app)


def _own(accounts: AccountService) -> APIRouter:
    router, wrong, turns = APIRouter(prefix="/ui/account"), Failures(), Turns()

    @router.get("")
    async def account() -> dict[str, Any]:
        """Who is logged in, where else, and with which keys; `on` is false where there are no accounts."""
        person = asking()
        if not await accounts.on() or person is None:
            return {"on": False}
        user = await accounts.read(person.id)
        sessions, keys = await accounts.identities.sessions(user.id), await accounts.identities.keys(user.id)
        return {"on": True, **_user(user), "scopes": list(grantable(user.role)), "sessions": [_session(row, person) for row in sessions], "keys": [_key(row) for row in keys]}

    @router.post("/password")
    async def password(body: PasswordChange) -> dict[str, bool]:
        """Change one's password; all other sessions end. Who found an open page cannot guess the present one for long."""
        person = await _me(accounts)
        async with turns.of(person.id):
            if wrong.number(person.id) >= FAILURES_PER_MINUTE:
                raise Busy("Your present password was wrong too often; wait a minute. Nothing was changed.")
            try:
                await accounts.change_password(person.id, body.old, body.new, but=person.session_id)
            except Forbidden:
                wrong.add(person.id)
                raise
        return {"changed": True}

    @router.delete("/sessions/{session_id}")
    async def end(session_id: str) -> dict[str, int]:
        """Log out another browser of one's own, by the id of its session."""
        return {"ended": await accounts.identities.end_sessions((await _me(accounts)).id, session_id)}

    @router.post("/sessions/end-others")
    async def end_others() -> dict[str, int]:
        """Log out all browsers but this one."""
        person = await _me(accounts)
        return {"ended": await accounts.identities.end_sessions(person.id, but=person.session_id)}

    @router.post("/keys")
    async def make(body: NewKey) -> dict[str, Any]:
        """A new key: `key` is told this once."""
        user = await accounts.read((await _me(accounts)).id)
        key, row = await accounts.identities.create_key(user, body.name, body.scopes, body.days)
        return {"key": key, **_key(row)}

    @router.delete("/keys/{key_id}")
    async def revoke(key_id: str) -> dict[str, bool]:
        """End a key for good; one that was ended before leaves the list."""
        await accounts.identities.revoke_key((await _me(accounts)).id, key_id)
        return {"revoked": True}

    return router


def _everybodys(app: App) -> APIRouter:
    router, accounts = APIRouter(prefix="/ui/users"), app.accounts

    @router.get("")
    async def users() -> dict[str, Any]:
        """All accounts, the oldest first, and the roles there are."""
        rows = await accounts.list() if await accounts.on() else ()
        return {"on": await accounts.on(), "possible": not app.settings.multi_user, "roles": list(ROLES), "users": [_user(row) for row in rows]}

    @router.post("")
    async def add(body: NewUser, request: Request, response: Response) -> dict[str, Any]:
        """A new account. The first one is an administrator, gets what was there before, and is logged in at once: from then on everybody must."""
        if await accounts.on():
            await _check_known()
            return _user(await accounts.create(body.name, body.password, body.role))
        user = await accounts.create_first(body.name, body.password)
        token = await accounts.identities.begin_session(user.id, request.headers.get("user-agent", ""))
        set_session(response, request, token, COOKIE_KEPT_S)
        return _user(user)

    return router


def _ones(app: App) -> APIRouter:
    # Who asked before the first account was made was let in as nobody; what they asked for may come to its turn after that
    router, accounts = APIRouter(prefix="/ui/users", dependencies=[Depends(_check_known)]), app.accounts

    @router.patch("/{user_id}")
    async def change(user_id: str, body: UserChange) -> dict[str, Any]:
        """Another name or role, or disable and enable."""
        return _user(await accounts.change(user_id, name=body.name, role=body.role, disabled=body.disabled))

    @router.delete("/{user_id}")
    async def delete(user_id: str) -> dict[str, bool]:
        """Delete an account; what it had written is gone for good after thirty days, what was private at once."""
        await accounts.delete(user_id)
        for conversation_id in await app.conversation_bin.private_of(user_id):
            await app.replies.stop(conversation_id)
        await app.conversation_bin.forget_private(user_id)
        return {"deleted": True}

    @router.post("/{user_id}/password")
    async def password(user_id: str, body: NewPassword) -> dict[str, bool]:
        """Give an account a password; it is logged out everywhere."""
        person = asking()
        await accounts.set_password(user_id, body.new, but=person.session_id if person is not None and person.id == user_id else "")
        return {"changed": True}

    @router.get("/{user_id}/access")
    async def access(user_id: str) -> dict[str, Any]:
        """Where an account is logged in, and its keys."""
        await accounts.read(user_id)
        sessions, keys = await accounts.identities.sessions(user_id), await accounts.identities.keys(user_id)
        return {"sessions": [_session(row, asking()) for row in sessions], "keys": [_key(row) for row in keys]}

    @router.delete("/{user_id}/sessions")
    async def log_out(user_id: str) -> dict[str, int]:
        """Log an account out everywhere."""
        return {"ended": await accounts.identities.end_sessions(user_id)}

    @router.delete("/{user_id}/keys/{key_id}")
    async def revoke(user_id: str, key_id: str) -> dict[str, bool]:
        """End a key of an account for good; one that was ended before leaves the list."""
        await accounts.identities.revoke_key(user_id, key_id)
        return {"revoked": True}

    return router


async def _check_known() -> None:
    """Let through who is known; what they may is the table's to say.

    Raises:
        Forbidden: nobody is.
    """
    if asking() is None:
        raise Forbidden("Accounts are changed by administrators only; log in as one.")


async def _me(accounts: AccountService) -> Person:
    """Who is logged in.

    Raises:
        InvalidRequest: there are no accounts.
        Forbidden: it is the server's key, which is nobody's.
    """
    person = asking()
    if not await accounts.on() or person is None:
        raise InvalidRequest("There are no accounts here, so nobody has a password or keys; make the first one under Users.")
    if not person.session_id and not person.key_id:
        raise Forbidden("The server's own key belongs to no account; log in, or name an account below /ui/users.")
    return person


def _user(user: UserRecord) -> dict[str, Any]:
    return asdict(user)


def _session(row: SessionRecord, person: Person | None) -> dict[str, Any]:
    told = {name: value for name, value in asdict(row).items() if name != "user_id"}
    return {**told, "current": person is not None and row.id == person.session_id}


def _key(row: KeyRecord) -> dict[str, Any]:
    return {name: value for name, value in asdict(row).items() if name != "user_id"}
