"""Notebooks of an owner: texts, what undo goes back to, versions, and a bin. Knows no generation.

Where an id is asked for, the empty one means the notebook that was opened last. Another owner's id is answered like one that does not exist.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from sqlalchemy import Connection, Row, Select, delete, func, insert, select, update

from modules.core.errors import Conflict, NotFound
from modules.store.conversations import new_id
from modules.store.database import Database
from modules.store.notebook_records import (
    NotebookRecord,
    NotebookSummary,
    NotebookVersion,
    Place,
    VersionKind,
)
from modules.store.notebook_tables import notebook_snapshots as snapshots
from modules.store.notebook_tables import notebook_versions as versions
from modules.store.notebook_tables import notebooks

SNAPSHOT_LIMIT = 50
VERSION_LIMIT = 200  # of each notebook: the oldest go first
BEGINNING = 200
LEAD = 40  # characters told before what is new in a version


class NotebookStore:
    """Notebooks, each with an owner that every call names."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # ---- notebooks -------------------------------------------------------------------------------------------------

    def list(self, owner: str, search: str = "", *, deleted: bool = False) -> tuple[NotebookSummary, ...]:
        """The last opened first; with `search` those that have every word in name or text, in letters of any size."""
        words = search.casefold().split()
        removed = notebooks.c.deleted_s
        found = select(notebooks).where(notebooks.c.owner == owner, removed.is_not(None) if deleted else removed.is_(None))
        order = removed.desc() if deleted else notebooks.c.opened.desc()
        with self._database.read() as connection:
            return tuple(_summary(row) for row in connection.execute(found.order_by(order)) if _has(row, words))

    def create(self, owner: str, name: str = "", text: str = "", settings: Mapping[str, Any] | None = None) -> str:
        """The id of a new notebook, which counts as opened."""
        with self._database.write() as connection:
            return _create(connection, owner, name, text, settings or {})

    def open(self, owner: str, notebook_id: str = "") -> str:
        """Remember which notebook is open; its id. An owner without one gets an empty one."""
        with self._database.write() as connection:
            row = _found(connection, owner, notebook_id)
            if row is None:
                return _create(connection, owner, "", "", {})
            if row.opened < _opened(connection, owner):
                connection.execute(update(notebooks).where(notebooks.c.id == row.id).values(opened=_opened(connection, owner) + 1))
            return str(row.id)

    def rename(self, owner: str, notebook_id: str, name: str) -> None:
        """Give it a name; an empty one goes back to the first words of the text."""
        self._change(owner, notebook_id, name=name)

    def change_settings(self, owner: str, notebook_id: str, settings: Mapping[str, Any]) -> None:
        """Replace how it is written on."""
        self._change(owner, notebook_id, settings=dict(settings))

    def edit_settings(self, owner: str, notebook_id: str, edit: Callable[[Mapping[str, Any]], dict[str, Any]]) -> dict[str, Any]:
        """Change some of how it is written on; all of it then. Nobody else writes between what `edit` gets and what it gives."""
        with self._database.write() as connection:
            row = _owned(connection, owner, notebook_id)
            settings = edit(row.settings)
            connection.execute(update(notebooks).where(notebooks.c.id == row.id).values(settings=settings))
            return settings

    def delete(self, owner: str, notebook_id: str) -> None:
        """Put it into the bin."""
        self._change(owner, notebook_id, deleted_s=time.time())

    def restore(self, owner: str, notebook_id: str) -> None:
        """Take it out of the bin."""
        chosen = (notebooks.c.owner == owner, notebooks.c.id == notebook_id, notebooks.c.deleted_s.is_not(None))
        with self._database.write() as connection:
            if not connection.execute(update(notebooks).where(*chosen).values(deleted_s=None)).rowcount:
                raise _unknown()

    def purge(self, before_s: float) -> int:
        """Remove for good what was put into the bin before a time; how many."""
        with self._database.write() as connection:
            return connection.execute(delete(notebooks).where(notebooks.c.deleted_s < before_s)).rowcount

    def _change(self, owner: str, notebook_id: str, **values: Any) -> None:
        with self._database.write() as connection:
            row = _owned(connection, owner, notebook_id)
            connection.execute(update(notebooks).where(notebooks.c.id == row.id).values(**values))

    # ---- the text --------------------------------------------------------------------------------------------------

    def read(self, owner: str, notebook_id: str = "") -> NotebookRecord:
        """A notebook as it is; an owner without one has an empty one at revision 0."""
        with self._database.read() as connection:
            return _record(connection, _found(connection, owner, notebook_id))

    def save(self, owner: str, text: str, rev: int | None = None, notebook_id: str = "") -> int:
        """Replace the text; its new revision. Saving the same text again changes nothing.

        Raises:
            Conflict: it is no longer at `rev`; `details` hold the stored `text` and `rev`.
        """
        with self._database.write() as connection:
            now = _owned(connection, owner, notebook_id)
            if rev is not None and rev != now.rev and text != now.text:
                raise Conflict("The notebook was changed in another window meanwhile.", text=now.text, rev=now.rev)
            if text == now.text:
                return int(now.rev)
            return _write(connection, now, text)

    def push_undo(self, owner: str, notebook_id: str = "", place: Place | None = None) -> None:
        """Keep the text as it is now to go back to, and where it is to be written on; what was undone before can no longer be done again."""
        with self._database.write() as connection:
            now = _owned(connection, owner, notebook_id)
            _push(connection, now.id, "undo", now.text, place)
            connection.execute(delete(snapshots).where(snapshots.c.notebook_id == now.id, snapshots.c.stack == "redo"))

    def undo(self, owner: str, notebook_id: str = "", *, exact: bool = False) -> NotebookRecord:
        """Go back to the text kept last; without one nothing changes.

        A kept text that is the present one is passed over, so that a press of the button is always seen; not if `exact`, for going
        back to where the last generation began, even if it wrote nothing.
        """
        return self._swap(owner, notebook_id, ("undo", "redo"), exact)

    def redo(self, owner: str, notebook_id: str = "") -> NotebookRecord:
        """Take back the last undo; without one nothing changes."""
        return self._swap(owner, notebook_id, ("redo", "undo"), exact=False)

    def _swap(self, owner: str, notebook_id: str, stacks: tuple[str, str], exact: bool) -> NotebookRecord:
        """Show the newest text of one stack and put the present one on the other."""
        source, target = stacks
        place = None
        with self._database.write() as connection:
            now = _found(connection, owner, notebook_id)
            if now is None:
                return NotebookRecord()
            query = select(snapshots).where(snapshots.c.notebook_id == now.id, snapshots.c.stack == source)
            for kept in connection.execute(query.order_by(snapshots.c.position.desc())).all():
                connection.execute(delete(snapshots).where(snapshots.c.position == kept.position))
                place = (kept.start, kept.stop) if kept.start is not None else None
                if kept.text != now.text:
                    _push(connection, now.id, target, now.text, place)
                    _write(connection, now, kept.text)
                if exact or kept.text != now.text:
                    break
            return _record(connection, _owned(connection, owner, now.id), place)

    # ---- versions --------------------------------------------------------------------------------------------------

    def keep_version(self, owner: str, kind: VersionKind, text: str, notebook_id: str = "", *, after_s: float = 0.0) -> bool:
        """Keep a text as a version, unless the newest one, or the newest that stood in the text, says the same, or is younger than `after_s`; whether it was kept."""
        with self._database.write() as connection:
            now = _owned(connection, owner, notebook_id)
            newest = connection.execute(_versions(now.id).limit(1)).one_or_none()
            stood = connection.execute(_versions(now.id).where(versions.c.kind != "alternative").limit(1)).one_or_none()  # in the notebook itself
            if not text or (newest is not None and time.time() - newest.created_s < after_s) or text in {row.text for row in (newest, stood) if row is not None}:
                return False
            _add_version(connection, now.id, kind, text)
            return True

    def grow_version(self, owner: str, number: int | None, text: str, notebook_id: str = "") -> int:
        """Keep an alternative that is being written: a new version without a number, else the longer text of that one; its number."""
        with self._database.write() as connection:
            now = _owned(connection, owner, notebook_id)
            longer = update(versions).where(versions.c.notebook_id == now.id, versions.c.position == number).values(text=text)
            if number is not None and connection.execute(longer).rowcount:
                return number
            return _add_version(connection, now.id, "alternative", text)

    def versions(self, owner: str, notebook_id: str = "") -> tuple[NotebookVersion, ...]:
        """All versions, each with the part of its text that is new in it, newest first."""
        with self._database.read() as connection:
            now = _found(connection, owner, notebook_id)
            rows = connection.execute(_versions(now.id)).all() if now is not None else ()
            pairs = zip_longest(rows, rows[1:])
            return tuple(_version(row, max(0, _same(row.text, older.text) - LEAD) if older is not None else 0, BEGINNING) for row, older in pairs)

    def version(self, owner: str, number: int, notebook_id: str = "") -> NotebookVersion:
        """One version with its whole text.

        Raises:
            NotFound: there is none with that number.
        """
        with self._database.read() as connection:
            now = _found(connection, owner, notebook_id)
            row = connection.execute(_versions(now.id).where(versions.c.position == number)).one_or_none() if now is not None else None
            if row is None:
                raise NotFound("This version is not there any more; open the list of versions again.")
            return _version(row)


def _unknown() -> NotFound:
    return NotFound("There is no such notebook. It may have been deleted in another window; choose one from the list.")


def _found(connection: Connection, owner: str, notebook_id: str) -> Row[Any] | None:
    """The row of a notebook; of the one opened last for an empty id, and nothing if there is none.

    Raises:
        NotFound: an id that is unknown, another owner's, or in the bin.
    """
    query = select(notebooks).where(notebooks.c.owner == owner, notebooks.c.deleted_s.is_(None))
    if not notebook_id:
        return connection.execute(query.order_by(notebooks.c.opened.desc()).limit(1)).one_or_none()
    row = connection.execute(query.where(notebooks.c.id == notebook_id)).one_or_none()
    if row is None:
        raise _unknown()
    return row


def _owned(connection: Connection, owner: str, notebook_id: str) -> Row[Any]:
    """As `_found`; an owner without a notebook gets one."""
    row = _found(connection, owner, notebook_id)
    if row is not None:
        return row
    return connection.execute(select(notebooks).where(notebooks.c.id == _create(connection, owner, "", "", {}))).one()


def _opened(connection: Connection, owner: str) -> int:
    return int(connection.execute(select(func.max(notebooks.c.opened)).where(notebooks.c.owner == owner)).scalar() or 0)


def _create(connection: Connection, owner: str, name: str, text: str, settings: Mapping[str, Any]) -> str:
    now_s, notebook_id = time.time(), new_id()
    connection.execute(insert(notebooks).values(
        id=notebook_id, owner=owner, name=name, text=text, rev=0, settings=dict(settings), created_s=now_s, updated_s=now_s,
        opened=_opened(connection, owner) + 1,
    ))  # fmt: skip
    return notebook_id


def _record(connection: Connection, row: Row[Any] | None, place: Place | None = None) -> NotebookRecord:
    if row is None:
        return NotebookRecord()
    stacks = select(snapshots.c.stack).where(snapshots.c.notebook_id == row.id).distinct()
    kept = set(connection.execute(stacks).scalars())
    return NotebookRecord(row.id, row.name, row.text, row.rev, "undo" in kept, "redo" in kept, row.settings, place)


def _has(row: Row[Any], words: Sequence[str]) -> bool:
    """Whether a notebook has every word. SQLite's own comparison knows the sizes of ASCII letters only."""
    folded = f"{row.name}\n{row.text}".casefold() if words else ""
    return all(word in folded for word in words)


def _summary(row: Row[Any]) -> NotebookSummary:
    return NotebookSummary(row.id, row.name, row.text[:BEGINNING], len(row.text), row.updated_s, row.deleted_s)


def _versions(notebook_id: str) -> Select[Any]:
    return select(versions).where(versions.c.notebook_id == notebook_id).order_by(versions.c.position.desc())


def _add_version(connection: Connection, notebook_id: str, kind: VersionKind, text: str) -> int:
    made = connection.execute(insert(versions).values(notebook_id=notebook_id, kind=kind, text=text, created_s=time.time()))
    kept = _versions(notebook_id).with_only_columns(versions.c.position).limit(VERSION_LIMIT)
    connection.execute(delete(versions).where(versions.c.notebook_id == notebook_id, versions.c.position.not_in(kept)))
    return int(made.inserted_primary_key[0]) if made.inserted_primary_key else 0


def _version(row: Row[Any], begin: int = 0, characters: int | None = None) -> NotebookVersion:
    text = row.text if characters is None else row.text[begin : begin + characters]
    return NotebookVersion(row.position, row.kind, text, len(row.text), row.created_s, begin)


def _same(text: str, other: str) -> int:
    """How many characters two texts begin with alike; by halving, as they may be long."""
    low, high = 0, min(len(text), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if text[low:middle] == other[low:middle] else (low, middle - 1)
    return low


def _write(connection: Connection, row: Row[Any], text: str) -> int:
    values = {"text": text, "rev": row.rev + 1, "updated_s": time.time()}
    connection.execute(update(notebooks).where(notebooks.c.id == row.id).values(**values))
    return int(row.rev) + 1


def _push(connection: Connection, notebook_id: str, stack: str, text: str, place: Place | None) -> None:
    start, stop = place or (None, None)
    connection.execute(insert(snapshots).values(notebook_id=notebook_id, stack=stack, text=text, start=start, stop=stop))
    of_stack = (snapshots.c.notebook_id == notebook_id, snapshots.c.stack == stack)
    newest = select(snapshots.c.position).where(*of_stack).order_by(snapshots.c.position.desc()).limit(SNAPSHOT_LIMIT)
    connection.execute(delete(snapshots).where(*of_stack, snapshots.c.position.not_in(newest)))
