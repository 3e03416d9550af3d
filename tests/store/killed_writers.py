"""Writers that are killed in the middle: run with a folder and a number of kills, it prints what they were told by the store.

A line is `WORD KIND ID`. `saved message` came after the store had acknowledged so much of a reply's text, `whole message` after all of it;
`deleted` and `restored` came after such a change, `deleting` and `restoring` before it. What a killed writer wanted to say is lost with it.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

from modules.store.bin import BinStore
from modules.store.conversations import ConversationStore
from modules.store.database import Database
from modules.store.messages import MessageStore
from modules.store.records import NewConversation, NewMessage

PART, WHOLE = "grown " * 100, "whole text " * 200
LONGEST_WAIT_S = 0.012
STEPS_BEFORE = 40  # of the one that is not killed, so that the others find their statements ready


class Writer:
    """One that writes into conversations of its own, whatever chance says."""

    def __init__(self, database: Database, pipe: int, seed: int) -> None:
        self.chance = random.Random(seed)
        self.pipe = pipe
        self.messages = MessageStore(database)
        self.conversations = ConversationStore(database)
        self.bin = BinStore(database)
        self.alive: dict[str, list[str]] = {}

    def tell(self, word: str, kind: str, *ids: str) -> None:
        os.write(self.pipe, "".join(f"{word} {kind} {each}\n" for each in ids).encode())

    def start(self) -> None:
        self.messages.recover()
        self.bring_in()

    def step(self) -> None:
        self.chance.choice((self.stream, self.stream, self.edit, self.delete_and_undo, self.throw_away, self.bring_in))()

    def some(self) -> tuple[str, str]:
        conversation_id = self.chance.choice(list(self.alive))
        return conversation_id, self.chance.choice(self.alive[conversation_id])

    def stream(self) -> None:
        conversation_id, parent = self.some()
        added, _ = self.messages.append("ann", conversation_id, parent, NewMessage("assistant", "", None, time.time(), status="streaming"))
        self.messages.save("ann", added.id, {"content": PART, "status": "streaming"})
        self.tell("saved", "message", added.id)
        self.messages.save("ann", added.id, {"content": WHOLE, "status": "complete"})
        self.alive[conversation_id].append(added.id)
        self.tell("whole", "message", added.id)

    def edit(self) -> None:
        conversation_id, target = self.some()
        added = self.messages.add_version("ann", target, NewMessage("", WHOLE, None, time.time()))
        self.alive[conversation_id].append(added.id)
        self.tell("whole", "message", added.id)

    def delete_and_undo(self) -> None:
        """Of a message that nothing follows: which others go with it is another test's question."""
        conversation_id, target = self.some()
        added, _ = self.messages.append("ann", conversation_id, target, NewMessage("user", WHOLE, None, time.time()))
        self.tell("whole", "message", added.id)
        self.tell("deleting", "message", added.id)
        _, bin_id = self.messages.delete("ann", added.id)
        self.tell("deleted", "message", added.id)
        if self.chance.random() < 0.7:
            self.tell("restoring", "message", added.id)
            self.bin.restore("ann", bin_id)
            self.alive[conversation_id].append(added.id)
            self.tell("restored", "message", added.id)

    def throw_away(self) -> None:
        conversation_id, _ = self.some()
        if len(self.alive) == 1:
            return
        self.tell("deleting", "conversation", conversation_id)
        bin_id = self.conversations.delete("ann", conversation_id)
        self.tell("deleted", "conversation", conversation_id)
        if self.chance.random() < 0.7:
            self.tell("restoring", "conversation", conversation_id)
            self.bin.restore("ann", bin_id)
            self.tell("restored", "conversation", conversation_id)
        else:
            del self.alive[conversation_id]

    def bring_in(self) -> None:
        rows = tuple(NewMessage("user", WHOLE, place - 1 if place else None, time.time()) for place in range(3))
        conversation_id = self.messages.insert_tree("ann", NewConversation("Brought in", {}, rows))
        self.alive[conversation_id] = [message.id for message in self.messages.read_all("ann", conversation_id).messages]
        self.tell("whole", "message", *self.alive[conversation_id])


def main(folder: Path, kills: int) -> None:
    """Kill one writer after the other; the database is opened once, and given back before each begins."""
    database = Database(folder)
    first = Writer(database, sys.stdout.fileno(), 0)
    first.start()
    for _ in range(STEPS_BEFORE):
        first.step()
    chance = random.Random(7)
    for number in range(1, kills + 1):
        database.close()
        reader, pipe = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            writer = Writer(database, pipe, number)
            writer.start()
            while True:
                writer.step()
        os.close(pipe)
        told = os.read(reader, 65536)  # it is at work
        time.sleep(chance.random() * LONGEST_WAIT_S)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        while part := os.read(reader, 65536):
            told += part
        os.close(reader)
        os.write(sys.stdout.fileno(), told)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
