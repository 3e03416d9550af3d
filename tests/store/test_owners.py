"""Another owner's conversation, message or notebook does not exist, whatever the verb."""

from __future__ import annotations

import inspect

import pytest

from modules.core.errors import NotFound
from modules.store.bin import BinStore
from modules.store.conversations import ConversationStore
from modules.store.database import Database
from modules.store.messages import MessageStore
from modules.store.notebooks import NotebookStore
from modules.store.records import NewImage, NewMessage

NEW = NewMessage("user", "stranger's text", None, 1.0)
CONVERSATION_VERBS = {
    "read": (),
    "rename": ("mine now",),
    "pin": (True,),
    "change_settings": ({"system_prompt": "x"},),
    "delete": (),
    "summary": (),
    "tag": (("mine",),),
}
ON_ENTRY = ("restore", "discard")
ON_CONVERSATION = {"read": (), "read_all": (), "outline": (), "append": (None, NEW), "image_files": ((),)}
ON_MESSAGE = {"message": (), "path": (), "image": (0,), "add_version": (NEW,), "save": ({"content": "x", "status": "complete"},), "select": (), "delete": (), "rate": (-1,), "pin": (True,)}
NO_ID = {"list", "newest", "last_used", "tags", "characters", "create", "recover", "insert_tree", "empty", "purge"}


def public(cls: type) -> set[str]:
    return {name for name, _ in inspect.getmembers(cls, inspect.isfunction) if not name.startswith("_")}


def test_every_verb_is_tried() -> None:
    assert public(ConversationStore) - NO_ID == set(CONVERSATION_VERBS)
    assert public(BinStore) - NO_ID == set(ON_ENTRY)
    assert public(MessageStore) - NO_ID == set(ON_CONVERSATION) | set(ON_MESSAGE)


@pytest.fixture
def ids(conversations: ConversationStore, messages: MessageStore) -> tuple[str, str]:
    conversation_id = conversations.create("ann", {})
    return conversation_id, messages.append("ann", conversation_id, None, NewMessage("user", "secret plan", None, 1.0, images=(NewImage("png", b"secret picture"),)))[0].id


@pytest.mark.parametrize("verb", CONVERSATION_VERBS)
def test_a_stranger_does_not_find_a_conversation(ids, conversations: ConversationStore, messages: MessageStore, verb: str) -> None:
    before = messages.read("ann", ids[0])
    with pytest.raises(NotFound) as strange:
        getattr(conversations, verb)("bob", ids[0], *CONVERSATION_VERBS[verb])
    with pytest.raises(NotFound) as absent:
        getattr(conversations, verb)("ann", "0" * 26, *CONVERSATION_VERBS[verb])
    assert strange.value.message == absent.value.message
    assert messages.read("ann", ids[0]) == before


@pytest.mark.parametrize("verb", [*ON_CONVERSATION, *ON_MESSAGE])
def test_a_stranger_does_not_find_a_message(ids, messages: MessageStore, verb: str) -> None:
    before = messages.read("ann", ids[0])
    on_message = verb in ON_MESSAGE
    arguments = ON_MESSAGE[verb] if on_message else ON_CONVERSATION[verb]
    with pytest.raises(NotFound):
        getattr(messages, verb)("bob", ids[1] if on_message else ids[0], *arguments)
    assert messages.read("ann", ids[0]) == before


@pytest.mark.parametrize("verb", ON_ENTRY)
@pytest.mark.parametrize("what", ["conversation", "message"])
def test_a_stranger_does_not_find_what_was_deleted(ids, conversations: ConversationStore, messages: MessageStore, database: Database, verb: str, what: str) -> None:
    store = BinStore(database)
    bin_id = conversations.delete("ann", ids[0]) if what == "conversation" else messages.delete("ann", ids[1])[1]
    with pytest.raises(NotFound):
        getattr(store, verb)("bob", bin_id)
    assert store.list("bob") == ()
    assert store.empty("bob") == 0
    assert [row.id for row in store.list("ann")] == [bin_id]


def test_a_stranger_cannot_follow_a_message_in_a_conversation_of_his_own(ids, conversations: ConversationStore, messages: MessageStore) -> None:
    own = conversations.create("bob", {})
    with pytest.raises(NotFound):
        messages.append("bob", own, ids[1], NEW)


def test_lists_and_searches_show_only_ones_own(ids, conversations: ConversationStore) -> None:
    assert conversations.list("bob") == ()
    assert conversations.list("bob", "secret") == ()
    assert len(conversations.list("ann", "secret")) == 1
    conversations.tag("ann", ids[0], ["private"])
    assert conversations.tags("bob") == {}
    assert conversations.list("bob", tag="private") == ()
    assert conversations.create("bob", {}) != ids[0]


def test_an_empty_conversation_of_another_is_not_reused(conversations: ConversationStore) -> None:
    assert conversations.create("ann", {}) == conversations.create("ann", {})
    assert conversations.create("ann", {}) != conversations.create("bob", {})


def test_notebooks_are_apart(database: Database) -> None:
    store = NotebookStore(database)
    store.save("ann", "hers")
    store.push_undo("ann")
    assert store.read("bob").text == ""
    assert store.undo("bob").can_redo is False
    store.save("bob", "his")
    assert store.read("ann").text == "hers"
