"""Long commands: progress, log, interruption."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from installer import progress
from tests.installer.checkouts import ROOT


@pytest.mark.parametrize(("line", "short"), [
    ("  [12/300] /usr/bin/g++ -O3 -c x.cpp", "compiling 12 of 300"),
    ("Collecting numpy==2.4.6 (from -r requirements.txt)", "Collecting numpy==2.4.6 (from -r requirements.txt)"),
    ("  Downloading https://host/a/b/numpy.whl (16 MB)", "Downloading numpy.whl (16 MB)"),
    ("Requirement already satisfied: numpy", ""),
])
def test_progress_keeps_what_means_something(line: str, short: str) -> None:
    assert progress.meaning(line) == short


def test_without_a_terminal_progress_is_a_line_every_15_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    ticker = progress.Ticker("llama.cpp", terminal=False, started=0.0)
    ticker.detail = progress.meaning("[7/90] c++")
    for second in range(40):
        ticker.tick(float(second))
    assert capsys.readouterr().out.splitlines() == [
        "      llama.cpp: 15 s, compiling 7 of 90", "      llama.cpp: 30 s, compiling 7 of 90",
    ]


def test_a_command_is_logged_and_its_end_returned(tmp_path: Path) -> None:
    log = tmp_path / "log"
    program = "import sys\nfor i in range(99): print(i)\nsys.exit(3)"
    status, tail = progress.run_logged([sys.executable, "-c", program], "counting", log)
    assert status == 3
    assert tail.splitlines() == [str(number) for number in range(59, 99)]
    assert len(log.read_text(encoding="utf-8").splitlines()) > 99


@pytest.mark.skipif(os.name != "posix", reason="process groups")
def test_an_interruption_ends_the_command_and_its_children(tmp_path: Path) -> None:
    """A stopped set-up must not leave compilers running."""
    child = f"import time, os, pathlib; pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid())); time.sleep(60)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    driver = ("import signal, sys\nfrom pathlib import Path\nfrom installer.progress import run_logged\n"
              "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background jobs begin with it ignored
              f"run_logged([sys.executable, '-c', {parent!r}], 'sleeping', Path({str(tmp_path / 'log')!r}))\n")
    with subprocess.Popen([sys.executable, "-c", driver], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        pid_file = tmp_path / "pid"
        wait_until(lambda: pid_file.exists() and pid_file.read_text().isdigit())
        running.send_signal(signal.SIGINT)
        running.wait(timeout=20)
    wait_until(lambda: not alive(int(pid_file.read_text())))


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and waits for its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition: Callable[[], bool], timeout_s: float = 15.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
