"""The state of set-up: steps, interruptions, fingerprints, the lock."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from installer import state
from tests.installer.checkouts import ROOT


def make_steps(ran: list[str], broken: str = "", names: tuple[str, ...] = ("venv", "torch", "packages")) -> list[state.Step]:
    def run(name: str) -> Callable[[], None]:
        def work() -> None:
            ran.append(name)
            if name == broken:
                raise state.SetupError(f"{name} failed")
        return work
    return [state.Step(name, state.fingerprint(name), name, run(name)) for name in names]


def quiet(_text: str) -> None:
    """No output."""


def test_an_interrupted_set_up_goes_on_at_the_step_that_failed(tmp_path: Path) -> None:
    file = tmp_path / "state.json"
    ran: list[str] = []
    with pytest.raises(state.SetupError):
        state.run_steps(make_steps(ran, broken="torch"), state.SetupState.read(file), quiet)
    assert ran == ["venv", "torch"]
    ran.clear()
    assert state.run_steps(make_steps(ran), state.SetupState.read(file), quiet) == 2
    assert ran == ["torch", "packages"]
    ran.clear()
    assert state.run_steps(make_steps(ran), state.SetupState.read(file), quiet) == 0
    assert ran == []


def test_a_step_that_is_repeated_and_interrupted_is_no_longer_done(tmp_path: Path) -> None:
    file = tmp_path / "state.json"
    state.run_steps(make_steps([]), state.SetupState.read(file), quiet)
    repeated = state.SetupState.read(file)
    del repeated.done["torch"]
    with pytest.raises(state.SetupError):
        state.run_steps(make_steps([], broken="torch"), repeated, quiet)
    assert sorted(state.SetupState.read(file).done) == ["packages", "venv"]


def test_a_damaged_state_file_means_nothing_is_done(tmp_path: Path) -> None:
    file = tmp_path / "state.json"
    for text in ("", "{", "[]", '{"done": 3}', '{"accelerator": null, "done": {}}'):
        file.write_text(text, encoding="utf-8")
        assert state.SetupState.read(file).done == {}


def test_fingerprints_follow_contents_and_not_line_endings(tmp_path: Path) -> None:
    unix, windows, other = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    unix.write_bytes(b"x==1\ny==2\n")
    windows.write_bytes(b"x==1\r\ny==2\r\n")
    other.write_bytes(b"x==1\ny==3\n")
    assert state.fingerprint(unix) == state.fingerprint(windows)
    assert state.fingerprint(unix) != state.fingerprint(other)
    assert state.fingerprint("ab", "c") != state.fingerprint("a", "bc")


def test_two_set_ups_wait_for_each_other(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    holder = ("import sys, time\nfrom pathlib import Path\nfrom installer.state import setup_lock\n"
              "with setup_lock(Path(sys.argv[1]), print):\n    print('held', flush=True)\n    time.sleep(60)\n")
    with subprocess.Popen([sys.executable, "-c", holder, str(lock)], cwd=ROOT, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        said: list[str] = []
        with pytest.raises(state.SetupError, match="Another set-up"), state.setup_lock(lock, said.append, wait_s=0.1):
            pass
        assert len(said) == 1
        other.kill()
    with state.setup_lock(lock, said.append, wait_s=5):  # the system freed it
        assert len(said) == 1
