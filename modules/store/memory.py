"""A database that is written nowhere: private conversations live in one until the server ends, and all of a server that several people share in another."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, StaticPool, create_engine, event

from modules.store.database import IN_MEMORY, WRITES, Database, on_begin
from modules.store.migrations import migrate

PRAGMAS = (
    "PRAGMA temp_store = MEMORY",  # what SQLite sorts does not go to a file either
    "PRAGMA secure_delete = ON",
    "PRAGMA foreign_keys = ON",
)


class MemoryDatabase(Database):
    """One connection, which its users take in turns."""

    def __init__(self, *, private: bool = True) -> None:
        """Make it, empty; the ids of what is `private` say so."""
        self.path = Path(":memory:")
        self.notice = ""
        self._writing = threading.Lock()
        engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False}, hide_parameters=True)
        event.listen(engine, "connect", _on_connect)
        event.listen(engine, "begin", on_begin)
        self._engine = engine.execution_options(**{IN_MEMORY: private})
        self._writer = self._engine.execution_options(**{WRITES: True})
        with self._writer.begin() as connection:
            migrate(connection)

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """The connection; nothing is changed with it."""
        with self._writing, super().read() as connection:
            yield connection


def _on_connect(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # as in database.py
    cursor = connection.cursor()
    for pragma in PRAGMAS:
        cursor.execute(pragma)
    cursor.close()
