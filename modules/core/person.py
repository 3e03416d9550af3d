"""Who asks, on a server that several people share: somebody of their own for each browser, and whether they may change what belongs to all.

The web server says it for the length of a request; what runs beside requests is nobody's. Knows no HTTP.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from modules.core.errors import Forbidden
from modules.core.settings import Settings


@dataclass(frozen=True)
class Person:
    """One browser, and whether it has shown the key."""

    id: str
    manages: bool = False


FIRST_PERSON = "local"  # whose everything is where nobody is told apart
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


def why_not(settings: Settings) -> str:
    """Why somebody may not change what belongs to all, and what helps."""
    what = "Several people share this server, and this belongs to all of them: only who has its key may change it."
    if settings.api_key is None:
        return f"{what} It was started without one; start it with PADDOCK_API_KEY=… to have one."
    return f"{what} Type it at {settings.root_path}/login, or send it as “Authorization: Bearer …”."


def check_manages(settings: Settings, person: Person | None = None) -> None:
    """Let through who may change what belongs to all; everybody where nobody is told apart.

    Raises:
        Forbidden: they may not.
    """
    person = person or asking()
    if settings.multi_user and not (person and person.manages):
        raise Forbidden(why_not(settings))
