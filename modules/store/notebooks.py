"""The notebook: one text per owner, with the texts before it to go back to. Knows no generation."""

from __future__ import annotations

from sqlalchemy import Connection, delete, insert, select, update

from modules.core.errors import Conflict
from modules.store.database import Database
from modules.store.records import NotebookRecord
from modules.store.schema import notebook_snapshots as snapshots
from modules.store.schema import notebooks

SNAPSHOT_LIMIT = 50


class NotebookStore:
    """Texts by owner; an owner without one has an empty text at revision 0."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def read(self, owner: str) -> NotebookRecord:
        """The text as it is."""
        with self._database.read() as connection:
            return _record(connection, owner)

    def save(self, owner: str, text: str, rev: int | None = None) -> int:
        """Replace the text; its new revision. Saving the same text again changes nothing.

        Raises:
            Conflict: it is no longer at `rev`; `details` hold the stored `text` and `rev`.
        """
        with self._database.write() as connection:
            now = _record(connection, owner)
            if rev is not None and rev != now.rev and text != now.text:
                raise Conflict("The notebook was changed in another window meanwhile.", text=now.text, rev=now.rev)
            if text == now.text:
                return now.rev
            return _write(connection, owner, text, now.rev)

    def push_undo(self, owner: str) -> None:
        """Keep the text as it is now to go back to; what was undone before can no longer be done again."""
        with self._database.write() as connection:
            now = _record(connection, owner)
            _ensure(connection, owner)
            _push(connection, owner, "undo", now.text)
            connection.execute(delete(snapshots).where(snapshots.c.owner == owner, snapshots.c.stack == "redo"))

    def undo(self, owner: str, *, exact: bool = False) -> NotebookRecord:
        """Go back to the text kept last; without one nothing changes.

        A kept text that is the present one is passed over, so that a press of the button is always seen; not if `exact`, for going
        back to where the last generation began, even if it wrote nothing.
        """
        return self._swap(owner, "undo", "redo", exact)

    def redo(self, owner: str) -> NotebookRecord:
        """Take back the last undo; without one nothing changes."""
        return self._swap(owner, "redo", "undo", exact=False)

    def _swap(self, owner: str, source: str, target: str, exact: bool) -> NotebookRecord:
        """Show the newest text of one stack and put the present one on the other."""
        query = select(snapshots).where(snapshots.c.owner == owner, snapshots.c.stack == source)
        with self._database.write() as connection:
            now = _record(connection, owner)
            for kept in connection.execute(query.order_by(snapshots.c.position.desc())).all():
                connection.execute(delete(snapshots).where(snapshots.c.position == kept.position))
                if kept.text != now.text:
                    _push(connection, owner, target, now.text)
                    _write(connection, owner, kept.text, now.rev)
                if exact or kept.text != now.text:
                    break
            return _record(connection, owner)


def _record(connection: Connection, owner: str) -> NotebookRecord:
    row = connection.execute(select(notebooks).where(notebooks.c.owner == owner)).one_or_none()
    kept = set(connection.execute(select(snapshots.c.stack).where(snapshots.c.owner == owner).distinct()).scalars())
    if row is None:
        return NotebookRecord("", 0, False, False)
    return NotebookRecord(row.text, row.rev, "undo" in kept, "redo" in kept)


def _ensure(connection: Connection, owner: str) -> None:
    if connection.execute(select(notebooks.c.owner).where(notebooks.c.owner == owner)).first() is None:
        connection.execute(insert(notebooks).values(owner=owner, text="", rev=0))


def _write(connection: Connection, owner: str, text: str, rev: int) -> int:
    _ensure(connection, owner)
    connection.execute(update(notebooks).where(notebooks.c.owner == owner).values(text=text, rev=rev + 1))
    return rev + 1


def _push(connection: Connection, owner: str, stack: str, text: str) -> None:
    connection.execute(insert(snapshots).values(owner=owner, stack=stack, text=text))
    newest = (
        select(snapshots.c.position)
        .where(snapshots.c.owner == owner, snapshots.c.stack == stack)
        .order_by(snapshots.c.position.desc())
        .limit(SNAPSHOT_LIMIT)
    )
    connection.execute(
        delete(snapshots).where(snapshots.c.owner == owner, snapshots.c.stack == stack, snapshots.c.position.not_in(newest))
    )
