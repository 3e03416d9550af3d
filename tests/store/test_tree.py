"""The shape of a conversation, and that no sequence of actions breaks the path shown."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modules.core.errors import Conflict, InvalidRequest, NotFound
from modules.store.bin import BinStore
from modules.store.conversations import ConversationStore
from modules.store.database import Database
from modules.store.memory import MemoryDatabase
from modules.store.messages import MessageStore
from modules.store.records import NewConversation, NewMessage
from modules.store.tree import MessageTree

#   a ── b ── d ── f
#   │    └─── e
#   └─ c
#   g            (a second version of the first message)
TREE = (("a", None), ("b", "a"), ("c", "a"), ("d", "b"), ("e", "b"), ("f", "d"), ("g", None))


@pytest.mark.parametrize(
    ("start", "leaf"), [(None, "g"), ("a", "f"), ("b", "f"), ("c", "c"), ("e", "e"), ("g", "g")]
)
def test_the_newest_leaf_below(start: str | None, leaf: str) -> None:
    assert MessageTree(TREE).newest_leaf(start) == leaf


def test_paths_and_versions() -> None:
    tree = MessageTree(TREE)
    assert tree.path("f") == ["a", "b", "d", "f"]
    assert tree.path(None) == []
    assert tree.path("unknown") == []
    assert tree.versions("b") == ("b", "c")
    assert tree.versions("g") == ("a", "g")
    assert set(tree.below("b")) == {"b", "d", "e", "f"}


@pytest.mark.parametrize(
    ("deleted", "head", "expected"),
    [
        ("d", "f", "e"),  # the first version goes: the one after it
        ("e", "e", "f"),  # the last version goes: the newest below the one before
        ("c", "c", "f"),
        ("f", "f", "d"),  # no other version: the parent
        ("a", "f", "g"),
        ("b", "g", "g"),  # the head is elsewhere
    ],
)
def test_the_head_after_a_deletion(deleted: str, head: str, expected: str) -> None:
    assert MessageTree(TREE).head_without(deleted, head) == expected


def test_of_many_versions_the_one_before_is_shown_next() -> None:
    tree = MessageTree((("question", None), ("one", "question"), ("two", "question"), ("three", "question"), ("thanks", "two")))
    assert tree.head_without("three", "three") == "thanks"
    assert tree.head_without("two", "thanks") == "one"
    assert tree.head_without("one", "one") == "thanks"


def test_a_circle_of_parents_ends() -> None:
    tree = MessageTree((("a", "b"), ("b", "a")))
    assert len(tree.path("a")) == 2
    assert set(tree.below("a")) == {"a", "b"}


class Model:
    """The same rules on plain lists, to compare with."""

    def __init__(self) -> None:
        self.all: dict[str, str | None] = {}
        self.texts: dict[str, str] = {}
        self.gone: dict[str, str] = {}  # message → what it was deleted with
        self.heads: dict[str, str | None] = {}  # what was shown before that

    @property
    def parents(self) -> dict[str, str | None]:
        return {message: above for message, above in self.all.items() if message not in self.gone}

    def children(self, parent: str | None) -> list[str]:
        return [message for message, above in self.parents.items() if above == parent]

    def remove(self, message: str, bin_id: str) -> None:
        for child in self.children(message):
            self.remove(child, bin_id)
        self.gone[message] = bin_id

    def bring_back(self, bin_id: str) -> None:
        back = [message for message, found in self.gone.items() if found == bin_id]
        for message in back:
            del self.gone[message]
        for message in back:
            above = self.all[message]
            if above in self.gone:
                self.bring_back(self.gone[above])

    def forget(self, bin_id: str) -> None:
        """What was deleted together, and all below it."""
        doomed: set[str] = set()
        for message, above in self.all.items():  # parents come first
            if self.gone.get(message) == bin_id or above in doomed:
                doomed.add(message)
        for message in doomed:
            del self.all[message], self.gone[message]


ACTIONS = st.lists(
    st.tuples(st.sampled_from(["append", "append", "version", "select", "delete", "grow", "undo", "discard"]), st.integers(0, 1000)),
    min_size=1,
    max_size=30,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(actions=ACTIONS)
def test_any_sequence_of_actions_keeps_the_path_whole(actions: list[tuple[str, int]]) -> None:
    database = MemoryDatabase(private=False)
    try:
        play(database, actions)
    finally:
        database.close()


def play(database: Database, actions: list[tuple[str, int]]) -> None:
    store = MessageStore(database)
    deleted = BinStore(database)
    conversation_id = ConversationStore(database).create("ann", {})
    model = Model()
    for number, (action, choice) in enumerate(actions):
        ids = list(model.parents)
        target = ids[choice % len(ids)] if ids else None
        new = NewMessage("user", f"text {number}", None, 1.0)
        entries = sorted(set(model.gone.values()))
        if action in ("undo", "discard"):
            if not entries:
                continue
            bin_id = entries[choice % len(entries)]
            expected_head = None
            if action == "undo":
                shown = model.heads[bin_id]
                expected_head = shown if model.gone.get(shown) == bin_id else None
                model.bring_back(bin_id)
                deleted.restore("ann", bin_id)
            else:
                deleted.discard("ann", bin_id)
                model.forget(bin_id)
        elif action == "append" or target is None:
            added, _ = store.append("ann", conversation_id, target if choice % 7 else None, new)
            model.all[added.id], model.texts[added.id] = added.parent_id, new.content
            expected_head = added.id
        elif action == "version":
            added = store.add_version("ann", target, new)
            assert added.parent_id == model.parents[target]
            model.all[added.id], model.texts[added.id] = added.parent_id, new.content
            expected_head = added.id
        elif action == "grow":
            model.texts[target] = new.content
            store.save("ann", target, {"content": new.content, "status": ("streaming", "complete")[choice % 2]})
            expected_head = None
        elif action == "select":
            store.select("ann", target)
            expected_head = None
            assert target in [message.id for message in store.read("ann", conversation_id).messages]
        else:
            shown = store.read("ann", conversation_id).head_id
            _, bin_id = store.delete("ann", target)
            model.remove(target, bin_id)
            model.heads[bin_id] = shown
            expected_head = None
        check(store, conversation_id, model, expected_head)
        assert {row.id for row in deleted.list("ann")} == set(model.gone.values())
    with database.read() as connection:
        assert connection.exec_driver_sql("PRAGMA foreign_key_check").all() == []
        connection.exec_driver_sql("INSERT INTO message_search (message_search) VALUES ('integrity-check')")


def check(store: MessageStore, conversation_id: str, model: Model, expected_head: str | None) -> None:
    found = store.read("ann", conversation_id)
    path = found.messages
    assert bool(path) == bool(model.parents)
    assert found.head_id == (path[-1].id if path else None)
    above = None
    for message in path:
        assert message.parent_id == above == model.parents[message.id]
        assert message.content == model.texts[message.id]
        assert list(message.version_ids) == model.children(above)
        assert message.version_ids[message.version_index - 1] == message.id
        above = message.id
    assert model.children(above) == [] or not path, "the head is a message that nothing follows"
    if expected_head is not None:
        assert above == expected_head
    assert {message.id for message in store.read_all("ann", conversation_id).messages} == set(model.parents)


def test_a_long_conversation_can_be_read_and_deleted(conversations: ConversationStore, messages: MessageStore) -> None:
    """Longer than the depth to which SQLite follows references and the number of values it takes in one statement."""
    chain = tuple(NewMessage("user", str(place), place - 1 if place else None, 1.0) for place in range(3000))
    conversation_id = messages.insert_tree("ann", NewConversation("long", {}, chain))
    path = messages.read("ann", conversation_id).messages
    assert [message.content for message in path] == [str(place) for place in range(3000)]
    messages.delete("ann", path[1].id)
    assert len(messages.read("ann", conversation_id).messages) == 1
    other = messages.insert_tree("ann", NewConversation("long", {}, chain))
    conversations.delete("ann", other)
    with pytest.raises(NotFound):
        messages.read("ann", other)


def test_a_message_cannot_follow_one_of_another_conversation(conversations: ConversationStore, messages: MessageStore, say) -> None:
    one = conversations.create("ann", {})
    first, _ = messages.append("ann", one, None, say())
    two = conversations.create("ann", {})
    with pytest.raises(NotFound):
        messages.append("ann", two, first.id, say())
    assert messages.read("ann", two).messages == ()


def test_a_change_on_top_of_an_old_revision_is_a_conflict(conversations: ConversationStore, messages: MessageStore, say) -> None:
    conversation_id = conversations.create("ann", {})
    rev = conversations.read("ann", conversation_id).rev
    first, _ = messages.append("ann", conversation_id, None, say(), rev=rev)
    for call in (
        lambda: messages.append("ann", conversation_id, first.id, say(), rev=rev),
        lambda: messages.add_version("ann", first.id, say(), rev=rev),
        lambda: messages.select("ann", first.id, rev=rev),
        lambda: messages.delete("ann", first.id, rev=rev),
        lambda: conversations.rename("ann", conversation_id, "new", rev=rev),
        lambda: conversations.change_settings("ann", conversation_id, {}, rev=rev),
    ):
        with pytest.raises(Conflict) as caught:
            call()
        assert caught.value.details["rev"] == rev + 1
    assert [message.id for message in messages.read("ann", conversation_id).messages] == [first.id]


def test_growing_text_is_no_revision(conversations: ConversationStore, messages: MessageStore, say) -> None:
    conversation_id = conversations.create("ann", {})
    first, _ = messages.append("ann", conversation_id, None, say())
    rev = conversations.read("ann", conversation_id).rev
    messages.save("ann", first.id, {"content": "more", "status": "streaming"})
    assert conversations.read("ann", conversation_id).rev == rev


def test_a_tree_out_of_order_is_refused_as_a_whole(conversations: ConversationStore, messages: MessageStore) -> None:
    bad = (NewMessage("user", "a", None, 1.0), NewMessage("user", "b", 1, 1.0))
    with pytest.raises(InvalidRequest, match="Message 2"):
        messages.insert_tree("ann", NewConversation("bad", {}, bad))
    with pytest.raises(InvalidRequest):
        messages.insert_tree("ann", NewConversation("bad", {}, iter(bad)))
    assert conversations.list("ann") == ()


def test_text_that_is_no_unicode_is_kept_as_far_as_it_can_be(conversations: ConversationStore, messages: MessageStore, say) -> None:
    conversation_id = conversations.create("ann", {})
    added, _ = messages.append("ann", conversation_id, None, say("half \ud83d pair \0 zero"), auto_title="\udc00!")
    assert messages.message("ann", added.id).content == "half ? pair \0 zero"
    assert conversations.read("ann", conversation_id).title == "?!"


def test_others_write_while_a_long_conversation_is_brought_in(
    conversations: ConversationStore, messages: MessageStore, say, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modules.store.messages.BATCH_CHARACTERS", 10)
    other = conversations.create("ann", {})

    def coming() -> Iterator[NewMessage]:
        for place in range(5):
            messages.append("ann", other, None, say(f"beside {place}"))
            assert [row.id for row in conversations.list("ann")] == [other], "it is nobody's yet"
            yield NewMessage("user", "long enough", place - 1 if place else None, 1.0)

    made = messages.insert_tree("ann", NewConversation("brought in", {}, coming(), head=2, places_in_settings={"summary_until": 1}))
    found = messages.read("ann", made)
    assert (len(found.messages), found.settings["summary_until"]) == (3, found.messages[1].id)
    assert len(messages.read_all("ann", made).messages) == len(messages.read_all("ann", other).messages) == 5


def test_what_was_being_brought_in_when_the_server_died_is_gone(database: Database, messages: MessageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modules.store.messages.BATCH_CHARACTERS", 10)

    def dying() -> Iterator[NewMessage]:
        yield NewMessage("user", "long enough", None, 1.0)
        monkeypatch.setattr(database, "write", lambda: (_ for _ in ()).throw(RuntimeError("killed")))
        yield NewMessage("user", "long enough", 0, 1.0)

    with pytest.raises(RuntimeError, match="killed"):
        messages.insert_tree("ann", NewConversation("brought in", {}, dying()))
    monkeypatch.undo()
    left = "SELECT (SELECT count(*) FROM messages) + (SELECT count(*) FROM conversations)"
    with database.read() as connection:
        assert connection.exec_driver_sql(left).scalar_one() == 2
    messages.recover()
    with database.read() as connection:
        assert connection.exec_driver_sql(left).scalar_one() == 0
