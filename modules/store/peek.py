"""A look into a database without opening it as a store: whether there are accounts. For the start of the server, which has not imported the store yet."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

FILE_NAME = "paddock.sqlite3"


def has_users(state_dir: Path) -> bool:
    """Whether the database of a state folder has an account; not so where it cannot be read, or is of before there were any."""
    path = state_dir / FILE_NAME
    if not path.is_file():
        return False
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(path.absolute().as_uri() + "?mode=ro", uri=True)) as connection:
        return connection.execute("SELECT 1 FROM users LIMIT 1").fetchone() is not None
    return False
