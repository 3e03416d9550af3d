"""Fixtures that every test may use: real models, optional test data, the browser. Sets the environment before imports.

Knows where the starter model and the optional data lie and which switches keep libraries quiet and single-threaded.
Knows nothing of any module of Paddock.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

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

ROOT = Path(__file__).resolve().parent.parent
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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip GPU tests where there is none, without importing torch to find out."""
    if sys.platform == "darwin" or shutil.which("nvidia-smi") or Path("/dev/kfd").exists():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no GPU on this machine"))
