"""Values that the stores of accounts hand out. Plain and frozen; knows no SQL. Hashes of secrets are in none of them but `KnownKey` and `KnownUser`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from modules.core.person import Role, Scope

SHOWN_DIGITS = 16  # of a session's digest, by which it is named


@dataclass(frozen=True, slots=True)
class UserRecord:
    """An account."""

    id: str
    name: str
    role: Role
    created_s: float
    disabled: bool
    daily_tokens: int | None


class KnownUser(NamedTuple):
    """An account with the hash of its password."""

    user: UserRecord
    password: str


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """A browser that somebody is logged in with."""

    id: str
    user_id: str
    created_s: float
    seen_s: float
    expires_s: float
    agent: str


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """An API key without its secret."""

    id: str
    user_id: str
    name: str
    scopes: tuple[Scope, ...]
    created_s: float
    expires_s: float | None
    used_s: float | None
    revoked_s: float | None


class KnownKey(NamedTuple):
    """An API key with the hash of its secret, and whose it is."""

    key: KeyRecord
    digest: str
    user: UserRecord
