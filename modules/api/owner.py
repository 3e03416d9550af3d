"""Whose conversations and notebooks the page shows: those of who is logged in, with `multi_user` those of the browser that asks, else the one person's there is. Jobs are always the server's."""

from __future__ import annotations

from typing import NamedTuple

from fastapi import Request

from modules.core.person import FIRST_PERSON, asking

OWNER = FIRST_PERSON


def owner() -> str:
    """Who asks, as the store knows them."""
    person = asking()
    return person.id if person is not None else OWNER


class Caller(NamedTuple):
    """Whose turn a request to a model takes."""

    person: str  # who asks, or where nobody is told apart, their address
    client: str  # one program or conversation of theirs


def caller(request: Request, client: str = "") -> Caller:
    """Who sends a request; without the name of a program its address is one."""
    address = request.client.host if request.client else ""
    who = asking()
    return Caller(who.id if who is not None else address, client or address)
