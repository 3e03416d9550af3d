"""Services over real engines: a folder with three copies of the starter model and one broken file, and a look at the processes."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio

from modules.core.settings import Settings
from modules.services.app import App, build_app
from tests.services.conversation_steps import service  # noqa: F401 - a fixture
from tests.services.shelves import shelf, shelf_hub  # noqa: F401 - fixtures

ONE, TWO, THREE = "one.gguf", "two.gguf", "three.gguf"
FOLDERS = ("loras_dir", "presets_dir", "templates_dir", "characters_dir", "state_dir")
WRITING = {"context_length": 1024, "slots": 4, "threads": 1, "threads_batch": 1}  # room for a reply that lasts a second or two


@pytest.fixture(scope="session")
def model_files(tmp_path_factory: pytest.TempPathFactory, starter_gguf: Path) -> Path:
    folder = tmp_path_factory.mktemp("service-models")
    shutil.copy(starter_gguf, folder / ONE)
    for name in (TWO, THREE):
        os.link(folder / ONE, folder / name)
    (folder / "broken.gguf").write_bytes(starter_gguf.read_bytes()[:100_000])
    return folder


@pytest.fixture
async def start_app(tmp_path: Path, model_files: Path) -> AsyncIterator[Callable[..., App]]:
    """Builds services over those files; all are closed at the end, and no engine may be left."""
    apps: list[App] = []
    before = set(engine_pids())

    def start(**settings: Any) -> App:
        folders = {name: tmp_path / name for name in FOLDERS}
        apps.append(build_app(Settings(**{"models_dir": model_files, "model": "none", "template_check": False, **folders, **settings})))
        without_titles(apps[-1])
        return apps[-1]

    yield start
    for app in apps:
        await app.close()
    assert set(engine_pids()) <= before, "an engine outlived its services"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def app(tmp_path_factory: pytest.TempPathFactory, model_files: Path) -> AsyncIterator[App]:
    """Services of a whole module of tests, over one engine; its tests run in the module's event loop."""
    folders = {name: tmp_path_factory.mktemp(name) for name in FOLDERS}
    app = build_app(Settings(models_dir=model_files, model=ONE, options=WRITING, template_check=False, **folders))
    without_titles(app)
    await app.start()
    yield app
    await app.close()


def without_titles(app: App) -> None:
    """No conversation of ann gets its title from the model, so that what the engine counts is what a test asked for."""
    app.chat_preferences.change("ann", {"title_from_exchange": False})


async def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Wait for something that must come true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        await asyncio.sleep(0.005)


def engine_pids() -> Iterator[int]:
    """Engines that this process started and that run."""
    for child in psutil.Process().children():
        try:
            if "modules.services.worker" in child.cmdline() and child.status() != psutil.STATUS_ZOMBIE:
                yield child.pid
        except psutil.NoSuchProcess:
            continue
