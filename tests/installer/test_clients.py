"""The environment of other makers' clients: what makes it anew, and what is said when it cannot be made."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from installer import clients, steps
from tests.installer.checkouts import ROOT

Runs = list[tuple[str, ...]]


@pytest.fixture
def place(tmp_path: Path) -> steps.Place:
    """A checkout with what the clients are made from, and nothing made."""
    for name in ("requirements.txt", "requirements-clients.txt", "tests/clients/js/package-lock.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return steps.Place(tmp_path)


@pytest.fixture
def runs(place: steps.Place, monkeypatch: pytest.MonkeyPatch) -> Runs:
    """The commands, which make what they would make; and node is here."""
    found = clients.ClientPlace(place)
    begun: Runs = []

    def run(command: Sequence[str], *_: object) -> tuple[int, str]:
        begun.append(tuple(command))
        if "venv" in command:
            found.python.parent.mkdir(parents=True, exist_ok=True)
            found.python.touch()
        if "ci" in command:
            found.packages.mkdir(exist_ok=True)
        return 0, ""

    monkeypatch.setattr(clients, "run_logged", run)
    monkeypatch.setattr(clients, "has_node", lambda: True)
    monkeypatch.setattr(clients, "behind", lambda _: None)
    return begun


def silent(_: str) -> None:
    """Nobody listens."""


def test_clients_are_made_once_and_again_when_something_changed(place: steps.Place, runs: Runs) -> None:
    found = clients.ClientPlace(place)

    def made() -> list[str]:
        runs.clear()
        assert clients.ensure_clients(place, silent) == ""
        return [next(word for word in ("venv", "install", "ci") if word in command) for command in runs]

    assert made() == ["venv", "install", "ci"]
    assert made() == []
    shutil.rmtree(found.packages)
    assert made() == ["ci"]
    (place.root / "requirements-clients.txt").write_text("openai==1\n", encoding="utf-8")
    assert made() == ["venv", "install"]
    shutil.rmtree(found.venv)
    assert made() == ["venv", "install", "ci"]


def test_pip_installs_what_is_pinned_and_nothing_besides(place: steps.Place, runs: Runs) -> None:
    clients.ensure_clients(place, silent)
    install = next(command for command in runs if "install" in command)
    assert install[0] == str(place.python) and install[install.index("--python") + 1] == str(clients.ClientPlace(place).python)
    assert install[-3:] == ("--no-deps", "-r", str(place.root / "requirements-clients.txt"))


@pytest.mark.parametrize(("written", "cure"), [
    ("npm error code EAI_AGAIN", "The package index was not reached: check the network"),
    ("ERROR: No matching distribution found for openai", "Look at the lines above"),
])
def test_a_failure_says_what_is_not_tried_and_why(place: steps.Place, runs: Runs, monkeypatch: pytest.MonkeyPatch, written: str, cure: str) -> None:
    monkeypatch.setattr(clients, "run_logged", lambda *_: (1, written))
    said = clients.ensure_clients(place, silent)
    assert said.splitlines()[0] == written
    assert "so Paddock is not tried with the clients of other makers" in said and cure in said


def test_without_node_only_the_python_clients_are_made(place: steps.Place, runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "has_node", lambda: False)
    assert clients.ensure_clients(place, silent) == ""
    assert not any("ci" in command for command in runs)
