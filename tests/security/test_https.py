"""A server with its own certificate: what it prints, what clients get, and the sentence for files that cannot be used."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from tests.certificates import write_certificate
from tests.paddock_server import ServerProcess, free_port, wait_for

KEY = "a-key-of-this-test"
CONNECTIONS = 8
START_LIMIT_S = 40

Start = Callable[..., ServerProcess]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    started: list[ServerProcess] = []

    def begin(*flags: str, **environ: str) -> ServerProcess:
        folder = tmp_path_factory.mktemp("https")
        (folder / "models").mkdir()
        common = ("--model", "none", "--models-dir", str(folder / "models"), "--port", str(free_port()))
        started.append(ServerProcess(folder, *common, *flags, environ=environ))
        return started[-1]

    yield begin
    for process in started:
        process.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_certificate(tmp_path_factory.mktemp("files"))


def printed(server: ServerProcess) -> str:
    found = wait_for(lambda: server.process.poll() is not None or re.search(r"Paddock is at (\S+)", server.log), "it says its address", START_LIMIT_S)
    assert isinstance(found, re.Match), server.log
    return str(found[1])


@pytest.fixture(scope="module")
def secure(start: Start, files: tuple[Path, Path]) -> Iterator[httpx.Client]:
    """A client that trusts the certificate, of a server that asks for a key."""
    server = start(
        "--host", "0.0.0.0", "--allowed-host", "localhost", "--ssl-certfile", str(files[0]), "--ssl-keyfile", str(files[1]),
        "--connections-per-address", str(CONNECTIONS), PADDOCK_API_KEY=KEY,
    )  # fmt: skip
    address = printed(server)
    assert address.startswith("https://0.0.0.0:"), address
    with httpx.Client(base_url=address.replace("0.0.0.0", "localhost"), verify=ssl.create_default_context(cafile=str(files[0])), timeout=30) as client:

        def answers() -> bool:
            assert server.process.poll() is None, server.log
            try:
                return client.get("/health").status_code == 200
            except httpx.TransportError:
                return False

        wait_for(answers, "it answers", START_LIMIT_S)
        yield client


def test_page_and_api_come_over_https_and_the_session_never_leaves_it(secure: httpx.Client) -> None:
    entered = secure.post("/login", data={"key": KEY}, headers={"origin": str(secure.base_url).rstrip("/")})
    assert entered.status_code == 303
    cookie = entered.headers["set-cookie"]
    assert all(word in cookie for word in ("Secure", "HttpOnly", "SameSite=strict")), cookie
    page = secure.get("/")
    assert page.status_code == 200 and "http://" not in re.sub(r"http://www\.w3\.org", "", page.text.split("<body", 1)[0].split("gradio_config", 1)[0])
    assert secure.get("/v1/models", headers={"authorization": f"Bearer {KEY}"}).status_code == 200


@pytest.mark.skipif(os.name != "posix", reason="without exec the next run is a child process")
def test_a_restart_stays_on_https_and_keeps_the_session(secure: httpx.Client) -> None:
    assert secure.post("/login", data={"key": KEY}).status_code == 303
    before = secure.get("/ui/restart").json()["run"]
    assert secure.post("/ui/restart").json() == {"run": before, "same_address": True}

    def again() -> bool:
        with contextlib.suppress(httpx.TransportError):
            return bool(secure.get("/ui/restart").json()["run"] != before)
        return False

    wait_for(again, "another run answers", START_LIMIT_S)


def test_plain_http_gets_nothing(secure: httpx.Client) -> None:
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://localhost:{secure.base_url.port}/health")


def test_the_limit_of_connections_is_the_setting(secure: httpx.Client, files: tuple[Path, Path]) -> None:
    trust = ssl.create_default_context(cafile=str(files[0]))
    with ExitStack() as stack:
        idle = []
        for _ in range(CONNECTIONS + 1):
            line = stack.enter_context(socket.create_connection(("127.0.0.1", secure.base_url.port or 0), 20))
            idle.append(stack.enter_context(trust.wrap_socket(line, server_hostname="localhost")))
        try:
            first = idle[0].recv(1)  # the one that waited longest made room
        except (ssl.SSLError, ConnectionError):
            first = b""
        assert first == b""
        assert secure.get("/health").status_code == 200


def test_files_that_cannot_be_used_are_told_at_the_start(start: Start, files: tuple[Path, Path], tmp_path: Path) -> None:
    other = write_certificate(tmp_path, "other")
    refused = [
        (start("--ssl-certfile", str(tmp_path / "none.crt")), "none.crt cannot be read: No such file or directory. Correct it, or leave both files out to serve plain http."),
        (start("--ssl-certfile", str(files[0]), "--ssl-keyfile", str(other[1])), "is not the one of the certificate in"),
        (start("--ssl-keyfile", str(files[1])), "names a private key, but no certificate is given. Name it with --ssl-certfile, or leave the key out."),
    ]
    ended = write_certificate(tmp_path, "ended", begins=timedelta(days=-2), ends=timedelta(days=-1))
    warned = start("--no-ui", "--ssl-certfile", str(ended[0]), "--ssl-keyfile", str(ended[1]))
    for server, words in refused:
        assert server.process.wait(START_LIMIT_S) == 2, server.log
        assert words in server.log and server.log.count("\n") == 1, server.log
    assert printed(warned).startswith("https://localhost:")
    assert "is no longer valid; browsers and programs refuse it or warn until it is replaced." in warned.log
