"""Which files a stage leaves out without looking at their tests."""

from __future__ import annotations

from pathlib import Path

import pytest

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
