"""Whose conversations and notebooks the page shows: those of who is logged in, with `multi_user` those of the browser that asks, else the one person's there is. Jobs are always the server's."""

from __future__ import annotations

from modules.core.person import FIRST_PERSON, asking

OWNER = FIRST_PERSON


def owner() -> str:
    """Who asks, as the store knows them."""
    person = asking()
    return person.id if person is not None else OWNER
