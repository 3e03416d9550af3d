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

pytestmark = pytest.mark.processes
ROOT = Path(__file__).resolve().parents[2]
KILLS = 10

# Each child writes until it is killed in the middle; it tells an id only after the store has acknowledged the message.
WRITERS = """
import os, random, signal, sys, time
from pathlib import Path
from modules.store.conversations import ConversationStore
from modules.store.database import Database
from modules.store.messages import MessageStore
from modules.store.records import NewMessage

def write(folder, pipe):
    database = Database(folder)
    store = MessageStore(database)
    store.recover()
    conversation_id = ConversationStore(database).create("ann", {})
    parent = None
    while True:
        added, _ = store.append("ann", conversation_id, parent, NewMessage("assistant", "", None, time.time(), status="streaming"))
        store.save("ann", added.id, {"content": "grown " * 200, "status": "streaming"})
        store.save("ann", added.id, {"content": "whole text " * 200, "status": "complete"})
        parent = added.id
        os.write(pipe, (parent + "\\n").encode())

folder, kills = Path(sys.argv[1]), int(sys.argv[2])
chance = random.Random(7)
for _ in range(kills):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        write(folder, writer)
    os.close(writer)
    told = os.read(reader, 27)  # the first one: it is at work
    time.sleep(chance.random() * 0.15)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while part := os.read(reader, 65536):
        told += part
    sys.stdout.write(told.decode())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_no_acknowledged_message_is_lost_to_a_kill(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WRITERS, str(tmp_path), str(KILLS)], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    acknowledged = done.stdout.split()
    assert len(acknowledged) >= KILLS
    database = Database(tmp_path)
    assert database.notice == ""
    store = MessageStore(database)
    store.recover()
    kept = {}
    for summary in ConversationStore(database).list("ann"):
        for message in store.read("ann", summary.id).messages:
            kept[message.id] = message
    assert set(acknowledged) <= set(kept)
    assert {kept[message_id].content for message_id in acknowledged} == {"whole text " * 200}
    assert {message.status for message in kept.values()} <= {"complete", "stopped"}
    assert all(message.error == INTERRUPTED for message in kept.values() if message.status == "stopped")
    with database.read() as connection:
        assert connection.exec_driver_sql("PRAGMA integrity_check").scalar_one() == "ok"
        assert connection.exec_driver_sql("PRAGMA foreign_key_check").all() == []
    database.close()


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
