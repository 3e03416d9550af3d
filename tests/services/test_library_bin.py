"""The bin of models: whoever is killed in the middle of a delete or a restore leaves a model that is either there or in the bin."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(os.name == "nt", reason="no fork there")
@pytest.mark.parametrize("verb", ["delete", "restore"])
@pytest.mark.parametrize("parts", [1, 3])
def test_killed_in_the_middle_it_is_either_there_or_in_the_bin(tmp_path: Path, parts: int, verb: str) -> None:
    command = [sys.executable, "-m", "tests.services.killed_deletes", str(tmp_path), str(parts), verb]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    seen = json.loads(done.stdout)
    assert set(seen) == {"there", "binned"}, seen
    assert len(seen) > parts
