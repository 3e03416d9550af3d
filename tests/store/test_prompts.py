"""Prompts of replies: each text stored once, as long as a message was written from it."""

from __future__ import annotations

from modules.store.bin import BinStore
from modules.store.conversations import ConversationStore
from modules.store.database import Database
from modules.store.messages import MessageStore
from modules.store.prompts import PromptStore
from modules.store.records import NewConversation, NewMessage


def counts(database: Database) -> list[int]:
    with database.read() as connection:
        return [int(connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar_one()) for table in ("prompts", "prompt_texts", "prompt_uses")]


def test_texts_are_shared_and_go_with_the_last_prompt_that_has_them(conversations: ConversationStore, messages: MessageStore, database: Database) -> None:
    store = PromptStore(database)
    conversation_id = conversations.create("ann", {})
    first, _ = messages.append("ann", conversation_id, None, NewMessage("assistant", "one", None, 1.0))
    second, _ = messages.append("ann", conversation_id, first.id, NewMessage("assistant", "two", None, 2.0))
    store.put("ann", first.id, {"a": 1}, {"h1": "hello"})
    store.put("ann", second.id, {"b": 2}, {"h1": "hello", "h2": "½ \ud800"})
    store.put("ann", second.id, {"c": 3}, {"h3": "too late"})
    found = store.get("ann", second.id)
    assert found is not None
    assert (found.form, found.texts, found.images) == ({"b": 2}, {"h1": "hello", "h2": "½ ?"}, {})
    assert counts(database) == [2, 2, 3]
    copy = messages.insert_tree("ann", NewConversation("copy", {}, (NewMessage("assistant", "two", None, 2.0, prompt=second.id),)))
    messages.delete("ann", first.id)
    BinStore(database).empty("ann")
    assert counts(database) == [1, 2, 2]
    assert store.get("ann", messages.read("ann", copy).messages[0].id) == found
    conversations.delete("ann", copy)
    BinStore(database).empty("ann")
    assert counts(database) == [0, 0, 0]
