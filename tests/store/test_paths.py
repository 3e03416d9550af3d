"""Parts of the path shown: whoever follows its changes has what somebody has who reads it anew, and strangers have nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modules.core.errors import NotFound
from modules.store.conversations import ConversationStore
from modules.store.database import Database
from modules.store.memory import MemoryDatabase
from modules.store.messages import MessageStore
from modules.store.paths import STEPS_LIMIT, PathStore
from modules.store.records import MessageRecord, NewConversation, NewMessage
from modules.store.tree import KnownPath

ACTIONS = st.lists(st.tuples(st.sampled_from(["append", "append", "end", "version", "select", "delete", "rate"]), st.integers(0, 1000), st.booleans()), min_size=1, max_size=30)


def talk(count: int) -> NewConversation:
    messages = (NewMessage(("user", "assistant")[place % 2], f"text {place}", place - 1 if place else None, float(place)) for place in range(count))
    return NewConversation("Talk", {}, tuple(messages))


@pytest.fixture
def paths(database: Database) -> PathStore:
    return PathStore(database)


class Follower:
    """Somebody who reads a path once and then what became of it."""

    def __init__(self, paths: PathStore, conversation_id: str) -> None:
        self.paths, self.id = paths, conversation_id
        self.read()

    def read(self) -> None:
        end = self.paths.end("ann", self.id)
        self.known, self.messages = KnownPath(end.path), list(end.conversation.messages)

    def follow(self, touched: list[str]) -> None:
        change = self.paths.since("ann", self.id, self.known, touched)
        if change is None:
            self.read()
            return
        self.known.go_on(change.kept, [message.id for message in change.added])
        changed = {message.id: message for message in change.changed}
        self.messages = [changed.get(message.id, message) for message in self.messages[: change.kept]] + list(change.added)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(actions=ACTIONS)
def test_who_follows_has_what_stands_there(actions: list[tuple[str, int, bool]]) -> None:
    database = MemoryDatabase(private=False)
    try:
        play(database, actions)
    finally:
        database.close()


def play(database: Database, actions: list[tuple[str, int, bool]]) -> None:
    store = MessageStore(database)
    conversation_id = ConversationStore(database).create("ann", {})
    follower = Follower(PathStore(database), conversation_id)
    touched: list[str] = []
    for number, (action, choice, looks) in enumerate(actions):
        touched += acted(store, conversation_id, action, choice, NewMessage("assistant", f"text {number}", None, 1.0))
        if looks:
            follower.follow(touched)
            touched = []
            assert tuple(follower.messages) == store.read("ann", conversation_id).messages
            assert follower.known.ids == [message.id for message in follower.messages] == list(follower.known.places)


def acted(store: MessageStore, conversation_id: str, action: str, choice: int, new: NewMessage) -> list[str]:
    """Do it; the messages that it is about."""
    rows = store.read_all("ann", conversation_id).messages
    target = rows[choice % len(rows)].id if rows else None
    if action == "end" or target is None:
        shown = store.read("ann", conversation_id).messages
        return [store.append("ann", conversation_id, shown[-1].id if shown else None, new)[0].id]
    if action == "append":
        return [store.append("ann", conversation_id, target if choice % 7 else None, new)[0].id]
    if action == "version":
        return [store.add_version("ann", target, new).id]
    if action == "select":
        store.select("ann", target)
        return []
    if action == "delete":
        store.delete("ann", target)
    else:
        store.rate("ann", target, (-1, 1)[choice % 2])
    return [target]


def test_the_end_and_what_comes_before_make_the_whole(paths: PathStore, messages: MessageStore) -> None:
    conversation_id = messages.insert_tree("ann", talk(12))
    version = messages.add_version("ann", messages.read("ann", conversation_id).messages[3].id, NewMessage("", "other", None, 1.0)).id
    messages.select("ann", messages.read("ann", conversation_id).messages[3].version_ids[0])
    whole = messages.read("ann", conversation_id).messages
    end = paths.end("ann", conversation_id, 5)
    assert end.path == tuple(message.id for message in whole) and end.conversation.messages == whole[7:]
    pieces: tuple[MessageRecord, ...] = whole[7:]
    while (piece := paths.before("ann", pieces[0].id, 3)):
        pieces = (*piece, *pieces)
    assert pieces == whole and pieces[3].version_ids[1] == version
    assert paths.end("ann", conversation_id).conversation.messages == whole
    assert paths.head("ann", conversation_id) == whole[-1].id


def test_a_path_that_is_nearly_all_new_is_another_one(paths: PathStore, messages: MessageStore) -> None:
    conversation_id = messages.insert_tree("ann", talk(STEPS_LIMIT + 1))
    assert paths.since("ann", conversation_id, KnownPath(), ()) is None
    end = paths.end("ann", conversation_id)
    change = paths.since("ann", conversation_id, KnownPath(end.path[:1]), ())
    assert change is not None and change.kept == 1 and len(change.added) == STEPS_LIMIT


def test_a_head_that_is_no_message_any_more_is_not_shown(paths: PathStore, messages: MessageStore, database: Database) -> None:
    conversation_id = messages.insert_tree("ann", talk(3))
    whole = paths.end("ann", conversation_id)
    with database.write() as connection:
        connection.exec_driver_sql("UPDATE conversations SET head_id = 'gone'")
    assert paths.head("ann", conversation_id) == whole.path[-1]
    change = paths.since("ann", conversation_id, KnownPath(whole.path), ())
    assert change is not None and (change.kept, change.added) == (3, ())


VERBS: dict[str, Callable[[PathStore, str, str, str], Any]] = {
    "head": lambda store, owner, conversation, _: store.head(owner, conversation),
    "conversation": lambda store, owner, conversation, _: store.conversation(owner, conversation),
    "end": lambda store, owner, conversation, _: store.end(owner, conversation),
    "before": lambda store, owner, _, message: store.before(owner, message, 5),
    "since": lambda store, owner, conversation, message: store.since(owner, conversation, KnownPath(), (message,)),
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_stranger_finds_nothing(paths: PathStore, messages: MessageStore, verb: str) -> None:
    conversation_id = messages.insert_tree("ann", talk(2))
    last = paths.end("ann", conversation_id).path[-1]
    assert VERBS[verb](paths, "ann", conversation_id, last)
    with pytest.raises(NotFound):
        VERBS[verb](paths, "bob", conversation_id, last)
