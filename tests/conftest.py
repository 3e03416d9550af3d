"""Fixtures that every test may use: real models, optional test data, the browser. Sets the environment before imports.

Knows where the starter model and the optional data lie and which switches keep libraries quiet and single-threaded.
Knows nothing of any module of Paddock.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
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
}
for _name, _value in QUIET.items():
    os.environ.setdefault(_name, _value)
# The tests start a hundred processes; without compiled files each of them would compile Paddock again
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

ROOT = Path(__file__).resolve().parent.parent
WITH_TORCH = ("tests/loaders/", "tests/starter/test_model.py", "tests/prompts/test_against_transformers.py")
BROWSERS = (
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


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object | None:
    """A file's tests run in one worker; all that want torch in the same one, so that it is loaded and tiny models are made once."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "torch" if file.startswith(WITH_TORCH) else file

    return ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip GPU tests where there is none, without importing torch to find out."""
    if sys.platform == "darwin" or shutil.which("nvidia-smi") or Path("/dev/kfd").exists():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no GPU on this machine"))
