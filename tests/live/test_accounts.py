"""Accounts on the running server: made on the command line or at the terminal, logged in with, kept over a restart, and seen where another process changes them."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import openai
import psutil
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


class Terminal:
    """A server that was started at a terminal, and what is typed there."""

    def __init__(self, state: Path, port: int, *command: str) -> None:
        self.parent, child = pty.openpty()
        arguments = command or ("--model", "none", "--no-ui", "--host", "0.0.0.0", "--port", str(port))
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PADDOCK_")}
        self.process = subprocess.Popen([sys.executable, SERVER, *arguments, "--state-dir", str(state)], stdin=child, stdout=child, stderr=child, start_new_session=True, env=clean)
        os.close(child)
        self.seen = ""

    def expect(self, words: str) -> None:
        """Read until these words are there, and drop all up to their end."""
        while words not in self.seen:
            self.seen += os.read(self.parent, 4096).decode()
        self.seen = self.seen.partition(words)[2]

    def answer(self, prompt: str, typed: str) -> None:
        """Type a line where it is asked for."""
        self.expect(prompt)
        os.write(self.parent, typed.encode())

    def rest(self) -> str:
        """What is said until the process ends."""
        with contextlib.suppress(OSError):  # how a terminal says that its other end is gone
            while more := os.read(self.parent, 4096):
                self.seen += more.decode()
        return self.seen

    def leave(self, how: str | signal.Signals) -> None:
        """End it by what is typed, or by a signal: between a prompt and its read Python only notes one and reads on, so whoever is not heard presses the keys once more."""
        if isinstance(how, str):
            os.write(self.parent, how.encode())
            return
        wait_for(lambda: psutil.Process(self.process.pid).status() == psutil.STATUS_SLEEPING, "it waits for an answer", 10)
        time.sleep(0.2)
        for _ in range(10):
            self.process.send_signal(how)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(3)
                return

    def echoes(self) -> bool:
        """Whether the terminal shows what is typed."""
        return bool(termios.tcgetattr(self.parent)[3] & termios.ECHO)


@pytest.fixture
def at_terminal(state: Path) -> Iterator[Callable[..., Terminal]]:
    begun: list[Terminal] = []

    def begin(port: int = 0, *command: str) -> Terminal:
        begun.append(Terminal(state, port or free_port(), *command))
        return begun[-1]

    yield begin
    for terminal in begun:
        terminal.process.kill()
        terminal.process.wait(10)
        os.close(terminal.parent)


def test_a_person_at_the_terminal_is_offered_to_make_the_first_account(at_terminal: Callable[..., Terminal]) -> None:
    port = free_port()
    terminal = at_terminal(port)
    terminal.answer("Make the first account now?", "certainly\n")
    terminal.answer("Answer y or n: ", "\n")
    terminal.answer("Answer y or n: ", "Yes\n")
    terminal.answer("Name: ", " \n")
    terminal.expect("A name has 1 to 64 characters")
    terminal.answer("Name: ", " Ann \n")
    terminal.answer("Password: ", "short\n")
    terminal.expect("this one has 5")
    terminal.answer("Password: ", PASSWORD + "\n")  # only the password is asked for again
    terminal.answer("Once more: ", PASSWORD + "s\n")
    terminal.expect("The two differ; type the password again.")
    terminal.answer("Password: ", PASSWORD + "\n")
    terminal.answer("Once more: ", PASSWORD + "\n")
    terminal.expect("“Ann” can log in now.")
    terminal.expect("Paddock is at ")
    url = f"http://127.0.0.1:{port}/"
    wait_for(lambda: httpx.get(f"{url}health").status_code == 200, "it answers", START_LIMIT_S)
    assert httpx.post(f"{url}login", data={"name": "Ann", "password": PASSWORD}).status_code == 303
    terminal.process.terminate()
    assert terminal.process.wait(10) == 0 and PASSWORD not in terminal.rest()


@pytest.mark.parametrize(
    ("answers", "how"),
    [
        ((), "n\n"), ((), "\x04"), ((), signal.SIGINT), ((("Answer y or n: ", "y\n"),), "\x04"), ((("Answer y or n: ", "y\n"), ("Name: ", "Ann\n")), "\x04"),
        ((("Answer y or n: ", "y\n"), ("Name: ", "Ann\n")), signal.SIGINT), ((("Answer y or n: ", "y\n"), ("Name: ", "Ann\n")), signal.SIGTERM),
    ],
)  # fmt: skip
def test_who_makes_no_account_is_told_how_it_goes_on(at_terminal: Callable[..., Terminal], state: Path, answers: tuple[tuple[str, str], ...], how: str | signal.Signals) -> None:
    terminal = at_terminal()
    for prompt, typed in answers:
        terminal.answer(prompt, typed)
    terminal.expect(("Answer y or n: ", "Name: ", "Password: ")[len(answers)])
    wait_for(lambda: len(answers) < 2 or not terminal.echoes(), "it hides what is typed", 10)
    terminal.leave(how)
    said = terminal.rest()
    assert terminal.process.wait(10) == 2 and "No account was made. Make the first account (python server.py users add NAME" in said and "Traceback" not in said
    assert command(state, "users", "list")[1] == "There are no accounts: nobody has to log in."


@pytest.mark.parametrize("how", ["\x04", signal.SIGINT])
def test_a_command_that_is_left_changes_nothing_and_says_so(at_terminal: Callable[..., Terminal], state: Path, how: str | signal.Signals) -> None:
    terminal = at_terminal(0, "users", "add", "Ann")
    terminal.answer("Password: ", PASSWORD + "\n")
    terminal.expect("Once more: ")
    terminal.leave(how)
    said = terminal.rest()
    assert terminal.process.wait(10) == 130 and "Stopped; nothing was changed." in said and "Traceback" not in said
    assert command(state, "users", "list")[1] == "There are no accounts: nobody has to log in."
