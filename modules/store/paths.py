"""The path that a conversation shows, in parts: its end, what comes before a message, what a change made of it.

Texts are read of what is asked for only; of the others ids at most. Changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from sqlalchemy import Connection, literal, select

from modules.store.conversations import batches, conversation_of, owned
from modules.store.database import Database
from modules.store.message_rows import owned_message, records_of, tree_of, versions_below
from modules.store.records import MessageRecord, StoredConversation
from modules.store.schema import messages
from modules.store.tree import KnownPath, MessageTree

STEPS_LIMIT = 100  # new messages that are still called a change; more are another path
TAIL_STEP = 64  # messages that are read first where it is not known how many are needed


@dataclass(frozen=True, slots=True)
class PathEnd:
    """The ids of all messages shown, first message first; the conversation has the records of the last ones."""

    conversation: StoredConversation
    path: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PathChange:
    """How a path that somebody knows becomes the one that is shown now."""

    conversation: StoredConversation  # without messages
    kept: int  # the first messages that stay
    added: tuple[MessageRecord, ...]  # behind those
    changed: tuple[MessageRecord, ...]  # of those


class Link(NamedTuple):
    """A message of a path of which the text was not read."""

    id: str
    parent_id: str | None
    role: str
    pinned: bool


@dataclass(frozen=True, slots=True)
class PathTail:
    """The last messages of a path, without their versions, and those before them."""

    before: tuple[Link, ...]
    records: tuple[MessageRecord, ...]


class PathStore:
    """Reads parts of the path shown."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def head(self, owner: str, conversation_id: str) -> str | None:
        """The id of the message shown last.

        Raises:
            NotFound: no such conversation, or it is another owner's; so for all.
        """
        with self._database.read() as connection:
            return _head(connection, conversation_id, owned(connection, owner, conversation_id).head_id)

    def conversation(self, owner: str, conversation_id: str) -> StoredConversation:
        """A conversation without its messages."""
        with self._database.read() as connection:
            return conversation_of(owned(connection, owner, conversation_id))

    def end(self, owner: str, conversation_id: str, count: int | None = None) -> PathEnd:
        """The last messages shown, or all."""
        with self._database.read() as connection:
            row = owned(connection, owner, conversation_id)
            tree = tree_of(connection, conversation_id)
            path = tree.path(row.head_id if row.head_id in tree else tree.newest_leaf())
            ids = path if count is None else path[max(0, len(path) - count) :]
            records = records_of(connection, ids, {message_id: tree.versions(message_id) for message_id in ids})
            return PathEnd(replace(conversation_of(row), messages=records), tuple(path))

    def before(self, owner: str, message_id: str, count: int) -> tuple[MessageRecord, ...]:
        """The messages that lead to a message, at most so many, first message first.

        Raises:
            NotFound: no such message, or it is another owner's.
        """
        with self._database.read() as connection:
            row = owned_message(connection, owner, message_id)
            up = select(messages.c.id, messages.c.parent_id, literal(1).label("step")).where(messages.c.id == row.parent_id).cte("up", recursive=True)
            parent = select(messages.c.id, messages.c.parent_id, up.c.step + 1).join(up, messages.c.id == up.c.parent_id)
            up = up.union_all(parent.where(up.c.step < count))
            found = connection.execute(select(up.c.id, up.c.parent_id).order_by(up.c.step.desc())).all()
            return _records(connection, row.conversation_id, [(step.id, step.parent_id) for step in found])

    def tail(self, owner: str, message_id: str, enough: Callable[[PathTail], bool]) -> PathTail:
        """The messages that lead to a message, itself included: read from the end, more and more of them, until they are enough or all.

        Raises:
            NotFound: no such message, or it is another owner's.
        """
        with self._database.read() as connection:
            conversation_id = owned_message(connection, owner, message_id).conversation_id
            query = select(messages.c.id, messages.c.parent_id, messages.c.role, messages.c.pinned)
            alive = query.where(messages.c.conversation_id == conversation_id, messages.c.bin_id.is_(None)).order_by(messages.c.position)
            links = {row.id: Link(*row) for row in connection.execute(alive)}
            path = [links[each] for each in MessageTree((link.id, link.parent_id) for link in links.values()).path(message_id)]
            found, count = PathTail(tuple(path), ()), TAIL_STEP
            while found.before and not (found.records and enough(found)):
                left = len(path) - count if count < len(path) else 0
                ids = [link.id for link in found.before[left:]]
                more = records_of(connection, ids, dict.fromkeys(ids, ()))
                found, count = PathTail(found.before[:left], more + found.records), 2 * count
            return found

    def records(self, owner: str, conversation_id: str, ids: Sequence[str]) -> tuple[MessageRecord, ...]:
        """Messages of a path, without their versions."""
        with self._database.read() as connection:
            owned(connection, owner, conversation_id)
            return records_of(connection, ids, dict.fromkeys(ids, ()))

    def since(self, owner: str, conversation_id: str, known: KnownPath, touched: Iterable[str]) -> PathChange | None:
        """What became of a path that somebody knows, after messages were added, changed or deleted; None where nearly all of it is another one."""
        with self._database.read() as connection:
            row = owned(connection, owner, conversation_id)
            head_id = _head(connection, conversation_id, row.head_id)
            new = _climb(connection, head_id, known.places)
            if new is None:
                return None
            parent_id = new[0][1] if new else head_id
            kept = 0 if parent_id is None else known.places[parent_id] + 1
            changed = _touched(connection, touched, known, kept)
            records = _records(connection, conversation_id, [*new, *changed])
            return PathChange(conversation_of(row), kept, records[: len(new)], records[len(new) :])


def _head(connection: Connection, conversation_id: str, head_id: str | None) -> str | None:
    """The head, or what is shown last where that is damaged."""
    alive = select(messages.c.id).where(messages.c.id == head_id, messages.c.conversation_id == conversation_id, messages.c.bin_id.is_(None))
    if head_id is not None and connection.execute(alive).first() is not None:
        return head_id
    return tree_of(connection, conversation_id).newest_leaf()


def _climb(connection: Connection, message_id: str | None, known: Collection[str]) -> list[tuple[str, str | None]] | None:
    """Messages with their parents from below a known one (or from a first message) to this one; None when that would be too many."""
    steps: list[tuple[str, str | None]] = []
    while message_id is not None and message_id not in known:
        row = connection.execute(select(messages.c.parent_id).where(messages.c.id == message_id)).one_or_none()
        if row is None or len(steps) == STEPS_LIMIT:
            return None
        steps.append((message_id, row.parent_id))
        message_id = row.parent_id
    return steps[::-1]


def _touched(connection: Connection, touched: Iterable[str], known: KnownPath, kept: int) -> list[tuple[str, str | None]]:
    """Of the first messages of a path those that were touched, or are versions of one that was, also of a deleted one: they have other versions now."""
    found: set[int] = set()
    for batch in batches(list(touched)):
        for parent_id in connection.execute(select(messages.c.parent_id).where(messages.c.id.in_(batch))).scalars():
            found.add(0 if parent_id is None else known.places.get(parent_id, kept) + 1)
    return [(known.ids[place], known.ids[place - 1] if place else None) for place in sorted(found) if place < kept]


def _records(connection: Connection, conversation_id: str, links: Sequence[tuple[str, str | None]]) -> tuple[MessageRecord, ...]:
    below = versions_below(connection, conversation_id, {parent_id for _, parent_id in links})
    return records_of(connection, [message_id for message_id, _ in links], {message_id: below[parent_id] for message_id, parent_id in links})
