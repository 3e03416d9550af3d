"""The server as a process: its flags, its port, its end, what it lets in, and what it weighs."""

from __future__ import annotations

import contextlib
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import openai
import psutil
import pytest

from tests.live.conftest import SLOW, client_of
from tests.paddock_server import ROOT, STARTER, PaddockServer, ServerProcess, free_port, wait_for

IDLE = ("--model", "none", "--no-ui")
KEY = "a-key-of-this-test"
HEAVY = ("gradio", "fastapi", "uvicorn", "sqlalchemy", "numpy", "torch", "transformers", "llama_cpp")
HELP_LIMIT_S = 0.5
END_LIMIT_S = 10
WEB_LIMIT_BYTES = 300 << 20
START_LIMIT_S = 30
LOADED_OBJECTS = 50_000  # at the least, without the page

Start = Callable[..., ServerProcess]


@pytest.fixture
def start(tmp_path: Path, models_dir: Path) -> Iterator[Start]:
    """Starts servers with a state folder of this test; none is left at its end."""
    started: list[ServerProcess] = []

    def begin(*flags: str, **environ: str) -> ServerProcess:
        started.append(ServerProcess(tmp_path, "--models-dir", str(models_dir), *flags, environ=environ))
        return started[-1]

    yield begin
    for process in started:
        process.close()


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody else listens on."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


@pytest.fixture
def default_taken() -> Iterator[None]:
    """Somebody listens on the port that is taken without a wish."""
    with socket.socket() as other:
        with contextlib.suppress(OSError):  # somebody else's server is as good
            other.bind(("127.0.0.1", 7860))
            other.listen()
        yield


def printed(server: ServerProcess) -> str:
    """The address that it printed."""
    found = wait_for(lambda: server.process.poll() is not None or re.search(r"Paddock is at (\S+)", server.log), "it says its address", START_LIMIT_S)
    assert isinstance(found, re.Match), server.log
    return found[1] + "/"


def address(server: ServerProcess) -> str:
    """The address that it printed, once it answers there."""
    url = re.sub(r"//[^:/]+", "//127.0.0.1", printed(server))
    wait_for(lambda: server.answers(url), "it answers", START_LIMIT_S)
    return url


def refusal(server: ServerProcess) -> str:
    """What a server said that did not start."""
    assert server.process.wait(START_LIMIT_S) == 2, server.log
    return server.log.strip()


# ---- help ----------------------------------------------------------------------------------------------------------


def cpu_seconds_of_help() -> float:
    with subprocess.Popen([sys.executable, str(ROOT / "server.py"), "--help"], stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_utime + usage.ru_stime


@pytest.mark.skipif(not hasattr(os, "wait4"), reason="this system does not report a child's CPU time")
def test_help_is_quick() -> None:
    assert min(cpu_seconds_of_help() for _ in range(3)) < HELP_LIMIT_S


def test_help_imports_nothing_heavy_and_names_every_setting() -> None:
    command = [sys.executable, "-X", "importtime", str(ROOT / "server.py"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    imported = {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "pydantic" in imported
    assert imported.isdisjoint(HEAVY)
    for flag in ("--port", "--host", "--model", "--option", "--api-key", "--no-ui", "--queue-limit", "--step-timeout-s"):
        assert flag in done.stdout


# ---- port ----------------------------------------------------------------------------------------------------------


def test_a_port_that_was_asked_for_and_is_in_use_is_an_error(start: Start, taken: int) -> None:
    said = refusal(start(*IDLE, "--port", str(taken)))
    assert said == f"Port {taken} is in use on 127.0.0.1. Stop the other program, or choose another one with --port."


@pytest.mark.usefixtures("default_taken")
def test_without_a_wish_the_next_free_port_is_taken(start: Start) -> None:
    server = start(*IDLE)
    url = address(server)
    port = int(url.rsplit(":", 1)[1].strip("/"))
    assert 7860 < port < 7910
    assert f"Port 7860 is in use; taking {port} instead." in server.log


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems listen on 127.0.0.1 only")
def test_another_address_of_this_machine_is_printed_and_answers(start: Start) -> None:
    port = free_port()
    server = start(*IDLE, "--host", "127.0.0.5", "--port", str(port))
    url = printed(server)
    assert url == f"http://127.0.0.5:{port}/"
    wait_for(lambda: server.answers(url), "it answers", START_LIMIT_S)


def has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as listener:
        listener.bind(("::1", 0))
        return True
    return False


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")
@pytest.mark.parametrize("host", ["::1", "::", "0:0:0:0:0:0:0:1"])
def test_an_ipv6_address_answers_and_is_printed_in_brackets(start: Start, host: str) -> None:
    port = free_port()
    server = start(*IDLE, "--host", host, "--port", str(port), PADDOCK_API_KEY=KEY)
    assert printed(server) == f"http://{'localhost' if host == '::1' else f'[{host}]'}:{port}/"
    url = f"http://{'[::1]' if host == '::' else f'[{host}]'}:{port}/"
    wait_for(lambda: server.answers(url), "it answers", START_LIMIT_S)


# ---- settings ------------------------------------------------------------------------------------------------------


def test_a_flag_comes_before_the_environment_and_that_before_the_file(start: Start, tmp_path: Path) -> None:
    flag, environ, file = (str(free_port()) for _ in range(3))
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "settings.yaml").write_text(f"port: {file}\nui: false\nmodel: none\n", encoding="utf-8")
    for flags, names, expected in (
        (("--port", flag), {"PADDOCK_PORT": environ}, flag),
        ((), {"PADDOCK_PORT": environ}, environ),
        ((), {}, file),
    ):
        server = start(*flags, **names)
        assert address(server) == f"http://127.0.0.1:{expected}/"
        server.close()
        assert server.process.returncode == 0


@pytest.mark.parametrize(
    ("flags", "environ", "words"),
    [
        (("--port", "70000"), {}, "Settings: port: input should be less than or equal to 65535; got '70000'."),
        (("--option", "context_length"), {}, "--option: “context_length” is not NAME=VALUE, for example context_length=4096."),
        ((), {"PADDOCK_QUEUE_LIMIT": "none"}, "Settings: queue_limit: input should be a valid integer"),
        (("--config", "/no/such/file.yaml"), {}, "The settings file /no/such/file.yaml does not exist; correct --config or leave it out."),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(start: Start, flags: tuple[str, ...], environ: dict[str, str], words: str) -> None:
    assert refusal(start(*IDLE, *flags, **environ)).startswith(words)


def test_a_folder_or_a_file_that_cannot_be_used_is_told_in_one_sentence(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "file.yaml"
    file.write_bytes(b"port: 1\nhost: \xff\xfe\n")
    said = refusal(start(*IDLE, "--config", str(file)))
    assert said == f"The settings file {file} cannot be read: it is not UTF-8 text. Correct it, or name another one with --config."
    said = refusal(start(*IDLE, "--port", str(free_port()), "--state-dir", str(file / "state")))
    assert said.startswith(f"{file / 'state'}") and said.endswith("Make it writable, free some space, or choose another folder; see --help.")
    assert "\n" not in said


# ---- who gets in ---------------------------------------------------------------------------------------------------


def test_other_machines_are_let_in_only_with_an_account_or_a_key(start: Start) -> None:
    said = refusal(start(*IDLE, "--host", "0.0.0.0", "--port", str(free_port())))
    assert said.startswith("--host 0.0.0.0 lets other machines in, but there is neither an account nor a key. Make the first account (python server.py users add NAME")
    assert "PADDOCK_API_KEY=" in said


def test_with_a_key_the_page_asks_for_it_and_the_api_needs_it(start: Start) -> None:
    server = start("--model", "none", "--host", "0.0.0.0", "--port", str(free_port()), PADDOCK_API_KEY=KEY)
    url = address(server)
    with httpx.Client(base_url=url) as browser:
        asked = browser.get("/")
        assert (asked.status_code, asked.headers["location"]) == (303, "/login")
        assert 'type="password"' in browser.get("/login").text
        assert browser.get("/ui/models").status_code == 401
        assert "not the key" in browser.post("/login", data={"key": "wrong"}).text
        entered = browser.post("/login", data={"key": KEY})
        assert (entered.status_code, entered.headers["location"]) == (303, "/")
        page = browser.get("/")
        assert page.status_code == 200 and "gradio" in page.text.lower()
        assert browser.get("/ui/models").status_code == 200
    for key in ("wrong", ""):
        with pytest.raises(openai.AuthenticationError, match="needs its key") as caught:
            openai.OpenAI(base_url=f"{url}v1", api_key=key or "none", max_retries=0).models.list()
        assert caught.value.code == "invalid_api_key"
    assert openai.OpenAI(base_url=f"{url}v1", api_key=KEY, max_retries=0).models.list().data
    assert KEY not in server.log


def test_without_the_page_there_is_only_the_api(start: Start) -> None:
    url = address(start(*IDLE, "--port", str(free_port())))
    assert httpx.get(f"{url}v1/models").status_code == 200
    assert "without its page" in httpx.get(url).text and httpx.head(url).status_code == 200
    for path in ("ui/models", "ui/conversations", "gradio_api/info", "docs"):
        assert httpx.get(f"{url}{path}").status_code == 404, path


# ---- a full disk ---------------------------------------------------------------------------------------------------


@pytest.fixture
def small_state(tmp_path: Path) -> Iterator[Path]:
    """A state folder on a disk of its own with room for a few megabytes."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("only root on Linux can mount a small disk")
    state = tmp_path / "state"
    state.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(state)], capture_output=True, check=False).returncode:
        pytest.skip("this container may not mount a small disk")
    yield state
    subprocess.run(["umount", "-l", str(state)], check=True)


def test_a_note_that_finds_no_room_is_told_with_a_cure(small_state: Path, start: Start) -> None:
    url = address(start("--model", "none", "--port", str(free_port())))
    with (small_state / "filling").open("wb") as filling, contextlib.suppress(OSError):
        while True:
            os.write(filling.fileno(), bytes(4096))
    answer = httpx.post(f"{url}ui/library/note", json={"name": STARTER, "note": "x" * 900})
    assert answer.status_code == 500
    error = answer.json()["error"]
    assert error["message"] == "This could not be saved: No space left on device. Free some space, or make the folder writable, then try again."
    (small_state / "filling").unlink()
    assert httpx.post(f"{url}ui/library/note", json={"name": STARTER, "note": "x" * 900}).status_code == 200


# ---- the end -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_running_stream_with_a_sentence_and_every_child(tmp_path: Path, models_dir: Path, loras_dir: Path, how: signal.Signals) -> None:
    server = PaddockServer(tmp_path, models_dir, loras_dir, "--model", SLOW, "--no-ui", model=SLOW)
    told: queue.Queue[str] = queue.Queue()

    def read() -> None:
        asked = {"model": SLOW, "prompt": "Hello", "max_tokens": 8000, "stream": True, "extra_body": {"ban_eos": True}}
        try:
            pieces = [piece.choices[0].text for piece in client_of(server).completions.create(**asked)]
            told.put(f"an end after {len(pieces)} pieces")
        except openai.APIError as error:
            told.put(error.message)

    threading.Thread(target=read, daemon=True).start()
    wait_for(lambda: server.counters()["decode_tokens"] > 5, "the stream runs")
    children = server.children()
    assert children and told.empty()
    server.process.send_signal(how)
    try:
        assert server.process.wait(END_LIMIT_S) == 0, server.log
        assert re.fullmatch(rf"{SLOW} was unloaded.*; the text so far is kept\..*", told.get(timeout=5))
        gone, left = psutil.wait_procs(children, timeout=1)
        assert not left and len(gone) == len(children)
        assert "Traceback" not in server.log, server.log
    finally:
        server.close()


def test_a_reply_that_is_nearly_done_is_finished_before_the_end(tmp_path: Path, models_dir: Path, loras_dir: Path) -> None:
    server = PaddockServer(tmp_path, models_dir, loras_dir, "--no-ui")
    stream = client_of(server).completions.create(model="", prompt="Hello", max_tokens=300, stream=True, extra_body={"ban_eos": True})
    next(iter(stream))
    server.process.terminate()
    try:
        assert [piece.choices[0].finish_reason for piece in stream][-1] == "length"
        assert server.process.wait(END_LIMIT_S) == 0
    finally:
        server.close()


@pytest.mark.usefixtures("default_taken")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_it_serves_ends_it_quietly(start: Start, how: signal.Signals) -> None:
    server = start("--model", "none")
    wait_for(lambda: "in use; taking" in server.log, "it begins to load the page", START_LIMIT_S)
    server.process.send_signal(how)
    assert server.process.wait(END_LIMIT_S) == 0, server.log
    assert "Traceback" not in server.log and "Paddock is at" not in server.log, server.log


def test_an_open_page_does_not_hold_the_server_up(start: Start) -> None:
    server = start("--model", "none", "--port", str(free_port()))
    url = address(server)
    chat = httpx.post(f"{url}ui/conversations").json()["id"]
    with httpx.stream("GET", f"{url}ui/conversations/{chat}/events", timeout=END_LIMIT_S) as events:
        lines = events.iter_lines()
        assert next(lines)
        server.process.terminate()
        assert server.process.wait(END_LIMIT_S) == 0
    assert "Traceback" not in server.log, server.log


def healthy(port: int) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200
    return False


WATCHED = "import atexit, gc, sys, server\natexit.register(lambda: print('at the end', gc.isenabled(), gc.get_freeze_count()))\nsys.exit(server.main(sys.argv[1:]))\n"


def test_what_was_loaded_is_not_looked_through_for_garbage_again(tmp_path: Path) -> None:
    """Not while it serves, nor at the end, which that made a second longer."""
    port = free_port()
    command = [sys.executable, "-c", WATCHED, *IDLE, "--port", str(port), "--state-dir", str(tmp_path / "state")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        try:
            wait_for(lambda: server.poll() is not None or healthy(port), "it answers", START_LIMIT_S)
            server.terminate()
            printed, _ = server.communicate(timeout=END_LIMIT_S)
        finally:
            server.kill()
    assert server.returncode == 0
    found = re.search(r"at the end (\w+) (\d+)", printed)
    assert found and found[1] == "True" and int(found[2]) > LOADED_OBJECTS


# ---- what it weighs ------------------------------------------------------------------------------------------------


def test_the_web_process_stays_small_and_maps_no_model_library(server: PaddockServer) -> None:
    assert httpx.get(server.url).status_code == 200
    server.load()
    web = psutil.Process(server.process.pid)
    resident = web.memory_info().rss
    assert resident < WEB_LIMIT_BYTES, f"{resident / 2**20:.0f} MB"
    if not sys.platform.startswith("linux"):
        return
    native = re.compile(r"/(libtorch|libllama|libggml|libc10|libcuda)[^/]*$")
    assert [row.path for row in web.memory_maps() if native.search(row.path)] == []
    assert [row.path for row in server.engine().memory_maps() if native.search(row.path)], "this check would find nothing"
