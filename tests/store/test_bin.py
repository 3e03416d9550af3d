"""What was deleted: kept aside, brought back as it was, and gone for good after its time."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from modules.core.errors import NotFound
from modules.store.bin import BinStore
from modules.store.conversations import ConversationStore
from modules.store.database import Database
from modules.store.messages import MessageStore
from modules.store.records import NewConversation, NewMessage


@pytest.fixture
def bin_store(database: Database) -> BinStore:
    return BinStore(database)


@pytest.fixture
def talk(messages: MessageStore) -> Callable[..., tuple[str, list[str]]]:
    """A conversation whose messages follow each other; its id and theirs."""

    def make(*texts: str, title: str = "Talk") -> tuple[str, list[str]]:
        rows = tuple(NewMessage("assistant" if place % 2 else "user", text, place - 1 if place else None, 1.0) for place, text in enumerate(texts))
        conversation_id = messages.insert_tree("ann", NewConversation(title, {"a": 1}, rows, tags=("kept",)))
        return conversation_id, [message.id for message in messages.read("ann", conversation_id).messages]

    return make


def rows_of(database: Database, table: str) -> int:
    with database.read() as connection:
        return int(connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar_one())


def test_a_deleted_conversation_is_nowhere_until_it_is_restored(talk, conversations: ConversationStore, messages: MessageStore, bin_store: BinStore) -> None:
    conversation_id, ids = talk("plum cake", "Heat the oven.")
    before = messages.read_all("ann", conversation_id)
    listed = conversations.list("ann")
    bin_id = conversations.delete("ann", conversation_id)
    assert conversations.list("ann") == conversations.list("ann", "plum") == conversations.list("ann", "talk") == ()
    assert conversations.tags("ann") == {}
    for call in (
        lambda: messages.read("ann", conversation_id), lambda: messages.read_all("ann", conversation_id), lambda: messages.message("ann", ids[0]),
        lambda: messages.save("ann", ids[1], {"content": "x", "status": "complete"}), lambda: conversations.delete("ann", conversation_id),
    ):  # fmt: skip
        with pytest.raises(NotFound):
            call()
    (row,) = bin_store.list("ann")
    assert (row.id, row.what, row.title, row.messages) == (bin_id, "conversation", "Talk", 2)
    assert bin_store.restore("ann", bin_id) == conversation_id
    assert messages.read_all("ann", conversation_id).messages == before.messages
    assert conversations.list("ann") == listed
    assert len(conversations.list("ann", "plum")) == 1
    assert bin_store.list("ann") == ()
    with pytest.raises(NotFound, match="no longer in the bin"):
        bin_store.restore("ann", bin_id)


def test_a_deleted_message_comes_back_with_what_followed_it_and_is_shown_again(
    talk, conversations: ConversationStore, messages: MessageStore, bin_store: BinStore, say
) -> None:
    conversation_id, (question, reply, thanks) = talk("question", "the velocipede", "thanks")
    other, _ = messages.append("ann", conversation_id, question, say("other reply", "assistant"))
    messages.select("ann", reply)
    before = messages.read("ann", conversation_id).messages
    _, bin_id = messages.delete("ann", reply)
    shown = messages.read("ann", conversation_id).messages
    assert [message.content for message in shown] == ["question", "other reply"]
    assert shown[1].version_ids == (other.id,)
    assert [message.id for message in messages.read_all("ann", conversation_id).messages] == [question, other.id]
    assert conversations.list("ann", "velocipede") == ()
    assert conversations.list("ann")[0].messages == 2
    with pytest.raises(NotFound):
        messages.append("ann", conversation_id, thanks, say("too late"))
    (row,) = bin_store.list("ann")
    assert (row.what, row.title, row.conversation_title, row.messages) == ("message", "the velocipede", "Talk", 2)
    bin_store.restore("ann", bin_id)
    assert messages.read("ann", conversation_id).messages == before
    assert conversations.list("ann", "velocipede")[0].messages == 4


def test_undo_in_any_order_brings_back_what_a_message_follows(talk, messages: MessageStore, bin_store: BinStore) -> None:
    conversation_id, ids = talk("one", "two", "three")
    _, last = messages.delete("ann", ids[2])
    _, first = messages.delete("ann", ids[0])
    assert messages.read("ann", conversation_id).messages == ()
    bin_store.restore("ann", last)
    assert [message.id for message in messages.read("ann", conversation_id).messages] == ids
    assert bin_store.list("ann") == ()
    with pytest.raises(NotFound):
        bin_store.restore("ann", first)


def test_an_old_undo_does_not_take_back_what_was_written_since(talk, messages: MessageStore, bin_store: BinStore, say) -> None:
    conversation_id, ids = talk("one", "two")
    other, _ = messages.append("ann", conversation_id, ids[0], say("two, again"))
    _, bin_id = messages.delete("ann", ids[1])  # not what is shown
    newest, _ = messages.append("ann", conversation_id, other.id, say("three"))
    bin_store.restore("ann", bin_id)
    assert messages.read("ann", conversation_id).head_id == newest.id


@pytest.mark.parametrize("what", ["conversation", "message"])
def test_what_was_deleted_while_it_grew_comes_back_stopped(
    talk, conversations: ConversationStore, messages: MessageStore, bin_store: BinStore, say, what: str
) -> None:
    conversation_id, ids = talk("one")
    reply, _ = messages.append("ann", conversation_id, ids[0], say("half a", "assistant", "streaming"))
    bin_store.restore("ann", conversations.delete("ann", conversation_id) if what == "conversation" else messages.delete("ann", reply.id)[1])
    found = messages.message("ann", reply.id)
    assert (found.content, found.status) == ("half a", "stopped")
    assert len(conversations.list("ann", "half")) == 1


def test_messages_of_a_deleted_conversation_come_back_with_it_only(talk, conversations: ConversationStore, messages: MessageStore, bin_store: BinStore) -> None:
    conversation_id, ids = talk("one", "two")
    _, of_message = messages.delete("ann", ids[1])
    of_conversation = conversations.delete("ann", conversation_id)
    assert [row.id for row in bin_store.list("ann")] == [of_conversation]
    with pytest.raises(NotFound):
        bin_store.restore("ann", of_message)
    bin_store.restore("ann", of_conversation)
    assert [row.id for row in bin_store.list("ann")] == [of_message], "it is in the bin as before"
    bin_store.restore("ann", of_message)
    assert len(messages.read("ann", conversation_id).messages) == 2


def test_for_good_means_that_nothing_is_left(talk, conversations: ConversationStore, messages: MessageStore, bin_store: BinStore, database: Database) -> None:
    first, ids = talk("one", "two", "three")
    second, _ = talk("uno", "due")
    messages.delete("ann", ids[2])
    _, before = messages.delete("ann", ids[1])
    bin_store.discard("ann", before)
    assert rows_of(database, "messages") == 3, "what followed it went along, though it was deleted by itself"
    assert bin_store.list("ann") == ()
    assert rows_of(database, "bin") == 0
    conversations.delete("ann", first)
    conversations.delete("ann", second)
    assert bin_store.empty("ann") == 2
    assert [rows_of(database, table) for table in ("messages", "conversations", "bin")] == [0, 0, 0]
    with database.read() as connection:
        assert connection.exec_driver_sql("PRAGMA foreign_key_check").all() == []
        connection.exec_driver_sql("INSERT INTO message_search (message_search) VALUES ('integrity-check')")


def test_only_what_is_old_is_purged(talk, conversations: ConversationStore, bin_store: BinStore, database: Database) -> None:
    old, new = (talk("text", title=title)[0] for title in ("Old", "New"))
    aged = conversations.delete("ann", old)
    kept = conversations.delete("ann", new)
    with database.write() as connection:
        connection.exec_driver_sql("UPDATE bin SET deleted_s = deleted_s - 1000 WHERE id = ?", (aged,))
    assert bin_store.purge(time.time() - 500) == 1
    assert [row.id for row in bin_store.list("ann")] == [kept]
    assert rows_of(database, "messages") == 1


def test_an_empty_conversation_that_was_deleted_is_not_given_out_again(conversations: ConversationStore) -> None:
    first = conversations.create("ann", {})
    conversations.delete("ann", first)
    assert conversations.create("ann", {}) != first
