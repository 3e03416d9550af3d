"""`server.py download`: from a name to a verified file, stopped with Ctrl+C and resumed by the same command."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub.hub_server import HubServer
from tests.paddock_server import ROOT, wait_for

WEIGHTS = bytes(range(256)) * 8000


@pytest.fixture
def hub() -> Iterator[HubServer]:
    running = HubServer().start()
    running.add("meadow/pony", {"pony-Q8_0.gguf": WEIGHTS, "pony-Q4_0.gguf": WEIGHTS[:9000], "README.md": b"# Pony"})
    yield running
    running.stop()


def begin(hub: HubServer, folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [
        sys.executable, str(ROOT / "server.py"), "download", *arguments, "--hub-endpoint", hub.endpoint, "--models-dir", str(folder / "models"),
        "--loras-dir", str(folder / "loras"), "--state-dir", str(folder / "state"),
    ]  # fmt: skip
    for name in ("models", "loras"):
        (folder / name).mkdir(exist_ok=True)
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder)


def test_a_named_quantization_is_fetched_and_verified(hub: HubServer, tmp_path: Path) -> None:
    work = begin(hub, tmp_path, "meadow/pony:Q8_0")
    said, complaints = work.communicate(timeout=60)
    assert work.returncode == 0, complaints
    assert "meadow__pony/pony-Q8_0.gguf is downloaded and verified" in said
    assert "1 of 1 files" in said
    assert (tmp_path / "models" / "meadow__pony" / "pony-Q8_0.gguf").read_bytes() == WEIGHTS


def test_several_choices_are_listed(hub: HubServer, tmp_path: Path) -> None:
    work = begin(hub, tmp_path, "meadow/pony")
    _, complaints = work.communicate(timeout=60)
    assert work.returncode == 1
    assert "offers 2 choices" in complaints
    assert "Q8_0" in complaints
    assert list((tmp_path / "models").iterdir()) == []


def test_ctrl_c_stops_and_the_same_command_goes_on(hub: HubServer, tmp_path: Path) -> None:
    hub.fault("slow", "Q8_0|lfs", count=-1, value=400_000)
    work = begin(hub, tmp_path, "meadow/pony:Q8_0")
    wait_for(lambda: hub.sent() > 400_000, "some of it has come")
    work.send_signal(signal.SIGINT)
    _, complaints = work.communicate(timeout=60)
    assert (work.returncode, "same command" in complaints) == (130, True)
    hub.faults.clear()
    hub.forget()
    again = begin(hub, tmp_path, "meadow/pony:Q8_0")
    _, complaints = again.communicate(timeout=60)
    assert again.returncode == 0, complaints
    assert 0 < hub.sent() < len(WEIGHTS)
    assert (tmp_path / "models" / "meadow__pony" / "pony-Q8_0.gguf").read_bytes() == WEIGHTS


def test_pickles_and_code_come_only_by_name_and_with_a_warning(hub: HubServer, tmp_path: Path) -> None:
    hub.add("meadow/old", {"pytorch_model-00001-of-00002.bin": b"1" * 900, "pytorch_model-00002-of-00002.bin": b"2" * 900, "pytorch_model.bin.index.json": b"{}", "config.json": b"{}", "evil.py": b"#"})
    work = begin(hub, tmp_path, "meadow/old")
    _, complaints = work.communicate(timeout=60)
    assert work.returncode == 1
    assert "--file pytorch_model-00001-of-00002.bin" in complaints and "python server.py convert" in complaints
    work = begin(hub, tmp_path, "meadow/old", "--file", "pytorch_model-00002-of-00002.bin")
    _, complaints = work.communicate(timeout=60)
    assert work.returncode == 0, complaints
    assert complaints.count("can run any program when it is opened. It was asked for by name") == 2
    taken = {path.name for path in (tmp_path / "models" / "meadow__old").iterdir()}
    assert taken == {"pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin", "pytorch_model.bin.index.json", "config.json", "paddock.json"}
    work = begin(hub, tmp_path, "meadow/old", "--file", "gone.bin", "--name", "other")
    _, complaints = work.communicate(timeout=60)
    assert (work.returncode, "has no file “gone.bin”" in complaints) == (1, True)
