"""News about conversations for whoever shows them: what changed, to be read again. Lives in the event loop; knows no store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

ChangeKind = Literal["tree", "title", "settings", "deleted"]
WAITING_LIMIT = 100


@dataclass(frozen=True, slots=True)
class ConversationChange:
    """What changed; `title` is the new one when that is what changed.

    `message_ids` are the messages that were added, changed or deleted; None where that can be any. Which path is shown may have changed too.
    """

    conversation_id: str
    kind: ChangeKind
    title: str = ""
    message_ids: tuple[str, ...] | None = ()


class Subscription:
    """Changes of one conversation, oldest first: `with service.subscribe(id) as changes: async for change in changes`."""

    def __init__(self, forget: Callable[[Subscription], None]) -> None:
        self._forget = forget
        self._waiting: asyncio.Queue[ConversationChange] = asyncio.Queue(WAITING_LIMIT)

    def publish(self, change: ConversationChange) -> None:
        """Hand a change over; for a reader who is far behind all of them become one: anything may have changed."""
        if self._waiting.full():
            self.pending()
            change = ConversationChange(change.conversation_id, "tree", message_ids=None)
        self._waiting.put_nowait(change)

    async def get(self) -> ConversationChange:
        """Wait for the next change."""
        return await self._waiting.get()

    def pending(self) -> tuple[ConversationChange, ...]:
        """Take all changes that have come so far, without waiting."""
        return tuple(self._waiting.get_nowait() for _ in range(self._waiting.qsize()))

    def close(self) -> None:
        """No more changes."""
        self._forget(self)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ConversationChange:
        return await self.get()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class ConversationNews:
    """Who follows which conversation."""

    def __init__(self) -> None:
        self._followers: dict[str, set[Subscription]] = {}

    def subscribe(self, conversation_id: str) -> Subscription:
        """Follow a conversation from now on; close it when done."""

        def forget(subscription: Subscription) -> None:
            followers = self._followers.get(conversation_id, set())
            followers.discard(subscription)
            if not followers:
                self._followers.pop(conversation_id, None)

        subscription = Subscription(forget)
        self._followers.setdefault(conversation_id, set()).add(subscription)
        return subscription

    def publish(self, conversation_id: str, kind: ChangeKind, title: str = "", message_ids: tuple[str, ...] | None = ()) -> None:
        """Tell all followers of a conversation."""
        for subscription in tuple(self._followers.get(conversation_id, ())):
            subscription.publish(ConversationChange(conversation_id, kind, title, message_ids))
