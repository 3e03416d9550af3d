"""“Open folder”: one fixed program with one folder, only for a page on a machine with a desktop; everybody else is told the place."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from modules.api.errors import install_error_handlers
from modules.api.view_library import library_routers
from modules.services.app import App
from modules.services.file_manager import FileManager
from tests.foreign_folders import COMMIT, hub_cache
from tests.services.conftest import ONE

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the program of this test is a script")


@pytest.fixture
def desktop(tmp_path: Path) -> dict[str, str]:
    """The environment of a desktop whose file manager writes down what it was started with."""
    tools = tmp_path / "tools"
    tools.mkdir()
    program = tools / "xdg-open"
    told = tmp_path / "told.json"
    program.write_text(f"#!{sys.executable}\nimport json, os, sys\nopen({str(told)!r}, 'w').write(json.dumps([sys.argv[1:], dict(os.environ)]))\nsys.exit('missing' in sys.argv[1])\n")
    program.chmod(0o755)
    return {"PATH": str(tools), "DISPLAY": ":0", "PADDOCK_API_KEY": "secret"}


def told(tmp_path: Path) -> list[str]:
    arguments, environ = json.loads((tmp_path / "told.json").read_text())
    assert "secret" not in environ.values()
    return arguments


@pytest.mark.parametrize("name", ["models", "two words; rm -rf $HOME `x`", "-x", "ünï\n"])
async def test_the_folder_is_the_only_argument(desktop: dict[str, str], tmp_path: Path, name: str) -> None:
    assert await FileManager(desktop, "linux").show(tmp_path / name)
    assert told(tmp_path) == [str(tmp_path / name)]


@pytest.mark.parametrize("missing", ["DISPLAY", "PATH"])
async def test_without_a_desktop_nothing_is_started(desktop: dict[str, str], tmp_path: Path, missing: str) -> None:
    assert not await FileManager({**desktop, missing: ""}, "linux").show(tmp_path)
    assert not await FileManager({**desktop, "SSH_CONNECTION": "1"}, "darwin").show(tmp_path)
    assert not await FileManager(desktop, "linux").show(Path("-relative"))
    assert not (tmp_path / "told.json").exists()


async def test_a_program_that_fails_is_no_folder_shown(desktop: dict[str, str], tmp_path: Path) -> None:
    assert not await FileManager(desktop, "linux").show(tmp_path / "missing")
    (tmp_path / "tools" / "xdg-open").write_text("no program at all")
    assert not await FileManager(desktop, "linux").show(tmp_path)


@pytest.mark.parametrize(
    ("client", "headers", "is_shown"),
    [
        ("127.0.0.1", {}, True),
        ("::1", {}, True),
        ("192.168.1.7", {}, False),
        ("127.0.0.1", {"X-Forwarded-For": "203.0.113.9"}, False),
        ("127.0.0.1", {"Forwarded": "for=203.0.113.9"}, False),
        ("somewhere", {}, False),
    ],
)
async def test_only_a_page_on_this_machine_opens_it(
    start_app: Callable[..., App], desktop: dict[str, str], tmp_path: Path, client: str, headers: dict[str, str], is_shown: bool
) -> None:
    app = dataclasses.replace(start_app(), file_manager=FileManager(desktop, "linux"))
    async with client_from(app, client) as page:
        answer = (await page.post("/ui/library/folder", json={"name": ONE}, headers=headers)).json()
    assert answer == {"folder": str(app.settings.models_dir), "shown": is_shown}
    assert (told(tmp_path) == [str(app.settings.models_dir)]) if is_shown else not (tmp_path / "told.json").exists()


async def test_it_opens_for_models_of_other_programs_and_for_adapters_and_for_nothing_else(
    start_app: Callable[..., App], desktop: dict[str, str], tmp_path: Path, starter_gguf: Path
) -> None:
    snapshot = hub_cache(tmp_path / "hub", "meadow/pony", {"pony.gguf": starter_gguf})
    app = dataclasses.replace(start_app(model_folders=(tmp_path / "hub",)), file_manager=FileManager(desktop, "linux"))
    (app.settings.loras_dir / "odd").mkdir()
    (app.settings.loras_dir / "odd" / "adapter_config.json").write_text("{}")
    async with client_from(app, "127.0.0.1") as page:
        assert (await page.post("/ui/library/folder", json={"name": f"hf:meadow/pony@{COMMIT[:12]}/pony.gguf"})).json()["folder"] == str(snapshot)
        assert (await page.post("/ui/adapter-library/folder", json={"name": "odd"})).json()["shown"]
        assert told(tmp_path) == [str(app.settings.loras_dir / "odd")]
        for name in ("/etc", "..", "", str(tmp_path)):
            assert (await page.post("/ui/library/folder", json={"name": name})).status_code == 404


def client_from(app: App, address: str) -> httpx.AsyncClient:
    """A page at that address."""
    api = FastAPI()
    install_error_handlers(api)
    for router in library_routers(app):
        api.include_router(router)
    return httpx.AsyncClient(transport=httpx.ASGITransport(api, client=(address, 1)), base_url="http://test")
