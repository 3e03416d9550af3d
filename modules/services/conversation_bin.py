"""Deleted conversations and messages: looked at, brought back, and thirty days later gone for good.

Deleting itself is a verb of conversations.py. Knows no HTML.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable

from modules.core.errors import AppError
from modules.services.storage import Storage, Stores
from modules.store.records import DeletedRecord

__all__ = ["ConversationBin", "DeletedRecord"]

log = logging.getLogger(__name__)

KEPT_S = 30 * 24 * 3600.0
LOOK_S = 24 * 3600.0  # how often it is looked for what is old


class ConversationBin:
    """All verbs on the bin of conversations. `tell` has the followers of a conversation read it again."""

    def __init__(self, storage: Storage, tell: Callable[[str], None]) -> None:
        self._storage = storage
        self._tell = tell
        self._purging: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Delete for good what is old, now and every day."""
        self._purging = asyncio.get_running_loop().create_task(self._purge_daily(), name="conversation bin")

    async def close(self) -> None:
        """Stop looking for what is old."""
        if self._purging is not None:
            self._purging.cancel()
            await asyncio.gather(self._purging, return_exceptions=True)

    async def list(self, owner: str) -> tuple[DeletedRecord, ...]:
        """What can be restored, the newest first."""
        return await self._storage.run(lambda stores: stores.bin.list(owner))

    async def restore(self, owner: str, bin_id: str) -> str:
        """Bring something back; the id of its conversation.

        Raises:
            NotFound: it is not in the bin, or another owner's; so for every verb.
        """
        conversation_id = await self._storage.of(bin_id).run(lambda stores: stores.bin.restore(owner, bin_id))
        self._tell(conversation_id)
        return conversation_id

    async def discard(self, owner: str, bin_id: str) -> None:
        """Delete something for good."""
        await self._storage.of(bin_id).run(lambda stores: stores.bin.discard(owner, bin_id))

    async def empty(self, owner: str) -> int:
        """Delete for good all that can be restored; how many things that were."""
        return await self._storage.run(lambda stores: stores.bin.empty(owner))

    async def private_of(self, owner: str) -> tuple[str, ...]:
        """The ids of all private conversations of somebody."""
        rows = await self._storage.private.run(lambda stores: stores.conversations.list(owner))
        return tuple(row.id for row in rows)

    async def forget_private(self, owner: str) -> None:
        """Forget all private conversations of somebody who is no longer there."""

        def forget(stores: Stores) -> None:
            for row in stores.conversations.list(owner):
                stores.bin.discard(owner, stores.conversations.delete(owner, row.id))

        await self._storage.private.run(forget)

    async def purge(self) -> int:
        """Delete for good what was deleted thirty days ago; how many things that were."""
        return await self._storage.run(lambda stores: stores.bin.purge(time.time() - KEPT_S))

    async def _purge_daily(self) -> None:
        while True:
            with contextlib.suppress(AppError):  # the store has logged it; a disk that is full today must not end this
                gone = await self.purge()
                if gone:
                    log.info("%d deleted conversations or messages were older than 30 days and are gone for good.", gone)
            await asyncio.sleep(LOOK_S)
