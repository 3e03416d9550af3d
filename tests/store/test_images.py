"""Images of messages: stored once, as long as a message has them."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from modules.core.errors import NotFound
from modules.store.bin import BinStore
from modules.store.conversations import ConversationStore
from modules.store.database import FILE_NAME, Database
from modules.store.messages import MessageStore
from modules.store.migrations import MIGRATIONS
from modules.store.records import NewImage, NewMessage

A, B = NewImage("png", b"first picture"), NewImage("jpeg", b"second picture")


def message(*images: NewImage, content: str = "look") -> NewMessage:
    return NewMessage("user", content, None, 1.0, images=images)


def count(database: Database) -> int:
    with database.read() as connection:
        return int(connection.exec_driver_sql("SELECT count(*) FROM images").scalar_one())


def test_images_are_read_back_in_their_order(conversations: ConversationStore, messages: MessageStore, database: Database) -> None:
    conversation_id = conversations.create("ann", {})
    added, _ = messages.append("ann", conversation_id, None, message(B, A, B))
    assert [image.kind for image in added.images] == ["jpeg", "png", "jpeg"]
    assert [messages.image("ann", added.id, place)[1] for place in range(3)] == [B.file, A.file, B.file]
    for found in (
        messages.message("ann", added.id), messages.read("ann", conversation_id).messages[0], messages.read_all("ann", conversation_id).messages[0],
        messages.path("ann", added.id)[1][0],
    ):  # fmt: skip
        assert found.images == added.images
    assert messages.image_files("ann", conversation_id, [added]) == {added.images[0].hash: B.file, added.images[1].hash: A.file}
    assert count(database) == 2


def test_a_file_goes_with_the_last_message_that_has_it(conversations: ConversationStore, messages: MessageStore, database: Database) -> None:
    first, second = conversations.create("ann", {}), conversations.create("bob", {})
    one, _ = messages.append("ann", first, None, message(A, B))
    version = messages.add_version("ann", one.id, message(content="again"))
    other, _ = messages.append("bob", second, None, message(A))
    assert version.images == one.images
    messages.delete("ann", one.id)
    assert BinStore(database).empty("ann") == 1
    assert count(database) == 2
    conversations.delete("ann", first)
    assert count(database) == 2, "it can still be brought back"
    assert BinStore(database).empty("ann") == 1
    assert count(database) == 1
    assert messages.image("bob", other.id, 0)[1] == A.file
    messages.delete("bob", other.id)
    BinStore(database).empty("bob")
    assert count(database) == 0


def test_a_database_of_before_gets_the_tables(tmp_path: Path) -> None:
    old = sqlite3.connect(tmp_path / FILE_NAME)
    for statement in MIGRATIONS[0]:
        old.execute(statement)
    old.execute("PRAGMA user_version = 1")
    old.commit()
    old.close()
    database = Database(tmp_path)
    store = MessageStore(database)
    conversation_id = ConversationStore(database).create("ann", {})
    added, _ = store.append("ann", conversation_id, None, message(A))
    assert store.image("ann", added.id, 0)[1] == A.file
    database.close()


@pytest.mark.parametrize("place", [-1, 1])
def test_other_places_have_no_image(conversations: ConversationStore, messages: MessageStore, place: int) -> None:
    added, _ = messages.append("ann", conversations.create("ann", {}), None, message(A))
    with pytest.raises(NotFound):
        messages.image("ann", added.id, place)
