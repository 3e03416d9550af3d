"""Fixtures that every test may use: real models, optional test data, the browser. Sets the environment before imports.

Knows where the starter model and the optional data lie and which switches keep libraries quiet, single-threaded and out of each other's way.
Knows nothing of any module of Paddock.
"""

from __future__ import annotations

import atexit
import gc
import os
import re
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.tiny_models import TinyFiles

# Before any library reads it: no telemetry, no version check, nothing asked of the outside, one thread per test
QUIET = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_RUN_HISTORY": "False",
    "GRADIO_SSR_MODE": "False",
    "GRADIO_SHARE": "False",
    "GRADIO_MCP_SERVER": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
    "HF_HUB_DISABLE_XET": "1",
    "HF_XET_TELEMETRY_ENABLED": "0",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "DO_NOT_TRACK": "1",
    "BITSANDBYTES_NOWELCOME": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",
    # Here, and nowhere in Paddock, torch and llama.cpp share a process: torch leaves AMX tiles unset that llama.cpp has set once and for all
    "MKL_ENABLE_INSTRUCTIONS": "AVX512",
    "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16",
}
for _name, _value in QUIET.items():
    os.environ.setdefault(_name, _value)
# The tests start a hundred processes; without compiled files each of them would compile Paddock again
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
gc.disable()  # until all is imported and collected: see `pytest_collection_finish`

ROOT = Path(__file__).resolve().parent.parent
# Files that load torch and its family, which takes seconds: a stage of their own (installer/checks.py)
WITH_TORCH = (
    "tests/loaders/", "tests/training/", "tests/weights/", "tests/lab/", "tests/starter/test_model.py", "tests/prompts/test_against_transformers.py",
)  # fmt: skip
MEMORY = Path("/dev/shm")  # where Linux has a folder in main memory
MEMORY_LEAST_BYTES = 2 << 30
WHOLE_FILE = re.compile(r"^pytestmark = .*pytest\.mark\.processes", re.MULTILINE)
# Workers begin with these files, the longest first: the one that came to them last would be at it long after the other has ended
LONGEST = (
    "tests/e2e/test_training.py", "tests/e2e/test_models.py", "tests/e2e/test_library.py", "tests/e2e/test_remote.py", "tests/e2e/test_perplexity.py",
    "tests/training/test_distributed.py", "tests/training/test_real_data.py", "tests/services/test_fit.py", "tests/services/test_jobs.py",
    "tests/services/test_models.py",
)  # fmt: skip
BROWSERS = (
    "chromium-headless-shell",
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
)


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def testdata() -> Path:
    """Real models, tokenizers, templates and data sets beside the checkout; tests that want them skip without."""
    folder = ROOT.parent / "shared" / "testdata"
    if not folder.is_dir():
        pytest.skip("optional test data is not here")
    return folder


@pytest.fixture(scope="session")
def starter_dir() -> Path:
    """The starter model that ships with Paddock, as safetensors with its tokenizer."""
    folder = ROOT / "models" / "starter"
    assert (folder / "config.json").is_file(), f"{folder} is part of Paddock and must be there"
    return folder


@pytest.fixture(scope="session")
def starter_gguf() -> Path:
    """The starter model as GGUF."""
    file = ROOT / "models" / "starter" / "starter-Q8_0.gguf"
    assert file.is_file(), f"{file} is part of Paddock and must be there"
    return file


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyFiles:
    """Files of tiny models, made once a session."""
    from tests.tiny_models import tiny_files

    return tiny_files(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="session")
def chromium_path() -> str:
    """Path of a Chromium or Chrome of this system; `PADDOCK_CHROMIUM` names one."""
    named = os.environ.get("PADDOCK_CHROMIUM")
    if named:
        return named
    for name in BROWSERS:
        found = shutil.which(name)
        if found:
            return found
    pytest.skip("no Chromium or Chrome on this system: install one, or set PADDOCK_CHROMIUM to its path")


def pytest_configure(config: pytest.Config) -> None:
    """Put the folders of unit tests into main memory where there is room: each write of a database waits for the disk, which took half of their time."""
    terms = config.getoption("markexpr").split(" and ")
    if hasattr(config, "workerinput") or not {"not processes", "not torch"} <= set(terms) or not has_room(MEMORY):
        return
    root = tempfile.mkdtemp(prefix="paddock-tests-", dir=MEMORY)
    os.environ["PYTEST_DEBUG_TEMPROOT"] = os.environ["TMPDIR"] = root
    config.add_cleanup(lambda: shutil.rmtree(root, ignore_errors=True))


def has_room(folder: Path) -> bool:
    """Whether it is there and large enough for all that unit tests write."""
    return folder.is_dir() and os.access(folder, os.W_OK) and shutil.disk_usage(folder).free >= MEMORY_LEAST_BYTES


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out files in which a stage selects nothing: each worker of each stage would import them all, which takes longer than most tests."""
    if collection_path.suffix != ".py" or not collection_path.name.startswith("test_"):
        return None
    return True if selects_nothing(collection_path, config.getoption("markexpr").split(" and ")) else None


def selects_nothing(path: Path, terms: list[str]) -> bool:
    """Whether no test of a file can have all these markers, `not` before a marker for its absence."""
    with_torch = path.relative_to(ROOT).as_posix().startswith(WITH_TORCH) if path.is_relative_to(ROOT) else False
    if ("torch" in terms and not with_torch) or ("not torch" in terms and with_torch):
        return True
    if not {"processes", "not processes"} & set(terms):
        return False
    text = path.read_text("utf-8")
    return "pytest.mark.processes" not in text if "processes" in terms else WHOLE_FILE.search(text) is not None


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Iterator[None]:
    """Mark tests before they are selected; order those that were."""
    mark(items)
    yield
    if hasattr(config, "workerinput"):
        longest_first(items)


def pytest_collection_finish() -> None:
    """What was imported and collected stays to the end; looking through it for garbage again and again took a quarter of the unit tests' time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    gc.enable()


@atexit.register
def leave_all_as_it_is() -> None:
    """At the end of the process, when all was told: to look through what so many tests left took each worker seconds, for which the stage waited."""
    gc.freeze()
    gc.disable()


def longest_first(items: list[pytest.Item]) -> None:
    """Order the files for several workers: those known to take long, then by the number of tests."""
    count = Counter(item.location[0] for item in items)
    places = {file: place for place, file in enumerate(LONGEST)}

    def place(item: pytest.Item) -> tuple[int, int, str]:
        file = item.location[0].replace(os.sep, "/")
        return places.get(file, len(places)), -count[item.location[0]], file

    items.sort(key=place)


def mark(items: list[pytest.Item]) -> None:
    """Mark what loads torch; skip GPU tests where there is none, without importing torch to find out."""
    for item in items:
        if item.nodeid.startswith(WITH_TORCH):
            item.add_marker(pytest.mark.torch)
    if sys.platform == "darwin" or shutil.which("nvidia-smi") or Path("/dev/kfd").exists():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no GPU on this machine"))
