"""A look into a database without opening it as a store: whether there are accounts. For the start of the server, which has not imported the store yet.

That there were some is also marked beside it, so that a server whose database was lost does not take itself for one that nobody needs to log in to.
"""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from modules.core.files import write_atomic

FILE_NAME = "paddock.sqlite3"
MARK_NAME = "accounts"
MARK = "This server has accounts. Whoever deletes this file while the database has none opens the server to everybody who reaches it.\n"


def has_users(state_dir: Path) -> bool:
    """Whether the database of a state folder has an account; not so where it cannot be read, or is of before there were any."""
    path = state_dir / FILE_NAME
    if not path.is_file():
        return False
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(path.absolute().as_uri() + "?mode=ro", uri=True)) as connection:
        return connection.execute("SELECT 1 FROM users LIMIT 1").fetchone() is not None
    return False


def mark_accounts(state_dir: Path) -> None:
    """Note that there are accounts.

    Raises:
        OSError: the folder cannot be written.
    """
    if not is_marked(state_dir):
        write_atomic(state_dir / MARK_NAME, MARK, mode=0o600)


def is_marked(state_dir: Path) -> bool:
    """Whether there were accounts once."""
    return (state_dir / MARK_NAME).exists()
