"""What was acknowledged survives a kill without warning."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from modules.store.conversations import ConversationStore
from modules.store.database import Database
from modules.store.messages import INTERRUPTED, MessageStore
from modules.store.records import MessageRecord
from tests.store.killed_writers import PART, WHOLE

pytestmark = pytest.mark.processes
ROOT = Path(__file__).resolve().parents[2]
KILLS = 200


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_nothing_acknowledged_is_lost_to_a_kill(tmp_path: Path) -> None:
    """During streaming, edits, deletions, undoing them and imports; each of the killed had begun before it died."""
    command = [sys.executable, "-m", "tests.store.killed_writers", str(tmp_path), str(KILLS)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    last: dict[tuple[str, str], str] = {}
    for line in done.stdout.splitlines():
        word, kind, told_id = line.split()
        last[kind, told_id] = word
    assert len([kind for kind, _ in last if kind == "message"]) >= 3 * KILLS
    database = Database(tmp_path)
    assert database.notice == ""
    store = MessageStore(database)
    store.recover()
    listed = {summary.id for summary in ConversationStore(database).list("ann")}
    check_conversations(last, listed)
    check_messages(last, {message.id: message for each in listed for message in store.read_all("ann", each).messages}, in_bin(database))
    with database.read() as connection:
        assert connection.exec_driver_sql("PRAGMA integrity_check").scalar_one() == "ok"
        assert connection.exec_driver_sql("PRAGMA foreign_key_check").all() == []
        connection.exec_driver_sql("INSERT INTO message_search (message_search) VALUES ('integrity-check')")
    database.close()


def check_conversations(last: dict[tuple[str, str], str], listed: set[str]) -> None:
    for (kind, conversation_id), word in last.items():
        if kind == "conversation" and word in ("deleted", "restored"):
            assert (conversation_id in listed) == (word == "restored")


def check_messages(last: dict[tuple[str, str], str], kept: dict[str, MessageRecord], binned: dict[str, bool]) -> None:
    """Each is where it was said to be, with the text that was said to be saved."""
    for (kind, message_id), word in last.items():
        if kind != "message":
            continue
        assert (message_id in kept) != (message_id in binned), "it is either shown or in the bin"
        if word in ("saved", "whole", "deleted", "restored"):  # not in between
            assert binned.get(message_id, False) == (word == "deleted")
        if message_id in kept:
            found = kept[message_id]
            assert found.content == WHOLE or (word == "saved" and found.content == PART)
            assert (found.status, found.error) == (("complete", "") if found.content == WHOLE else ("stopped", INTERRUPTED))
    unsaid = [message for message_id, message in kept.items() if ("message", message_id) not in last]
    assert {message.content for message in unsaid} <= {"", PART, WHOLE}
    assert {message.status for message in unsaid} <= {"complete", "stopped"}


def in_bin(database: Database) -> dict[str, bool]:
    """Messages that were deleted (true), or whose conversation was."""
    with database.read() as connection:
        query = "SELECT m.id, m.bin_id FROM messages m JOIN conversations c ON c.id = m.conversation_id WHERE m.bin_id IS NOT NULL OR c.bin_id IS NOT NULL"
        return {row.id: row.bin_id is not None for row in connection.exec_driver_sql(query)}


FULL = """
import resource, sys, time
from pathlib import Path
from modules.core.errors import AppError
from modules.store.conversations import ConversationStore
from modules.store.database import Database
from modules.store.messages import MessageStore
from modules.store.records import NewMessage

database = Database(Path(sys.argv[1]))
conversation_id = ConversationStore(database).create("ann", {})
store = MessageStore(database)
resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, 600_000))
parent, count = None, 0
try:
    while True:
        parent = store.append("ann", conversation_id, parent, NewMessage("user", "some words " * 300, None, time.time()))[0].id
        count += 1
except AppError as error:
    sys.stdout.write(f"{count} {len(store.read('ann', conversation_id).messages)} {error.message}")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on file sizes")
def test_a_file_that_may_not_grow_gives_a_sentence_and_opens_again(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    saved, readable, sentence = done.stdout.split(" ", 2)
    assert saved == readable
    assert int(saved) > 3
    assert "disk is full or cannot be written" in sentence
    database = Database(tmp_path)
    assert database.notice == ""
    assert ConversationStore(database).list("ann")[0].messages == int(saved)
    database.close()
