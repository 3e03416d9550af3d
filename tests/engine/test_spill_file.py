"""A state in a file without a name: whole or refused, for its owner alone, and gone with its process however that ends."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from modules.engine import spill_file
from modules.engine.spill_file import NAMED_S, StateFile, empty_folder

PARTS = [np.arange(1000, dtype=np.int32).view(np.uint8), np.zeros(0, np.uint8), np.full(77, 9, np.uint8)]
PROGRAM = "import sys\nfrom pathlib import Path\nimport numpy as np\nfrom modules.engine.spill_file import StateFile, empty_folder\nfolder = empty_folder(Path(sys.argv[1]))\n"


def wanted() -> bool:
    return True


def write(folder: Path) -> StateFile:
    file = StateFile.write(folder, PARTS, wanted)
    assert file is not None
    return file


def test_what_was_written_is_read_as_often_as_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spill_file, "PIECE_BYTES", 100)
    file = write(tmp_path)
    for _ in range(2):
        parts = file.read(wanted)
        assert parts is not None
        assert [part.tobytes() for part in parts] == [part.tobytes() for part in PARTS]
    file.close()
    file.close()


@pytest.mark.skipif(os.name == "nt", reason="modes of POSIX")
def test_it_is_the_owners_alone_and_has_no_name(tmp_path: Path) -> None:
    folder = empty_folder(tmp_path / "a" / "spill")
    file = write(folder)
    assert list(folder.iterdir()) == []
    assert os.fstat(file.file.fileno()).st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    file.close()


def _flip(number: int) -> None:
    byte = os.pread(number, 1, 500)
    os.pwrite(number, bytes([byte[0] ^ 1]), 500)


@pytest.mark.parametrize(
    "damage",
    [
        lambda number: os.ftruncate(number, 10),
        lambda number: os.ftruncate(number, 0),
        lambda number: os.ftruncate(number, 100_000),
        _flip,
        lambda number: (os.ftruncate(number, 0), os.pwrite(number, bytes(4077), 0)),
    ],
)
def test_what_is_not_byte_for_byte_as_it_was_is_refused(tmp_path: Path, damage) -> None:
    file = write(tmp_path)
    damage(file.file.fileno())
    with pytest.raises(OSError, match="file"):
        file.read(wanted)
    file.close()


def test_what_is_not_wanted_any_more_ends_between_two_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spill_file, "PIECE_BYTES", 100)
    answers = iter([True, True, False])
    assert StateFile.write(tmp_path, PARTS, lambda: next(answers)) is None
    file = write(tmp_path)
    answers = iter([True, False])
    assert file.read(lambda: next(answers)) is None
    file.close()


def test_a_disk_that_is_full_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    """The limit on the length of a file is the nearest thing to a full disk that a test may have."""
    program = (
        PROGRAM + "import os, resource, signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nresource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "before = len(os.listdir('/proc/self/fd'))\n"
        "try:\n    StateFile.write(folder, [np.zeros(300_000, np.uint8)], lambda: True)\n"
        "except OSError as error:\n    print(error.errno, len(os.listdir('/proc/self/fd')) - before, list(folder.iterdir()))\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout == "27 0 []\n"


def test_a_killed_process_leaves_no_file(tmp_path: Path) -> None:
    program = PROGRAM + (
        "files = [StateFile.write(folder, [np.full(50_000, 7, np.uint8)], lambda: True) for _ in range(3)]\nprint('written', flush=True)\n"
        "import time\ntime.sleep(100)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "written\n"
    child.kill()
    child.wait()
    child.stdout.close()
    assert list(tmp_path.iterdir()) == []


def test_names_that_killed_processes_left_are_removed(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for path in (old, new):
        path.write_bytes(b"x")
    long_ago = time.time() - 2 * NAMED_S
    os.utime(old, (long_ago, long_ago))
    assert empty_folder(tmp_path) == tmp_path
    assert [path.name for path in tmp_path.iterdir()] == ["new"]  # it may be losing its name just now
