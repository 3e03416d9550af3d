"""Downloads and the end of the server: stopped in good order they wait to be resumed, after kill -9 they go on and are found again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.hub.hub_server import HubServer
from tests.paddock_server import PaddockServer, wait_for

WEIGHTS = bytes(range(256)) * 8000


@pytest.fixture
def hub() -> Iterator[HubServer]:
    running = HubServer().start()
    running.add("meadow/pony", {"pony-Q8_0.gguf": WEIGHTS})
    running.fault("slow", "Q8_0|lfs", count=-1, value=200_000)
    yield running
    running.stop()


def serve(folder: Path, hub: HubServer) -> PaddockServer:
    """A server over the same folders, without a model."""
    for name in ("models", "loras"):
        (folder / name).mkdir(exist_ok=True)
    return PaddockServer(folder, folder / "models", folder / "loras", "--model", "none", "--hub-endpoint", hub.endpoint, model="")


def download(server: PaddockServer) -> str:
    """The id of a download that has begun to fetch."""
    job = server.ask("POST", "ui/hub/download", {"repo": "meadow/pony", "files": ["pony-Q8_0.gguf"]})["id"]
    wait_for(lambda: (look(server, job)["done"] or 0) > 100_000, "some of it has come")
    return str(job)


def look(server: PaddockServer, job: str) -> dict[str, Any]:
    return dict(server.ask("GET", f"ui/jobs/{job}"))


def test_a_stopped_server_ends_its_downloads_and_the_next_one_offers_to_resume(tmp_path: Path, hub: HubServer) -> None:
    server = serve(tmp_path, hub)
    job = download(server)
    children = server.children()
    server.process.terminate()
    assert server.process.wait(10) == 0
    assert psutil.wait_procs(children, timeout=2)[1] == []
    again = serve(tmp_path, hub)
    try:
        assert look(again, job)["status"] == "interrupted"
        hub.faults.clear()
        again.ask("POST", f"ui/jobs/{job}/resume", {})
        wait_for(lambda: look(again, job)["status"] == "done", "it is downloaded")
        assert (tmp_path / "models" / "meadow__pony" / "pony-Q8_0.gguf").read_bytes() == WEIGHTS
    finally:
        again.close()


def test_a_download_survives_kill_9_of_the_server_and_is_found_again(tmp_path: Path, hub: HubServer) -> None:
    server = serve(tmp_path, hub)
    job = download(server)
    server.process.kill()
    server.process.wait()
    again = serve(tmp_path, hub)
    try:
        assert look(again, job)["status"] == "running"
        hub.faults.clear()
        wait_for(lambda: look(again, job)["status"] == "done", "it is downloaded")
        assert (tmp_path / "models" / "meadow__pony" / "pony-Q8_0.gguf").read_bytes() == WEIGHTS
    finally:
        again.close()
