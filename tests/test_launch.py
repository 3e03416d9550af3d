"""The launcher's command line, and how it hands over to the server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import launch
from installer import steps
from tests.installer.checkouts import ROOT, finish, make_checkout


@pytest.fixture
def checkout(tmp_path: Path) -> steps.Place:
    """The launcher in a folder of its own, nothing set up."""
    return make_checkout(tmp_path)



@pytest.mark.parametrize(("given", "ours", "theirs"), [
    ([], [], []),
    (["--", "--port", "80"], [], ["--port", "80"]),
    (["test", "--", "-k", "name"], ["test"], ["-k", "name"]),
    (["test", "--", "-k", "--", "x"], ["test"], ["-k", "--", "x"]),
])
def test_arguments_are_split_at_the_first_dashes(given: list[str], ours: list[str], theirs: list[str]) -> None:
    assert launch.split_arguments(given) == (ours, theirs)


def test_without_a_command_it_starts() -> None:
    assert launch.parse([]).command == "start"
    with pytest.raises(SystemExit):
        launch.parse(["dance"])


def test_an_option_of_the_server_in_the_wrong_place_tells_the_right_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        launch.parse(["--port", "8000"])
    assert "launch.py -- --port 8000" in capsys.readouterr().err


def test_an_old_python_gets_a_sentence_and_no_traceback(tmp_path: Path) -> None:
    """The check stands before every import that an old Python could not do."""
    source = (ROOT / "launch.py").read_text(encoding="utf-8")
    head = source[: source.index("import argparse")].replace("(3, 11)", "(99, 0)")
    (tmp_path / "old.py").write_text(head, encoding="utf-8")
    done = subprocess.run([sys.executable, str(tmp_path / "old.py")], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("Paddock needs Python 3.11 or newer; this is 3.")
    assert "Traceback" not in done.stderr


def start(place: steps.Place, server: str, *arguments: str) -> subprocess.Popen[str]:
    (place.root / "server.py").write_text(server, encoding="utf-8")
    command = [sys.executable, str(place.root / "launch.py"), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_the_server_gets_the_arguments_and_its_exit_status_is_ours(checkout: steps.Place) -> None:
    finish(checkout)
    with start(checkout, "import sys, json; print(json.dumps(sys.argv[1:])); sys.exit(7)", "--", "--port", "8000") as running:
        output, _ = running.communicate(timeout=30)
    assert json.loads(output) == ["--port", "8000"]
    assert running.returncode == 7


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_signal_reaches_the_server(checkout: steps.Place) -> None:
    finish(checkout)
    server = ("import signal, sys, time\n"
              "signal.signal(signal.SIGTERM, lambda *_: (print('ended in order', flush=True), sys.exit(0)))\n"
              "print('ready', flush=True)\ntime.sleep(60)\n")
    with start(checkout, server) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        running.send_signal(signal.SIGTERM)
        output, _ = running.communicate(timeout=30)
    assert (output, running.returncode) == ("ended in order\n", 0)


def test_the_doctor_works_before_set_up(checkout: steps.Place) -> None:
    command = [sys.executable, str(checkout.root / "launch.py"), "doctor"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    for word in ("Python", "Memory", "GPU", "C++ compiler", "not done yet: python3 launch.py"):
        assert word in done.stdout
