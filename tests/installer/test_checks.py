"""The order of the checks, what counts as failed, and the browser."""

from __future__ import annotations

import sys

import pytest

from installer import checks, steps
from tests.conftest import LONGEST
from tests.installer.checkouts import ROOT


def test_the_checks_run_rules_first_and_only_tests_when_given_arguments() -> None:
    place = steps.Place(ROOT)
    every = [stage.name for stage in checks.stages(place, [])]
    assert every[:5] == ["ruff", "import-linter", "mypy", "unit", "processes"]
    assert every[-3:] == ["contracts", "live", "e2e"]
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
    assert [command[:3] for command in as_root] == [["apt-get", "-q", "update"], ["apt-get", "-q", "install"]]
    assert checks.browser_commands("apt-get", root=False, sudo=False) == []
    assert checks.browser_commands("apt-get", root=False, sudo=True)[0][:3] == ["sudo", "-n", "apt-get"]
    assert checks.browser_commands("brew", root=False, sudo=True)[0][0] == "brew"
    assert checks.browser_commands("", root=True, sudo=True) == []
