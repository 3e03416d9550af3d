"""The order of the checks, what counts as failed, and the browser."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from installer import checks, steps
from tests.conftest import LONGEST
from tests.installer.checkouts import ROOT


def test_the_checks_run_rules_first_and_only_tests_when_given_arguments() -> None:
    place = steps.Place(ROOT)
    every = [stage.name for stage in checks.stages(place, [])]
    assert every[:5] == ["ruff", "import-linter", "mypy", "unit", "processes"]
    assert every[-5:] == ["contracts", "live", "security", "clients", "e2e"]
    some = checks.stages(place, ["-k", "name"])
    assert some[0].name == "unit"
    assert all(stage.command[-2:] == ("-k", "name") for stage in some)


def test_the_files_that_workers_begin_with_exist() -> None:
    assert [file for file in LONGEST if not (ROOT / file).is_file()] == []


@pytest.mark.parametrize(("words", "status"), [
    (["ok", "ok"], 0), (["ok", "SKIPPED", "none"], 0), (["ok", "FAILED", "ok"], 1), (["none", "none"], 1), ([], 1),
])
def test_one_failure_or_nothing_run_fails_the_whole(words: list[str], status: int) -> None:
    assert checks.exit_status([checks.Outcome(word, word, 1.0) for word in words]) == status


def test_a_missing_browser_is_loud_and_fails_in_ci(capsys: pytest.CaptureFixture[str]) -> None:
    stage = checks.Stage("e2e", (sys.executable, "-c", "raise SystemExit(9)"))
    place = steps.Place(ROOT)
    assert checks.run_stage(stage, place, "", required=False).word == "SKIPPED"
    assert checks.run_stage(stage, place, "", required=True).word == "FAILED"
    assert "NOT RUN: no Chromium on this machine" in capsys.readouterr().out
    assert checks.run_stage(stage, place, "/usr/bin/browser", required=True).note == "exit status 9"


def test_a_browser_is_installed_only_with_the_right_to() -> None:
    as_root = checks.browser_commands("apt-get", root=True, sudo=False)
    assert [command[:3] for command in as_root] == [["apt-get", "-q", "update"], ["apt-get", "-q", "install"], ["apt-get", "-q", "install"]]
    assert checks.browser_commands("apt-get", root=False, sudo=False) == []
    assert checks.browser_commands("apt-get", root=False, sudo=True)[0][:3] == ["sudo", "-n", "apt-get"]
    assert checks.browser_commands("brew", root=False, sudo=True)[0][0] == "brew"
    assert checks.browser_commands("", root=True, sudo=True) == []


def test_clients_that_cannot_be_installed_fail_their_stage_alone_and_say_why(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    made = [checks.Stage(name, (sys.executable, "-c", "")) for name in ("live", "clients", "e2e")]
    monkeypatch.setattr(checks, "stages", lambda *_: made)
    monkeypatch.setattr(checks, "ensure_chromium", lambda: "/usr/bin/browser")
    monkeypatch.setattr(checks, "ensure_clients", lambda *_: "npm said no.\nThe package index was not reached.")
    assert checks.run_checks(steps.Place(ROOT), []) == 1
    printed = capsys.readouterr().out
    assert "NOT RUN: npm said no." in printed
    words = [(line.split()[0], line.split()[1]) for line in printed.splitlines() if line.startswith(("live", "clients", "e2e"))]
    assert words == [("live", "ok"), ("clients", "FAILED"), ("e2e", "ok")]


UNSTEADY_TESTS = """
import pathlib
import pytest
seen = pathlib.Path(__file__).with_name("seen")

def test_good(): pass

def test_once():
    first = not seen.exists()
    seen.touch()
    assert not first

@pytest.mark.skipif("{bad}" != "yes", reason="not asked for")
def test_bad(): assert False
"""


@pytest.mark.parametrize(("bad", "word"), [("no", "ok"), ("yes", "FAILED")])
@pytest.mark.processes
def test_what_failed_runs_once_more_alone_and_is_named(tmp_path: Path, bad: str, word: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "test_made.py").write_text(UNSTEADY_TESTS.replace("{bad}", bad), encoding="utf-8")
    plain = checks.Stage("made", (sys.executable, "-m", "pytest", "-q", "-p", "no:schemathesis", "-n", "0", str(tmp_path)))
    stage = checks.noting_failures(plain, tmp_path / "cache")
    outcome = checks.run_stage(stage, steps.Place(tmp_path), "", required=True)
    assert outcome.word == word
    assert "once more" in capsys.readouterr().out
    assert ("test_once" in outcome.note) == (word == "ok")


def test_many_failures_are_a_defect_and_are_not_run_again(tmp_path: Path) -> None:
    record = tmp_path / "lastfailed"
    record.write_text('{"' + '": true, "'.join(f"test_{number}" for number in range(checks.UNSTEADY + 1)) + '": true}', encoding="utf-8")
    stage = checks.Stage("made", (sys.executable, "-c", "raise SystemExit(1)"), record)
    assert len(checks.failed_tests(stage)) == checks.UNSTEADY + 1
    assert checks.run_stage(stage, steps.Place(tmp_path), "", required=True).note == "exit status 1"
