"""Streams that are open while their key, session or account ends, or the day's tokens are used up: they end soon, on every route, and free their slots."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.live.conftest import SLOW
from tests.paddock_server import LONG, ROOT, PaddockServer, wait_for

PASSWORD = "heron and otter"
LIMIT_S = 5.0  # what docs/limits.md promises
MARGIN_S = 3.0  # for a machine that others use
ASKED: dict[str, Any] = {"model": SLOW, "stream": True, "max_tokens": 4000, "messages": [{"role": "user", "content": "Hello"}], "ban_eos": True}
ROUTES: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("v1/chat/completions", ASKED), ("v1/messages", ASKED),
    ("api/chat", {"model": SLOW, "messages": ASKED["messages"], "options": {"num_predict": 4000, "ban_eos": True}}),
)  # fmt: skip


class Follower:
    """Reads a stream in a thread of its own, and notes when it ended."""

    def __init__(self, http: httpx.Client, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> None:
        self.text, self.broken, self.ended_s, self.status = "", "", 0.0, 0
        self._asked = (http, method, path, body, dict(headers or {}))
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        http, method, path, body, headers = self._asked
        try:
            with http.stream(method, path, json=body, headers=headers) as answer:
                self.status = answer.status_code
                for piece in answer.iter_text():
                    self.text += piece
        except httpx.TransportError as error:  # also where the server of all tests is closed
            self.broken = str(error)
        self.ended_s = time.monotonic()

    def wait_until(self, end_s: float) -> bool:
        self._thread.join(max(0.0, end_s - time.monotonic()))
        return not self._thread.is_alive()


class House:
    """A server with two accounts; what a person sends, and the command line beside it."""

    def __init__(self, server: PaddockServer, state: Path) -> None:
        self.server, self._state = server, state
        self.ann, self.ben = self.logged_in("Ann"), self.logged_in("Ben")
        self.ben_id = next(row["id"] for row in self.ann.get("ui/users").json()["users"] if row["name"] == "Ben")

    def logged_in(self, name: str) -> httpx.Client:
        http = httpx.Client(base_url=self.server.url, timeout=60)
        assert http.post("login", data={"name": name, "password": PASSWORD}).status_code == 303
        return http

    def key(self) -> tuple[str, str]:
        made = self.ben.post("ui/account/keys", json={"name": "phone", "scopes": ["chat"]}).json()
        return made["id"], made["key"]

    def command(self, *arguments: str) -> None:
        typed = PASSWORD if "add" in arguments else ""
        subprocess.run([sys.executable, str(ROOT / "server.py"), *arguments, "--state-dir", str(self._state)], input=typed, check=True, text=True, timeout=60)

    def running(self) -> int:
        return int(self.ann.get("v1/internal/counters").json()["running"])


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, models_dir: Path, loras_dir: Path) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("open-streams")
    server = PaddockServer(folder, models_dir, loras_dir, "--model", SLOW, "--option", "slots=4", model=SLOW)
    for name in ("Ann", "Ben"):
        subprocess.run([sys.executable, str(ROOT / "server.py"), "users", "add", name, "--state-dir", str(folder / "state")], input=PASSWORD, check=True, text=True, timeout=60)
    wait_for(lambda: server.http.get("v1/models").status_code == 401, "the server has seen the accounts")
    yield House(server, folder / "state")
    server.close()


@pytest.fixture
def streams(house: House) -> Iterator[Callable[[str], list[Follower]]]:
    """Four open streams of one person that have all begun: three of a program and one of the page."""

    def begin(key: str) -> list[Follower]:
        conversation = house.ben.post("ui/conversations").json()["id"]
        page = Follower(house.ben, "GET", f"ui/conversations/{conversation}/events")
        wait_for(lambda: page.text, "the page's stream has begun")
        house.ben.post(f"ui/conversations/{conversation}/send", json={"text": "Hello", "settings": {"params": {**LONG["params"], "max_tokens": 4000}}}).raise_for_status()
        programs = [Follower(httpx.Client(base_url=house.server.url, timeout=60), "POST", path, body, {"authorization": f"Bearer {key}"}) for path, body in ROUTES]
        wait_for(lambda: house.running() == 4 and all(len(one.text) > 600 for one in (*programs, page)), "all are in their middle", 60)
        return [*programs, page]

    with house.server.slowed():
        yield begin
        house.ann.patch(f"ui/users/{house.ben_id}", json={"disabled": False}).raise_for_status()
        house.ann.put(f"ui/users/{house.ben_id}/quota", json={"daily_tokens": 0}).raise_for_status()
        house.ben = house.logged_in("Ben")
        house.ben.post("v1/internal/stop-generation", json={}).raise_for_status()
        wait_for(lambda: house.running() == 0, "nothing is written any more")


def ends(followers: list[Follower], since_s: float) -> None:
    for one in followers:
        assert one.status == 200 and one.wait_until(since_s + LIMIT_S + MARGIN_S), "it goes on"
        assert not one.broken


def goes_on(followers: list[Follower]) -> None:
    before = [len(one.text) for one in followers]
    wait_for(lambda: all(len(one.text) > length and not one.ended_s for one, length in zip(followers, before, strict=True)), "the others go on", 10)


@pytest.mark.parametrize("on_command_line", [False, True])
def test_a_revoked_key_ends_the_streams_of_programs_and_no_others(house: House, streams: Callable[[str], list[Follower]], on_command_line: bool) -> None:
    key_id, key = house.key()
    *programs, page = streams(key)
    if on_command_line:
        house.command("keys", "revoke", "Ben", key_id)
    else:
        house.ben.delete(f"ui/account/keys/{key_id}").raise_for_status()
    ends(programs, time.monotonic())
    wait_for(lambda: house.running() == 1, "their slots are free", 5)
    goes_on([page])
    assert all("[DONE]" not in one.text and "message_stop" not in one.text for one in programs)


@pytest.mark.parametrize("on_command_line", [False, True])
def test_a_disabled_account_ends_all_its_streams(house: House, streams: Callable[[str], list[Follower]], on_command_line: bool) -> None:
    everything = streams(house.key()[1])
    if on_command_line:
        house.command("users", "disable", "Ben")
    else:
        house.ann.patch(f"ui/users/{house.ben_id}", json={"disabled": True}).raise_for_status()
    ends(everything, time.monotonic())
    wait_for(lambda: house.running() <= 1, "the slots of the programs are free", 5)


def test_an_ended_session_ends_the_pages_stream_and_no_programs(house: House, streams: Callable[[str], list[Follower]]) -> None:
    *programs, page = streams(house.key()[1])
    house.ann.delete(f"ui/users/{house.ben_id}/sessions").raise_for_status()
    ends([page], time.monotonic())
    goes_on(programs)


def test_a_used_up_day_ends_every_reply_with_its_sentence(house: House, streams: Callable[[str], list[Follower]]) -> None:
    *programs, page = streams(house.key()[1])
    house.ann.put(f"ui/users/{house.ben_id}/quota", json={"daily_tokens": 5}).raise_for_status()
    since_s = time.monotonic()
    ends(programs, since_s)
    wait_for(lambda: house.running() == 0, "all slots are free", 5)
    words = "Your limit of 5 tokens a day is reached"
    wait_for(lambda: words in page.text and not page.ended_s, "the page is told", 5)
    openai, anthropic, ollama = (one.text for one in programs)
    last = json.loads(openai.strip().rpartition("data: ")[2])["error"]
    assert last["type"] == "insufficient_quota" and words in last["message"]
    assert words in anthropic.rpartition("event: error")[2] and words in json.loads(ollama.strip().splitlines()[-1])["error"]
