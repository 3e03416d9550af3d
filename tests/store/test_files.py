"""Documents of messages: what was read from each is stored once, as long as something has it; and nobody else's is found."""

from __future__ import annotations

import pytest

from modules.core.errors import InvalidRequest, NotFound
from modules.store.conversations import ConversationStore
from modules.store.database import Database
from modules.store.files import FileStore
from modules.store.messages import MessageStore
from modules.store.records import NewConversation, NewFile, NewMessage

NOTES = NewFile("notes.txt", "text", "The lamp is on.", "", 15)
SAME = NewFile("copy.txt", "text", "The lamp is on.", "", 15)
OTHER = NewFile("other.csv", "CSV", "a,b", "1 row", 3)


@pytest.fixture
def files(database: Database) -> FileStore:
    return FileStore(database)


def texts(database: Database) -> int:
    with database.read() as connection:
        return int(connection.exec_driver_sql("SELECT count(*) FROM file_texts").scalar_one())


def test_what_waits_goes_with_the_message_that_takes_it(
    conversations: ConversationStore, messages: MessageStore, files: FileStore, database: Database
) -> None:
    talk = conversations.create("ann", {})
    first, second = files.add("ann", talk, NOTES, 20), files.add("ann", talk, OTHER, 20)
    assert files.waiting("ann", talk) == (first, second)
    added, _ = messages.append("ann", talk, None, NewMessage("user", "look", None, 1.0, files=(second.id, first.id)))
    assert [file.name for file in added.files] == ["notes.txt", "other.csv"]
    assert files.waiting("ann", talk) == ()
    assert messages.read("ann", talk).messages[0].files == added.files == messages.read_all("ann", talk).messages[0].files
    assert files.text("ann", first.id)[1] == NOTES.text
    assert files.texts("ann", talk, added.files) == {first.hash: NOTES.text, second.hash: OTHER.text}
    with pytest.raises(NotFound, match="no such attachment"):
        messages.append("ann", talk, None, NewMessage("user", "again", None, 1.0, files=(first.id,)))
    assert len(messages.read_all("ann", talk).messages) == 1, "a message whose document is gone is not stored"
    assert texts(database) == 2


def test_versions_and_copies_have_them_too_and_the_last_one_takes_the_text_with_it(
    conversations: ConversationStore, messages: MessageStore, files: FileStore, database: Database
) -> None:
    talk = conversations.create("ann", {})
    waits = files.add("ann", talk, NOTES, 20)
    message, _ = messages.append("ann", talk, None, NewMessage("user", "look", None, 1.0, files=(waits.id,)))
    version = messages.add_version("ann", message.id, NewMessage("", "look here", None, 2.0))
    assert [file.name for file in version.files] == ["notes.txt"]
    copy = messages.insert_tree("ann", NewConversation("copy", {}, (NewMessage("user", "x", None, 1.0, files=version.files), NewMessage("user", "y", 0, 1.0, files=(SAME,)))))
    assert [file.name for each in messages.read("ann", copy).messages for file in each.files] == ["notes.txt", "copy.txt"]
    assert texts(database) == 1, "the same text is stored once"
    with database.write() as connection:
        connection.exec_driver_sql("DELETE FROM conversations WHERE id = ?", (talk,))
    assert texts(database) == 1
    with database.write() as connection:
        connection.exec_driver_sql("DELETE FROM conversations WHERE id = ?", (copy,))
    assert texts(database) == 0


def test_one_that_waits_can_be_taken_back(conversations: ConversationStore, messages: MessageStore, files: FileStore, database: Database) -> None:
    talk = conversations.create("ann", {})
    waits = files.add("ann", talk, NOTES, 20)
    files.remove("ann", talk, waits.id)
    files.remove("ann", talk, waits.id)
    assert (files.waiting("ann", talk), texts(database)) == ((), 0)
    sent = files.add("ann", talk, NOTES, 20)
    messages.append("ann", talk, None, NewMessage("user", "look", None, 1.0, files=(sent.id,)))
    files.remove("ann", talk, sent.id)  # of a message: stays
    assert files.text("ann", sent.id)[1] == NOTES.text


def test_so_many_and_no_more(conversations: ConversationStore, files: FileStore) -> None:
    talk = conversations.create("ann", {})
    files.add("ann", talk, NOTES, 1)
    with pytest.raises(InvalidRequest, match="1 files are attached already, the limit"):
        files.add("ann", talk, OTHER, 1)


def test_a_stranger_finds_nothing(conversations: ConversationStore, messages: MessageStore, files: FileStore) -> None:
    talk, own = conversations.create("ann", {}), conversations.create("bob", {})
    waits = files.add("ann", talk, NOTES, 20)
    for ask in (
        lambda: files.add("bob", talk, OTHER, 20),
        lambda: files.waiting("bob", talk),
        lambda: files.remove("bob", talk, waits.id),
        lambda: files.text("bob", waits.id),
        lambda: files.texts("bob", talk, (waits,)),
        lambda: messages.append("bob", own, None, NewMessage("user", "mine now", None, 1.0, files=(waits.id,))),
    ):
        with pytest.raises(NotFound):
            ask()
    assert files.texts("bob", own, (waits,)) == {}
    assert files.waiting("ann", talk) == (waits,)
