"""A library over a folder of a test's own: of models, then of adapters, which all tests of libraries see in turn."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from modules.core.job import JobSnapshot
from modules.core.settings import Settings
from modules.loaders.model_info import ModelFolder
from modules.services.hub import HubService
from modules.services.jobs import JobService
from modules.services.library import LibraryService
from modules.services.library_facts import FactStore
from modules.services.models import ModelService
from modules.services.shelf import Shelved
from modules.services.stock import AdapterStock, ModelStock
from tests.hub.hub_server import HubServer

WEIGHTS = bytes(range(256)) * 40


@dataclass
class Shelf:
    """A library over a folder of the test's own."""

    noun: str
    folder: Path
    facts_dir: Path
    state_dir: Path
    service: LibraryService
    models: ModelService
    jobs: JobService
    hub: HubService

    def put(self, name: str, data: bytes = WEIGHTS) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    def put_folder(self, folder: Path) -> None:
        """A model, or an adapter, that is a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in {"model": (("config.json", b"{}"), ("model.safetensors", WEIGHTS)), "adapter": (("adapter_config.json", b"{}"),)}[self.noun]:
            (folder / name).write_bytes(data)

    async def of(self, name: str) -> Shelved:
        return next(row for row in await self.service.shelf() if row.name == name)

    async def names(self) -> list[str]:
        return [row.name for row in await self.service.shelf()]

    async def ended(self, job: JobSnapshot) -> JobSnapshot:
        async for snapshot in self.jobs.watch("me", job.id):
            job = snapshot
        assert job.status == "done", job.error
        return job

    async def verify(self, name: str) -> Shelved:
        await self.ended(await self.service.verify("me", name))
        return await self.of(name)

    def outside(self) -> dict[str, bytes]:
        """Everything of the folder as it is, without the bin and locks."""
        files = (path for path in self.folder.rglob("*") if path.is_file())
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in files if not path.relative_to(self.folder).parts[0].startswith(".")}


@pytest.fixture
def shelf_hub() -> HubServer:
    running = HubServer().start()
    running.add("meadow/pony", {"pony-Q8_0.gguf": WEIGHTS}, info={"tags": ["gguf", "license:mit"]})
    return running


@pytest.fixture(params=["model", "adapter"])
async def shelf(request: pytest.FixtureRequest, shelf_hub: HubServer, tmp_path: Path) -> AsyncIterator[Shelf]:
    folders = {name: tmp_path / name for name in ("state_dir", "models_dir", "loras_dir")}
    for folder in folders.values():
        folder.mkdir()
    settings = Settings(**folders, hub_endpoint=shelf_hub.endpoint)
    jobs = JobService(settings.state_dir)
    models = ModelService(settings, ModelFolder(settings.models_dir, settings.loras_dir))
    hub_service = HubService(settings, jobs)
    stock = ModelStock(settings, models) if request.param == "model" else AdapterStock(settings, models)
    facts_dir = settings.state_dir / "facts"
    await jobs.start()
    library = LibraryService(stock, FactStore(facts_dir), jobs, hub_service)
    yield Shelf(stock.noun, stock.folder, facts_dir, settings.state_dir, library, models, jobs, hub_service)
    await jobs.close()
    shelf_hub.stop()


async def downloaded(shelf: Shelf) -> str:
    """Something that came from the hub, in its folder with its record."""
    wanted = {"repo": "meadow/pony", "revision": "a" * 40, "files": ["pony-Q8_0.gguf"], "kind": "gguf" if shelf.noun == "model" else "adapter"}
    done = await shelf.ended(await shelf.hub.download("me", wanted))
    assert done.result is not None
    return str(done.result["name"])
