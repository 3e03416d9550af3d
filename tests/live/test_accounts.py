"""Accounts on the running server: made on the command line or at the terminal, logged in with, kept over a restart, and seen where another process changes them."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from tests.paddock_server import ROOT, START_LIMIT_S, ServerProcess, free_port, wait_for

PASSWORD = "heron and otter"
SERVER = str(ROOT / "server.py")


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def command(state: Path, *arguments: str, typed: str = "") -> tuple[int, str]:
    """What a command says, and its exit status."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PADDOCK_")}
    done = subprocess.run([sys.executable, SERVER, *arguments, "--state-dir", str(state)], input=typed, capture_output=True, text=True, timeout=60, env=clean, check=False)
    return done.returncode, (done.stdout + done.stderr).strip()


@pytest.fixture
def start(tmp_path: Path, models_dir: Path) -> Iterator[object]:
    started: list[ServerProcess] = []

    def begin(*flags: str) -> str:
        port = free_port()
        started.append(ServerProcess(tmp_path, "--models-dir", str(models_dir), "--model", "none", "--verbose", "--port", str(port), *flags))
        url = f"http://127.0.0.1:{port}/"
        wait_for(lambda: started[-1].answers(url), "it answers", START_LIMIT_S)
        return url

    begin.started = started  # type: ignore[attr-defined]
    yield begin
    for process in started:
        process.close()


def test_accounts_let_other_machines_in_and_outlive_a_restart(state: Path, start: object) -> None:
    code, said = command(state, "users", "add", "Ann", typed=PASSWORD + "\n")
    assert code == 0 and said.startswith("Ann is the first account and so an administrator.")
    assert command(state, "users", "add", "Ben", typed=PASSWORD) == (0, "Ben can log in now, with the role chat.")
    code, said = command(state, "keys", "add", "Ben", "--scope", "chat", "--name", "phone")
    key = said.splitlines()[0]
    assert code == 0 and said.endswith("This is shown once. It may do: chat.")

    url = start("--host", "0.0.0.0")  # type: ignore[operator]
    with httpx.Client(base_url=url) as ben:
        asked = ben.get("/")
        assert (asked.status_code, asked.headers["location"]) == (303, "/login")
        assert ben.post("/login", data={"name": "Ben", "password": "wrong"}).status_code == 401
        assert ben.post("/login", data={"name": "Ben", "password": PASSWORD}).status_code == 303
        assert "gradio" in ben.get("/").text.lower()
        assert ben.post("/ui/conversations").status_code == 200
    client = openai.OpenAI(base_url=f"{url}v1", api_key=key, max_retries=0)
    assert client.models.list().data
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{url}v1", api_key="none", max_retries=0).models.list()
    with pytest.raises(openai.PermissionDeniedError, match="may not load models|lacks the scope “models”|needs “manage”"):
        client.completions.create(model="starter/starter-Q8_0.gguf", prompt="Hi")
    server = start.started[-1]  # type: ignore[attr-defined]
    assert key not in server.log and PASSWORD not in server.log
    server.close()

    url = start("--no-ui")  # type: ignore[operator]
    with httpx.Client(base_url=url, cookies=dict(ben.cookies)) as again:  # the session is the same; asked for also on this machine alone
        assert again.get("/v1/models").status_code == 200 and httpx.get(f"{url}v1/models").status_code == 401
        # what another process changes is seen within seconds
        assert command(state, "users", "set-password", "Ben", typed="another one")[0] == 0
        wait_for(lambda: again.get("/v1/models").status_code == 401, "the session has ended")
        assert command(state, "keys", "revoke", "Ben", key.split("_")[1])[0] == 0
        wait_for(lambda: httpx.get(f"{url}v1/models", headers={"x-api-key": key}).status_code == 401, "the key has ended")


def test_accounts_are_not_passed_over(state: Path, tmp_path: Path) -> None:
    assert command(state, "users", "add", "Ann", typed=PASSWORD)[0] == 0
    server = ServerProcess(tmp_path, "--model", "none", "--no-ui", "--multi-user", "--port", str(free_port()))
    assert server.process.wait(START_LIMIT_S) == 2
    assert "--multi-user would let everybody in without them" in server.log
    assert command(state, "users", "list", "--multi-user")[0] == 1


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="this system has no terminals of its own")
def test_a_person_at_the_terminal_is_offered_to_make_the_first_account(state: Path) -> None:
    parent, child = pty.openpty()
    port = free_port()
    flags = ("--state-dir", str(state), "--model", "none", "--no-ui", "--host", "0.0.0.0", "--port", str(port))
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PADDOCK_")}
    with subprocess.Popen([sys.executable, SERVER, *flags], stdin=child, stdout=child, stderr=child, start_new_session=True, env=clean) as server:
        os.close(child)
        seen = ""

        def expect(words: str) -> None:
            nonlocal seen
            while words not in seen:
                seen += os.read(parent, 4096).decode()

        expect("Make the first account now?")
        for answers, words in ((("Ann", "short", "short"), "this one has 5"), (("Ann", PASSWORD, PASSWORD), "“Ann” can log in now.")):
            for prompt, answer in zip(("Name: ", "Password: ", "Once more: "), answers, strict=True):
                expect(prompt)
                seen = seen.rpartition(prompt)[2]
                os.write(parent, answer.encode() + b"\n")
            expect(words)
        assert PASSWORD not in seen
        expect("Paddock is at ")
        url = f"http://127.0.0.1:{port}/"
        try:
            wait_for(lambda: httpx.get(f"{url}health").status_code == 200, "it answers", START_LIMIT_S)
            assert httpx.post(f"{url}login", data={"name": "Ann", "password": PASSWORD}).status_code == 303
        finally:
            server.terminate()
            server.wait(10)
            os.close(parent)
