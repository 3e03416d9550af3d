"""A restart that was asked for: the same process, port and conversations; a settings file read anew; sessions that go on; and what prevents it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.live.conftest import SLOW
from tests.live.test_server import END_LIMIT_S, IDLE, KEY, START_LIMIT_S, Start, address, default_taken, start
from tests.paddock_server import PaddockServer, ServerProcess, free_port, wait_for

__all__ = ["default_taken", "start"]  # fixtures

pytestmark = pytest.mark.skipif(os.name != "posix", reason="without exec the next run is a child process")


def run_of(url: str, headers: dict[str, str] | None = None) -> str:
    """The run that answers, or nothing."""
    with contextlib.suppress(httpx.TransportError):
        return str(httpx.get(f"{url}v1/internal/restart", headers=headers, timeout=START_LIMIT_S).json().get("run", ""))
    return ""


def restarted(server: ServerProcess, url: str, headers: dict[str, str] | None = None) -> None:
    """Ask for it and wait until another run answers, in the same process."""
    answer = httpx.post(f"{url}v1/internal/restart", headers=headers)
    assert answer.json().get("same_address") is True, answer.text
    wait_for(lambda: run_of(url, headers) not in ("", answer.json()["run"]), "another run answers", START_LIMIT_S)
    assert server.process.poll() is None


@pytest.fixture
def slow_server(tmp_path: Path, models_dir: Path, loras_dir: Path) -> Iterator[PaddockServer]:
    running = PaddockServer(tmp_path, models_dir, loras_dir, "--model", SLOW, model=SLOW)
    yield running
    running.close()


def test_replies_are_kept_and_the_model_is_loaded_again(slow_server: PaddockServer) -> None:
    server = slow_server
    chat = server.make_conversation(title="Kept", settings={"params": {"ban_eos": True, "max_tokens": 4000}})
    server.ask("POST", f"ui/conversations/{chat}/send", {"text": "Hello"})
    wait_for(lambda: server.counters()["decode_tokens"] > 5, "the reply grows")
    assert server.ask("GET", "ui/restart")["replies"] == 1
    before = server.children()
    restarted(server, server.url)
    assert not [child for child in before if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    wait_for(lambda: server.loaded() == SLOW, "the model is loaded again", START_LIMIT_S)
    shown = server.conversation(chat)
    reply = shown["messages"][-1]
    assert (reply["role"], reply["status"]) == ("assistant", "stopped")
    assert server.text(reply["id"])
    assert server.ask("GET", "ui/restart")["replies"] == 0
    assert server.log.count(f"Paddock is at http://localhost:{server.port}") == 2
    assert "Traceback" not in server.log, server.log


@pytest.mark.usefixtures("default_taken")
def test_a_port_that_was_chosen_by_itself_stays_and_the_settings_file_is_read_anew(start: Start, tmp_path: Path) -> None:
    server = start(*IDLE)
    url = address(server)
    settings = tmp_path / "state" / "settings.yaml"
    settings.write_text("queue_limit: 0\n", encoding="utf-8")
    refused = httpx.post(f"{url}v1/internal/restart")
    assert refused.status_code == 400
    assert refused.json()["error"]["message"].startswith("Settings: queue_limit: input should be greater than or equal to 1")
    settings.write_text("offline: true\nverbose: true\n", encoding="utf-8")
    restarted(server, url)
    restarted(server, url)
    assert server.log.count("Paddock starts again") == 2
    server.close()
    assert server.process.returncode == 0
    port = int(url.rsplit(":", 1)[1].strip("/"))
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
        pass


def test_another_address_in_the_settings_is_told_and_taken(start: Start, tmp_path: Path) -> None:
    first, second = free_port(), free_port()
    (tmp_path / "state").mkdir()
    settings = tmp_path / "state" / "settings.yaml"
    settings.write_text(f"port: {first}\n", encoding="utf-8")
    url = address(start(*IDLE))
    settings.write_text(f"port: {second}\n", encoding="utf-8")
    with socket.socket() as other:
        other.bind(("127.0.0.1", second))
        other.listen()
        refused = httpx.post(f"{url}v1/internal/restart")
        assert refused.json()["error"]["message"].startswith(f"Port {second} is in use")
    assert httpx.post(f"{url}v1/internal/restart").json()["same_address"] is False
    wait_for(lambda: run_of(f"http://127.0.0.1:{second}/"), "it answers there", START_LIMIT_S)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}health")


def test_with_a_key_it_needs_the_key_and_sessions_go_on(start: Start) -> None:
    server = start(*IDLE, "--host", "0.0.0.0", "--port", str(free_port()), PADDOCK_API_KEY=KEY)
    url, key = address(server), {"authorization": f"Bearer {KEY}"}
    for path in ("v1/internal/restart", "ui/restart"):
        assert httpx.post(f"{url}{path}").status_code == 401
        assert httpx.post(f"{url}{path}", headers={"origin": "http://elsewhere.example"}).status_code == 403
    with httpx.Client(base_url=url, timeout=START_LIMIT_S) as browser:
        browser.post("/login", data={"key": KEY})
        restarted(server, url, key)
        assert browser.get("/v1/models").status_code == 200
    assert KEY not in server.log


def test_a_signal_while_it_ends_to_start_again_ends_it_for_good(start: Start) -> None:
    port = free_port()
    server = start(*IDLE, "--port", str(port))
    url = address(server)
    with socket.create_connection(("127.0.0.1", port)) as half:  # half a request has the end take some seconds
        half.sendall(f"POST /v1/internal/encode HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{{".encode())
        assert httpx.post(f"{url}v1/internal/restart").status_code == 200
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(END_LIMIT_S) == 0
    assert "starts again" not in server.log
    assert "Traceback" not in server.log, server.log
