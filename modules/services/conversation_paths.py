"""The path that a conversation shows, in parts, for whoever shows it: its end, what comes before, what a change made of it.

What is asked here costs what it gives back, not what the conversation holds. Knows no model and no HTML.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from modules.services.conversation_settings import ConversationSettings, stored_settings
from modules.store.tree import KnownPath

__all__ = ["ConversationPaths", "KnownPath", "ShownChange", "ShownEnd"]

if TYPE_CHECKING:
    from modules.services.storage import Storage
    from modules.store.records import MessageRecord


@dataclass(frozen=True, slots=True)
class ShownEnd:
    """A conversation with the last messages shown; `path` has the ids of all, first message first."""

    id: str
    title: str
    rev: int
    settings: ConversationSettings
    path: tuple[str, ...]
    messages: tuple[MessageRecord, ...]


@dataclass(frozen=True, slots=True)
class ShownChange:
    """What became of a path: its first messages stay, some of them changed, others come behind them."""

    title: str
    rev: int
    settings: ConversationSettings
    kept: int
    added: tuple[MessageRecord, ...]
    changed: tuple[MessageRecord, ...]


class ConversationPaths:
    """Reads parts of the path shown. What is another owner's does not exist."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    async def head(self, owner: str, conversation_id: str) -> str | None:
        """The id of the message shown last; None where there is none yet.

        Raises:
            NotFound: no such conversation; so for all.
        """
        return await self._storage.of(conversation_id).run(lambda stores: stores.paths.head(owner, conversation_id))

    async def settings(self, owner: str, conversation_id: str) -> ConversationSettings:
        """The settings alone."""
        return stored_settings((await self._storage.of(conversation_id).run(lambda stores: stores.paths.conversation(owner, conversation_id))).settings)

    async def end(self, owner: str, conversation_id: str, count: int | None = None) -> ShownEnd:
        """The last messages shown, or all."""
        found = await self._storage.of(conversation_id).run(lambda stores: stores.paths.end(owner, conversation_id, count))
        row = found.conversation
        return ShownEnd(row.id, row.title, row.rev, stored_settings(row.settings), found.path, row.messages)

    async def before(self, owner: str, message_id: str, count: int) -> tuple[MessageRecord, ...]:
        """The messages that lead to a message, at most so many, first message first."""
        return await self._storage.of(message_id).run(lambda stores: stores.paths.before(owner, message_id, count))

    async def since(self, owner: str, conversation_id: str, known: KnownPath, touched: Iterable[str]) -> ShownChange | None:
        """What became of a path that is known, after messages were added, changed or deleted; None where it is to be read anew."""
        found = await self._storage.of(conversation_id).run(lambda stores: stores.paths.since(owner, conversation_id, known, touched))
        if found is None:
            return None
        row = found.conversation
        return ShownChange(row.title, row.rev, stored_settings(row.settings), found.kept, found.added, found.changed)
