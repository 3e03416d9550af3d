"""The database file: opening, transactions, recovery from a broken file, and SQLite's errors as sentences.

Knows SQLite and its pragmas; knows no conversation.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError

from modules.core.errors import AppError, Busy
from modules.store.migrations import migrate
from modules.store.peek import FILE_NAME

log = logging.getLogger(__name__)

BUSY_TIMEOUT_S = 10
BUSY_RETRY_S = 0.01
PRAGMAS = (
    f"PRAGMA busy_timeout = {BUSY_TIMEOUT_S * 1000}",
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",  # an acknowledged message survives a power cut, not only a crash
    "PRAGMA foreign_keys = ON",
)
WRITES = "paddock_writes"
IN_MEMORY = "paddock_in_memory"  # set on the connections of what is written nowhere
BROKEN_CODES = ("SQLITE_CORRUPT", "SQLITE_NOTADB")


class Database:
    """One SQLite file, used from any thread. `notice` is a sentence when a broken file was set aside at opening."""

    def __init__(self, state_dir: Path) -> None:
        """Open or make the file.

        Raises:
            AppError: the folder or the file cannot be used; the sentence says why.
        """
        self.path = state_dir / FILE_NAME
        self.notice = ""
        self._writing = threading.Lock()  # writers of one process wait in line instead of polling SQLite's lock
        try:
            state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._engine = self._open()
        except DBAPIError as error:
            raise self._as_sentence(error) from error
        except OSError as error:
            raise AppError(f"The folder for conversations cannot be used: {error}. Correct it or choose another --state-dir.") from error
        self._writer = self._engine.execution_options(**{WRITES: True})

    def close(self) -> None:
        """Give the file back."""
        self._engine.dispose()

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection that sees one consistent state and changes nothing."""
        try:
            with self._engine.connect() as connection:
                yield connection
        except DBAPIError as error:
            raise self._as_sentence(error) from error

    @contextlib.contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction: all of it is on disk when the block ends, or nothing.

        Raises:
            Busy: another process has been writing for longer than the time-out.
            AppError: the disk is full, or the file cannot be written.
        """
        try:
            with self._writing, self._writer.begin() as connection:
                yield connection
        except DBAPIError as error:
            raise self._as_sentence(error) from error

    # ---- opening ---------------------------------------------------------------------------------------------------

    def _open(self) -> Engine:
        existing = self._identity()
        engine = self._engine_of_file()
        try:
            self._prepare(engine)
        except DBAPIError as error:
            engine.dispose()
            if not _is_broken(error):
                raise
            self._set_aside(existing)
            engine = self._engine_of_file()
            self._prepare(engine)
        except BaseException:
            engine.dispose()
            raise
        return engine

    def _engine_of_file(self) -> Engine:
        with contextlib.suppress(FileExistsError):  # an existing file is not opened: closing it would drop SQLite's locks on it
            self.path.touch(0o600, exist_ok=False)
        url = URL.create("sqlite", database=str(self.path))
        connect_args = {"timeout": BUSY_TIMEOUT_S, "check_same_thread": False}
        engine = create_engine(url, connect_args=connect_args, hide_parameters=True)  # no prompt or reply in a traceback
        event.listen(engine, "connect", _on_connect)
        event.listen(engine, "begin", on_begin)
        return engine

    def _prepare(self, engine: Engine) -> None:
        """Check the file and bring it to the newest layout, waiting for others who open it.

        While a fresh file becomes a WAL file, SQLite refuses others at once instead of waiting for the time-out (its busy handler is not
        called where that could be a deadlock: sqlite.org/c3ref/busy_handler.html).
        """
        until_s = time.monotonic() + BUSY_TIMEOUT_S
        while True:
            try:
                return self._checked_and_new(engine)
            except DBAPIError as error:
                if not _is_busy(error) or time.monotonic() > until_s:
                    raise
            time.sleep(BUSY_RETRY_S)

    def _checked_and_new(self, engine: Engine) -> None:
        with engine.execution_options(**{WRITES: True}).begin() as connection:
            problem = str(connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one())
            if problem != "ok":
                raise DBAPIError("PRAGMA quick_check", None, _BrokenFileError(problem))
            migrate(connection)

    def _identity(self) -> tuple[int, int] | None:
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return None
        return status.st_dev, status.st_ino

    def _set_aside(self, broken: tuple[int, int] | None) -> None:
        """Rename the broken file and what SQLite keeps beside it; not a good one that another opener has made meanwhile."""
        if broken is None or self._identity() != broken:
            return
        name = f"{FILE_NAME}.broken-{time.strftime('%Y%m%d-%H%M%S')}"
        for suffix in ("-wal", "-shm", ""):  # the main file last: until then the others still belong to it
            source = self.path.with_name(FILE_NAME + suffix)
            if source.exists():
                source.replace(self.path.with_name(name + suffix))
        self.notice = (
            f"The file with the conversations was damaged, so a new one was begun. The damaged one was kept as {name} in the state folder."
        )
        log.error(self.notice)

    # ---- errors ----------------------------------------------------------------------------------------------------

    def _as_sentence(self, error: DBAPIError) -> AppError:
        """What SQLite said, as a sentence with the cure."""
        code = _code(error)
        log.error("SQLite refused: %s %s", code, error.orig)
        if _is_busy(error):
            return Busy(f"The conversations are being used by another program for longer than {BUSY_TIMEOUT_S} s; try again when it has ended.")
        if code.startswith(("SQLITE_FULL", "SQLITE_IOERR")):
            return AppError("This could not be saved: the disk is full or cannot be written. What was saved before is intact; free some space and try again.")
        if code.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM", "SQLITE_AUTH")):
            return AppError(f"The file {self.path} cannot be opened for writing; check who owns it and whether the disk is read-only.")
        if _is_broken(error):
            return AppError("The file with the conversations is damaged. Restart Paddock: it will set the file aside and begin a new one.")
        return AppError(f"The conversations could not be read or saved ({error.orig}). Restart Paddock; if this stays, report it.")


class _BrokenFileError(Exception):
    """Carries the answer of SQLite's own check the way the driver carries its errors."""

    sqlite_errorname = "SQLITE_CORRUPT"


def _code(error: DBAPIError) -> str:
    return str(getattr(error.orig, "sqlite_errorname", ""))


def _is_broken(error: DBAPIError) -> bool:
    return _code(error).startswith(BROKEN_CODES)


def _is_busy(error: DBAPIError) -> bool:
    return _code(error).startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))


def _on_connect(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # transactions are begun by `on_begin`, not by the driver's guess
    cursor = connection.cursor()
    for pragma in PRAGMAS:
        cursor.execute(pragma)
    cursor.close()


def on_begin(connection: Connection) -> None:
    """Begin a transaction as its user means it."""
    # A write transaction takes its lock at once: one that begins by reading could not wait for another writer.
    writes = connection.get_execution_options().get(WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
