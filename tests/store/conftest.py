"""A database in a folder of its own, and both stores over it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from modules.store.conversations import ConversationStore
from modules.store.database import Database
from modules.store.messages import MessageStore
from modules.store.records import NewMessage


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(tmp_path / "state")
    yield opened
    opened.close()


@pytest.fixture
def conversations(database: Database) -> ConversationStore:
    return ConversationStore(database)


@pytest.fixture
def messages(database: Database) -> MessageStore:
    return MessageStore(database)


@pytest.fixture
def say() -> Callable[..., NewMessage]:
    """A message to add: its content, then its role and status."""

    def make(content: str = "text", role: str = "user", status: str = "complete") -> NewMessage:
        return NewMessage(role, content, None, time.time(), status=status)  # type: ignore[arg-type]

    return make
