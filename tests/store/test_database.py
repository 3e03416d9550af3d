"""The database file: layout, recovery, and SQLite's errors as sentences."""

from __future__ import annotations

import stat
import sys
import threading
from pathlib import Path

import pytest
from sqlalchemy import inspect

from modules.core.errors import AppError, Busy
from modules.store import database as database_module
from modules.store.conversations import ConversationStore
from modules.store.database import FILE_NAME, Database
from modules.store.messages import INTERRUPTED, MessageStore
from modules.store.migrations import MIGRATIONS
from modules.store.records import NewMessage
from modules.store.schema import metadata


def test_the_tables_are_what_the_schema_says(database: Database) -> None:
    with database.read() as connection:
        found = inspect(connection)
        for table in metadata.sorted_tables:
            columns = {column["name"]: column["nullable"] for column in found.get_columns(table.name)}
            described = {column.name: column.nullable for column in table.columns}
            assert {name: columns[name] for name in columns if name != "position"} == {
                name: described[name] for name in described if name != "position"
            }
            assert {index.name for index in table.indexes} <= {index["name"] for index in found.get_indexes(table.name)}
            assert {key.target_fullname for key in table.foreign_keys} == {
                f"{key['referred_table']}.{key['referred_columns'][0]}" for key in found.get_foreign_keys(table.name)
            }


def test_every_connection_is_durable_and_checks_references(database: Database) -> None:
    with database.write() as connection:
        values = {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in ("journal_mode", "synchronous", "foreign_keys")}
    assert values == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


@pytest.mark.skipif(sys.platform == "win32", reason="no modes there")
def test_only_the_owner_can_read_the_file(database: Database) -> None:
    assert stat.S_IMODE(database.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(database.path.parent.stat().st_mode) == 0o700


def test_reopening_keeps_what_is_there(tmp_path: Path) -> None:
    first = Database(tmp_path)
    conversation_id = ConversationStore(first).create("ann", {"a": 1})
    first.close()
    second = Database(tmp_path)
    assert second.notice == ""
    assert ConversationStore(second).read("ann", conversation_id).settings == {"a": 1}
    second.close()


@pytest.mark.parametrize("damage", ["not a database", "torn pages"])
def test_a_broken_file_is_set_aside_and_a_fresh_one_begun(tmp_path: Path, damage: str) -> None:
    old = Database(tmp_path)
    for number in range(50):
        MessageStore(old).append("ann", ConversationStore(old).create("ann", {}), None, NewMessage("user", "x" * 3000 + str(number), None, 1.0))
    old.close()
    file = tmp_path / FILE_NAME
    content = bytearray(file.read_bytes())
    if damage == "torn pages":
        content[4096:] = b"\xa5" * (len(content) - 4096)
    else:
        content[:100] = b"#" * 100
    file.write_bytes(content)

    fresh = Database(tmp_path)
    broken = [path for path in tmp_path.glob(f"{FILE_NAME}.broken-*") if not path.name.endswith(("-wal", "-shm"))]
    assert len(broken) == 1
    assert broken[0].read_bytes() == bytes(content)
    assert broken[0].name in fresh.notice
    store = ConversationStore(fresh)
    assert store.list("ann") == ()
    assert store.create("ann", {})
    fresh.close()
    again = Database(tmp_path)
    assert again.notice == ""
    assert len(ConversationStore(again).list("ann")) == 1
    again.close()


def test_a_file_of_a_newer_paddock_is_left_alone(tmp_path: Path) -> None:
    newer = Database(tmp_path)
    with newer.write() as connection:
        connection.exec_driver_sql(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    newer.close()
    before = (tmp_path / FILE_NAME).read_bytes()
    with pytest.raises(AppError, match="newer Paddock"):
        Database(tmp_path)
    assert (tmp_path / FILE_NAME).read_bytes() == before
    assert not list(tmp_path.glob("*.broken-*"))


def test_a_state_folder_that_is_a_file_gives_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("in the way", encoding="utf-8")
    with pytest.raises(AppError, match="cannot be used"):
        Database(tmp_path / "state")


def test_a_full_disk_gives_a_sentence_and_keeps_what_was_saved(database: Database, say) -> None:
    conversation_id = ConversationStore(database).create("ann", {})
    store = MessageStore(database)
    saved: list[str] = []
    with database.read() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 20}")  # holds for this connection: the pool has just this one
    parent = None
    with pytest.raises(AppError, match="disk is full"):
        for number in range(1000):
            parent = store.append("ann", conversation_id, parent, say(f"{number} " + "lorem ipsum " * 200))[0].id
            saved.append(parent)
    assert len(saved) > 3
    assert [message.id for message in store.read("ann", conversation_id).messages] == saved
    with pytest.raises(AppError, match="disk is full"):
        store.append("ann", conversation_id, parent, say("y" * 100_000))
    with database.read() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1000000")
        assert connection.exec_driver_sql("PRAGMA integrity_check").scalar_one() == "ok"
    store.append("ann", conversation_id, parent, say("space again"))
    assert len(store.read("ann", conversation_id).messages) == len(saved) + 1


def test_a_file_locked_by_another_program_is_busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_module, "PRAGMAS", ("PRAGMA journal_mode = WAL", "PRAGMA busy_timeout = 50"))
    one, other = Database(tmp_path), Database(tmp_path)
    with one.write(), pytest.raises(Busy, match="another program"):
        ConversationStore(other).create("ann", {})
    assert ConversationStore(other).create("ann", {})
    one.close()
    other.close()


def test_writers_of_one_process_wait_for_each_other(database: Database, say) -> None:
    conversation_id = ConversationStore(database).create("ann", {})
    store = MessageStore(database)
    failures: list[Exception] = []

    def write() -> None:
        try:
            for _ in range(20):
                store.append("ann", conversation_id, None, say())
        except AppError as error:
            failures.append(error)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert ConversationStore(database).list("ann")[0].messages == 80
    assert ConversationStore(database).read("ann", conversation_id).rev == 81


def test_a_fresh_file_can_be_opened_by_several_at_once(tmp_path: Path) -> None:
    opened: list[Database] = []
    failures: list[Exception] = []
    together = threading.Barrier(8)

    def open_one() -> None:
        together.wait()
        try:
            opened.append(Database(tmp_path))
        except AppError as error:
            failures.append(error)

    threads = [threading.Thread(target=open_one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    made = {ConversationStore(database).create("ann", {}) for database in opened}
    assert len(made) == 1
    for database in opened:
        database.close()
    assert not list(tmp_path.glob("*.broken-*"))


def test_what_was_being_written_when_the_server_died_is_stopped_with_a_reason(database: Database, say) -> None:
    store = MessageStore(database)
    conversation_id = ConversationStore(database).create("ann", {})
    question, _ = store.append("ann", conversation_id, None, say())
    reply, _ = store.append("ann", conversation_id, question.id, say("half a rep", "assistant", "streaming"))
    assert store.recover() == 1
    assert store.recover() == 0
    found = store.message("ann", reply.id)
    assert (found.status, found.error, found.content) == ("stopped", INTERRUPTED, "half a rep")
    assert store.message("ann", question.id).status == "complete"
