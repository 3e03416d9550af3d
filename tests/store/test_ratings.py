"""Ratings of replies and edits: what is kept of each version, also in a database that an older Paddock made."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from modules.core.errors import InvalidRequest
from modules.store.conversations import ConversationStore
from modules.store.database import FILE_NAME, Database
from modules.store.messages import MessageStore
from modules.store.migrations import MIGRATIONS
from modules.store.records import NewConversation, NewMessage


def test_a_rating_belongs_to_one_version_and_can_be_taken_back(conversations: ConversationStore, messages: MessageStore, say) -> None:
    conversation_id = conversations.create("ann", {})
    question, _ = messages.append("ann", conversation_id, None, say("question"))
    first, second = (messages.append("ann", conversation_id, question.id, say(text, "assistant"))[0] for text in ("one", "two"))
    assert messages.rate("ann", first.id, 1) == conversation_id
    assert messages.rate("ann", second.id, -1) == conversation_id
    assert [messages.message("ann", reply.id).rating for reply in (first, second)] == [1, -1]
    assert [message.rating for message in messages.read("ann", conversation_id).messages] == [0, -1]
    assert [message.rating for message in messages.path("ann", first.id)[1]] == [0, 1]
    messages.rate("ann", first.id, 0)
    assert [message.rating for message in messages.read_all("ann", conversation_id).messages] == [0, 0, -1]


def test_a_rating_changes_nothing_else(conversations: ConversationStore, messages: MessageStore, say) -> None:
    conversation_id = conversations.create("ann", {})
    question, _ = messages.append("ann", conversation_id, None, say("question"))
    reply, _ = messages.append("ann", conversation_id, question.id, say("words to find", "assistant"))
    before, listed = messages.read("ann", conversation_id), conversations.list("ann")
    messages.rate("ann", reply.id, 1)
    after = messages.read("ann", conversation_id)
    assert after == replace(before, messages=(before.messages[0], replace(before.messages[1], rating=1)))
    assert conversations.list("ann") == listed
    assert [line.id for line in conversations.list("ann", "words find")] == [line.id for line in listed]


def test_only_replies_are_rated(conversations: ConversationStore, messages: MessageStore, say) -> None:
    question, _ = messages.append("ann", conversations.create("ann", {}), None, say("question"))
    with pytest.raises(InvalidRequest, match="Only a reply"):
        messages.rate("ann", question.id, 1)


def test_the_text_of_a_rated_reply_can_still_grow(conversations: ConversationStore, messages: MessageStore, say) -> None:
    conversation_id = conversations.create("ann", {})
    question, _ = messages.append("ann", conversation_id, None, say("question"))
    reply, _ = messages.append("ann", conversation_id, question.id, say("half", "assistant", "streaming"))
    messages.rate("ann", reply.id, 1)
    messages.save("ann", reply.id, {"content": "half and the rest", "status": "complete"})
    assert messages.message("ann", reply.id).rating == 1


def test_an_edit_knows_what_it_was_made_from(conversations: ConversationStore, messages: MessageStore, say) -> None:
    conversation_id = conversations.create("ann", {})
    question, _ = messages.append("ann", conversation_id, None, say("question"))
    written, again = (messages.append("ann", conversation_id, question.id, say(text, "assistant"))[0] for text in ("one", "two"))
    edit = messages.add_version("ann", written.id, say("one, better"))
    twice = messages.add_version("ann", edit.id, say("one, best"))
    assert [messages.message("ann", found.id).edited_from for found in (written, again, edit, twice)] == [None, None, written.id, edit.id]
    messages.delete("ann", written.id)
    assert messages.message("ann", edit.id).edited_from == written.id, "it stays an edit"


def test_a_whole_conversation_keeps_ratings_and_edits(conversations: ConversationStore, messages: MessageStore) -> None:
    rows = (
        NewMessage("user", "question", None, 1.0),
        NewMessage("assistant", "one", 0, 1.0, rating=-1),
        NewMessage("assistant", "one, better", 0, 1.0, rating=1, edited_from=1),
        NewMessage("assistant", "other", 0, 1.0, edited_from="an id of elsewhere"),
    )
    found = messages.read_all("ann", messages.insert_tree("ann", NewConversation("Talk", {}, rows))).messages
    assert [message.rating for message in found] == [0, -1, 1, 0]
    assert [message.edited_from for message in found] == [None, None, found[1].id, "an id of elsewhere"]


# Rows of the layout before: id, parent, role, status, model, receipt
OLD_ROWS = (
    ("q", None, "user", "complete", "", None),
    ("written", "q", "assistant", "complete", "starter", '{"seed": 1}'),
    ("again", "q", "assistant", "stopped", "starter", '{"seed": 2}'),
    ("edit", "q", "assistant", "complete", "", None),
    ("failed", "q", "assistant", "failed", "", None),
    ("asked", None, "user", "complete", "", None),
    ("alone", "edit", "assistant", "complete", "", None),
)


def old_database(folder: Path) -> None:
    old = sqlite3.connect(folder / FILE_NAME)
    for steps in MIGRATIONS[:2]:
        for statement in steps:
            old.execute(statement)
    old.execute("INSERT INTO conversations (id, owner, title, title_is_auto, created_s, updated_s, pinned, settings, head_id, rev) VALUES ('c', 'ann', 'Old', 0, 1, 1, 0, '{}', 'edit', 7)")
    for message_id, parent_id, role, status, model, receipt in OLD_ROWS:
        values = (message_id, parent_id, role, f"text of {message_id}", model, status, receipt)
        old.execute("INSERT INTO messages (id, conversation_id, parent_id, role, content, created_s, updated_s, model, status, error, receipt) VALUES (?, 'c', ?, ?, ?, 1, 1, ?, ?, '', ?)", values)
    old.execute("PRAGMA user_version = 2")
    old.commit()
    old.close()


def test_a_database_of_before_is_brought_to_the_new_layout(tmp_path: Path) -> None:
    old_database(tmp_path)
    database = Database(tmp_path)
    store = MessageStore(database)
    found = store.read_all("ann", "c")
    assert (found.title, found.rev, found.head_id) == ("Old", 7, "edit")
    assert [(message.id, message.content) for message in found.messages] == [(row[0], f"text of {row[0]}") for row in OLD_ROWS]
    assert {message.rating for message in found.messages} == {0}
    assert {message.id: message.edited_from for message in found.messages if message.edited_from} == {"edit": "again"}
    store.rate("ann", "written", 1)
    assert store.message("ann", "written").rating == 1
    assert [line.id for line in ConversationStore(database).list("ann", "text written")] == ["c"], "the index of words still fits"
    with database.read() as connection:
        assert connection.exec_driver_sql("PRAGMA integrity_check").scalar_one() == "ok"
    database.close()
    again = Database(tmp_path)
    assert MessageStore(again).message("ann", "written").rating == 1
    again.close()
