"""Who asks, and what they may do: somebody with an account, with a key of one, or one browser of a server that several people share without accounts.

The web server says it for the length of a request; what runs beside requests is nobody's. Knows no HTTP.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from modules.core.errors import Forbidden
from modules.core.settings import Settings

Role = Literal["chat", "manage", "admin"]
Scope = Literal["chat", "models", "jobs", "admin"]
# What a request needs: nothing; to be known; the page (a session, or a key that administers); a scope; a role
Need = Literal["open", "known", "page", "chat", "models", "jobs", "manage", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)
SCOPES: tuple[Scope, ...] = get_args(Scope)
FIRST_PERSON = "local"  # whose everything is where nobody is told apart; the first account is theirs
_CHAT: frozenset[Need] = frozenset({"open", "known", "page", "chat"})
_MANAGE: frozenset[Need] = _CHAT | {"models", "jobs", "manage"}
ALLOWED: Mapping[Role, frozenset[Need]] = {"chat": _CHAT, "manage": _MANAGE, "admin": _MANAGE | {"admin"}}


@dataclass(frozen=True)
class Person:
    """Somebody, and what their role and the key they came with let them do."""

    id: str
    role: Role = "chat"
    name: str = ""
    session_id: str = ""
    key_id: str = ""  # of the key of theirs that was sent; none: a session, or the server's own key
    scopes: frozenset[Scope] | None = None  # of that key

    def may(self, need: Need) -> bool:
        """Whether they may do what needs this; a key never more than the role of whose it is."""
        by_key = self.scopes is None or need in ("open", "known") or need in self.scopes or "admin" in self.scopes
        return by_key and need in ALLOWED[self.role]

    @property
    def has_account(self) -> bool:
        """Whether they logged in, or sent a key of theirs."""
        return bool(self.session_id or self.key_id)

    @property
    def manages(self) -> bool:
        """Whether they may change what belongs to all."""
        return self.may("manage")

    @property
    def administers(self) -> bool:
        """Whether accounts, settings and the server itself are theirs to change."""
        return self.may("admin")


PERSON = "paddock.person"  # where a request says it, for what is done with it later
_ASKING: ContextVar[Person | None] = ContextVar("asking", default=None)


def asking() -> Person | None:
    """Who asks; None where nobody is told apart, and outside of requests."""
    return _ASKING.get()


@contextmanager
def asked_by(person: Person) -> Iterator[None]:
    """Until this ends the request is theirs."""
    token = _ASKING.set(person)
    try:
        yield
    finally:
        _ASKING.reset(token)


def own_folder(state_dir: Path, person_id: str) -> Path:
    """Where files lie that somebody with an account has for themselves."""
    return state_dir / "people" / person_id


def grantable(role: Role) -> tuple[Scope, ...]:
    """The scopes that a key of somebody with this role can have."""
    return tuple(scope for scope in SCOPES if scope in ALLOWED[role])


def refusal_of(person: Person, need: Need) -> str:
    """Why somebody may not do what needs this, and what helps."""
    if need in ALLOWED[person.role]:
        if need in SCOPES:
            return f"This key may not do that: it lacks the scope “{need}”. Make one that has it under Account, or log in."
        return "No key but one with the scope “admin” does that; log in on the page instead."
    role = "admin" if need == "admin" else "manage"
    return f"Your account may not do that: it has the role “{person.role}”, and this needs “{role}”. Ask an administrator of this server."


def why_not(settings: Settings) -> str:
    """Why somebody may not change what belongs to all where several people share a server without accounts, and what helps."""
    what = "Several people share this server, and this belongs to all of them: only who has its key may change it."
    if settings.api_key is None:
        return f"{what} It was started without one; start it with PADDOCK_API_KEY=… to have one."
    return f"{what} Type it at {settings.root_path}/login, or send it as “Authorization: Bearer …”."


def check_manages(settings: Settings, person: Person | None = None, need: Need = "manage") -> None:
    """Let through who may change what belongs to all, or what of it a scope is for; everybody where nobody is told apart.

    Raises:
        Forbidden: they may not.
    """
    person = person or asking()
    if settings.multi_user and not (person and person.may(need)):
        raise Forbidden(why_not(settings))
    if person is not None and not person.may(need):
        raise Forbidden(refusal_of(person, need))
