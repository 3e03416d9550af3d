"""A server, and its engine alone, killed without warning at any moment while clients write, edit, delete and bring in conversations.

`PADDOCK_KILLS=200 python -m pytest -s tests/live/test_kills.py` kills more often and says how much of the replies was lost.
"""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import statistics
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
import pytest

from modules.store.messages import INTERRUPTED
from tests.live.killed_clients import Client, Editor, Talk, Talker
from tests.paddock_server import STARTER, PaddockServer

KILLS = int(os.environ.get("PADDOCK_KILLS", "6"))
LONGEST_S = 2.0  # at work before the kill
END_LIMIT_S = 10
LOST_LIMIT_S = 3.0  # a second is what is promised, where the machine does not stand still
CRASHED = "ended unexpectedly"


@dataclass
class Figures:
    """What the kills met and what they cost."""

    acknowledged: int = 0
    under_way: int = 0
    lost_s: list[float] = field(default_factory=list)  # of replies under way when the server was killed
    starts_s: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        lost = sorted(self.lost_s) or [0.0]
        return (
            f"{KILLS} kills, {self.acknowledged} requests acknowledged, none lost; {self.under_way} replies under way, of which the server's kill took "
            f"{statistics.median(lost):.2f} s (median), {lost[int(0.95 * (len(lost) - 1))]:.2f} s (95 of 100), {lost[-1]:.2f} s (most); "
            f"started again, model loaded, in {statistics.median(self.starts_s or [0.0]):.1f} s"
        )


class Killing:
    """Kills in turn the server and its engine, and looks what is left."""

    def __init__(self, folder: Path, models_dir: Path, loras_dir: Path) -> None:
        self._places = (folder, models_dir, loras_dir)
        self._folder = folder
        self._chance = random.Random(11)
        self.talkers = (Talker(1), Talker(2))
        self.editors = (Editor(3), Editor(4))
        self.figures = Figures()
        self.server = self._started()

    @property
    def clients(self) -> tuple[Client, ...]:
        return (*self.talkers, *self.editors)

    def _started(self) -> PaddockServer:
        begun_s = time.monotonic()
        server = PaddockServer(*self._places, "--model", STARTER, "--option", "slots=4")
        self.figures.starts_s.append(time.monotonic() - begun_s)
        return server

    def kill(self, pool: ThreadPoolExecutor, *, whole: bool) -> None:
        """One kill in the middle of everything, then the check."""
        stop = threading.Event()
        works = [pool.submit(client.work, self.server.url, stop) for client in self.clients]
        time.sleep(self._chance.random() * LONGEST_S)  # any moment is the point
        children = self.server.children()
        victim = self.server.process.pid if whole else self.server.engine().pid
        killed_s = time.monotonic()
        psutil.Process(victim).kill()
        stop.set()
        for work in works:
            _ended(work, server_is_gone=whole)
        if whole:
            self.server.process.wait(END_LIMIT_S)
            _, left = psutil.wait_procs(children, timeout=END_LIMIT_S)
            assert not left, f"processes outlived the killed server: {left}"
            self._check_log()
            self.server.http.close()
            self.server = self._started()
        else:
            assert self.server.process.poll() is None
            asked = {"model": STARTER, "prompt": "Once", "max_tokens": 3}
            if self.server.http.post("v1/completions", json=asked).status_code == 502:  # it came before the end was noticed, and is told to come again
                self.server.ask("POST", "v1/completions", asked)
        for talker in self.talkers:
            self._check_replies(talker, killed_s, whole=whole)
        for client in self.clients:
            self.check(client, client.touched)
            client.touched.clear()

    def check(self, client: Client, names: set[str]) -> None:
        """Everything acknowledged in these conversations is where it was said to be."""
        binned = {row["conversation_id"] for row in self.server.ask("GET", "ui/bin")["deleted"]}
        for name in names:
            talk = client.talks[name]
            answer = self.server.http.get(f"ui/conversations/{name}/export")
            assert answer.status_code in (200, 404), answer.text
            there = answer.status_code == 200
            assert talk.there in (there, None), f"{name} was acknowledged to be {'there' if talk.there else 'in the bin'}"
            assert there or name in binned
            talk.there = there
            if there:
                _check_messages(talk, {row["id"]: row["content"] for row in answer.json()["messages"]})

    def _check_replies(self, talker: Talker, killed_s: float, *, whole: bool) -> None:
        for reply_id, growth in talker.growths.items():
            rows = self.server.ask("GET", f"ui/conversations/{growth.conversation_id}/export")["messages"]
            stored = next(row for row in rows if row["id"] == reply_id)
            assert all(row["status"] != "streaming" for row in rows)
            lost_s = growth.lost_s(stored["content"], killed_s)
            if growth.ended or not whole:
                assert lost_s == 0, (growth.shown, stored)
                assert (growth.ended, growth.error) == (stored["status"], stored["error"])
            else:
                assert (stored["status"], stored["error"]) in (("stopped", INTERRUPTED), ("complete", ""), growth.before), stored
                assert lost_s <= LOST_LIMIT_S, (growth.lengths, stored, killed_s)
                self.figures.lost_s.append(lost_s)
            self.figures.under_way += not growth.ended or CRASHED in growth.error
        talker.growths.clear()

    def _check_log(self) -> None:
        assert "Traceback" not in self.server.log, self.server.log
        assert not list((self._folder / "state").glob("*.broken-*"))

    def end(self) -> None:
        """Look at all of it once more, and at the file itself."""
        for client in self.clients:
            self.check(client, set(client.talks))
        self.figures.acknowledged = sum(client.done for client in self.clients)
        self._check_log()
        self.server.close()
        with contextlib.closing(sqlite3.connect(self._folder / "state" / "paddock.sqlite3")) as database:
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert database.execute("PRAGMA foreign_key_check").fetchall() == []
            database.execute("INSERT INTO message_search (message_search) VALUES ('integrity-check')")


def _ended(work: Future[None], *, server_is_gone: bool) -> None:
    try:
        work.result()
    except httpx.TransportError:
        if not server_is_gone:
            raise


def _check_messages(talk: Talk, found: dict[str, str]) -> None:
    texts = list(found.values())
    assert all(text in texts for text in talk.brought)
    for message_id, told in talk.messages.items():
        there = message_id in found
        assert told.there in (there, None), f"message {message_id} was acknowledged to be {'there' if told.there else 'in the bin'}"
        assert not there or found[message_id] == told.text
        told.there = there


@pytest.mark.timeout(60 + 30 * KILLS)
@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_nothing_acknowledged_is_lost_when_server_or_engine_is_killed(tmp_path: Path, models_dir: Path, loras_dir: Path) -> None:
    killing = Killing(tmp_path, models_dir, loras_dir)
    try:
        with ThreadPoolExecutor(len(killing.clients)) as pool:
            for number in range(KILLS):
                killing.kill(pool, whole=number % 2 == 0)
        killing.end()
    finally:
        killing.server.close()
    sys.stdout.write(f"{killing.figures}\n")
