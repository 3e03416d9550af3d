"""The opened store: one database for all services, imported and opened at the first call, off the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from modules.core.errors import AppError
from modules.store.records import is_private

__all__ = ["Storage", "Stores", "is_private"]

if TYPE_CHECKING:
    from modules.store.access import AccessStore
    from modules.store.bin import BinStore
    from modules.store.conversations import ConversationStore
    from modules.store.database import Database
    from modules.store.files import FileStore
    from modules.store.messages import MessageStore
    from modules.store.notebooks import NotebookStore
    from modules.store.paths import PathStore
    from modules.store.prompts import PromptStore
    from modules.store.usage import UsageStore
    from modules.store.users import UserStore

T = TypeVar("T")
THREADS = 4


@dataclass(frozen=True, slots=True)
class Stores:
    """The parts of the store over one database."""

    database: Database
    conversations: ConversationStore
    bin: BinStore
    messages: MessageStore
    paths: PathStore
    notebooks: NotebookStore
    files: FileStore
    prompts: PromptStore
    users: UserStore
    access: AccessStore
    usage: UsageStore


class Storage:
    """Runs work on the store in threads of its own."""

    def __init__(self, state_dir: Path | None, *, private: bool = False) -> None:
        """Name the folder of the database; None: it is in memory and written nowhere. `private`: what is in it says so by its ids."""
        self._state_dir = state_dir
        self._marked = private
        self._private: Storage | None = None
        self._stores: Stores | None = None
        self._opening = threading.Lock()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="store")
        self._closed = False

    async def open(self) -> str:
        """Open the store now rather than at the first call; a sentence when a damaged file was set aside, else empty."""
        return await self.run(lambda stores: stores.database.notice)

    async def run(self, work: Callable[[Stores], T]) -> T:
        """The result of `work`, which gets the opened stores in a thread.

        Raises:
            AppError: the server is stopping.
        """
        if self._closed:
            raise AppError("The server is stopping; try again when it is back.")
        return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: work(self._opened()))

    def of(self, some_id: str) -> Storage:
        """Where the conversation, message, file or entry of the bin with this id is: what is private is in memory alone."""
        return self.private if is_private(some_id) else self

    @property
    def folder(self) -> Path | None:
        """Where it is kept; None: in memory only."""
        return self._state_dir

    @property
    def on_disk(self) -> bool:
        """Whether what is in it is kept."""
        return self._state_dir is not None

    @property
    def private(self) -> Storage:
        """The storage of private conversations; it ends with this one."""
        if self._private is None:
            self._private = Storage(None, private=True)
            self._private._closed = self._closed
        return self._private

    async def close(self) -> None:
        """Finish what is being written and give the file back."""
        if self._private is not None:
            await self._private.close()
        self._closed = True
        await asyncio.to_thread(self._threads.shutdown)
        if self._stores is not None:
            await asyncio.to_thread(self._stores.database.close)

    def _opened(self) -> Stores:
        with self._opening:
            if self._stores is None:
                self._stores = _open_stores(self._state_dir, self._marked)
            return self._stores


def _open_stores(state_dir: Path | None, private: bool) -> Stores:
    """Import and open the store; replies that were being written when the server died are marked as stopped."""
    from modules.store.access import AccessStore
    from modules.store.bin import BinStore
    from modules.store.conversations import ConversationStore
    from modules.store.database import Database
    from modules.store.files import FileStore
    from modules.store.memory import MemoryDatabase
    from modules.store.messages import MessageStore
    from modules.store.notebooks import NotebookStore
    from modules.store.paths import PathStore
    from modules.store.prompts import PromptStore
    from modules.store.usage import UsageStore
    from modules.store.users import UserStore

    database = Database(state_dir) if state_dir is not None else MemoryDatabase(private=private)
    messages = MessageStore(database)
    messages.recover()
    return Stores(
        database, ConversationStore(database), BinStore(database), messages, PathStore(database), NotebookStore(database), FileStore(database),
        PromptStore(database), UserStore(database), AccessStore(database), UsageStore(database),
    )  # fmt: skip
