"""Which files a stage leaves out without looking at their tests, and where its tests have their folders."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import conftest
from tests.conftest import ROOT, selects_nothing

UNIT, PROCESSES, TORCH = ["not processes", "not torch"], ["processes"], ["torch", "not processes"]
WHOLE = "import pytest\n\npytestmark = [pytest.mark.processes, pytest.mark.usefixtures('x')]\n"
PART = "import pytest\n\n\n@pytest.mark.processes\ndef test_it():\n    pass\n"


@pytest.mark.parametrize(("text", "out_of"), [(WHOLE, [UNIT, TORCH]), (PART, [TORCH]), ("def test_it():\n    pass\n", [PROCESSES, TORCH])])
def test_a_file_is_left_out_where_none_of_its_tests_is_wanted(tmp_path: Path, text: str, out_of: list[list[str]]):
    file = tmp_path / "test_it.py"
    file.write_text(text)
    assert [terms for terms in (UNIT, PROCESSES, TORCH) if selects_nothing(file, terms)] == out_of
    assert not selects_nothing(file, [""])


def test_what_loads_torch_is_in_its_own_stage():
    file = ROOT / "tests" / "training" / "test_packing.py"
    assert file.is_file()
    assert selects_nothing(file, UNIT)
    assert not selects_nothing(file, TORCH)
    assert not selects_nothing(file, ["gpu"])


class Config:
    """A run with these markers."""

    def __init__(self, markers: str):
        self.markers = markers
        self.at_end: list[Callable[[], None]] = []

    def getoption(self, _: str) -> str:
        return self.markers

    def add_cleanup(self, work: Callable[[], None]) -> None:
        self.at_end.append(work)


def test_folders_of_unit_tests_are_in_main_memory_and_gone_with_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("PYTEST_DEBUG_TEMPROOT", "TMPDIR"):
        monkeypatch.setenv(name, "disk")
    monkeypatch.setattr(conftest, "MEMORY", tmp_path)
    monkeypatch.setattr(conftest, "MEMORY_LEAST_BYTES", 1)
    unit = " and ".join(UNIT)
    for markers in ("processes", " and ".join(TORCH), ""):
        conftest.pytest_configure(Config(markers))
    assert os.environ["TMPDIR"] == "disk"
    run = Config(unit)
    conftest.pytest_configure(run)
    folder = Path(os.environ["TMPDIR"])
    assert os.environ["PYTEST_DEBUG_TEMPROOT"] == str(folder) and folder.parent == tmp_path and folder.is_dir()
    for work in run.at_end:
        work()
    assert not folder.exists()
    monkeypatch.setattr(conftest, "MEMORY_LEAST_BYTES", 1 << 60)
    assert not conftest.has_room(tmp_path)
