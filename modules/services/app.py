"""The composition root: builds every service once and hands them out as one frozen `App`."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass

from modules.core.settings import PROJECT_ROOT, Settings
from modules.loaders.model_info import ModelFolder
from modules.prompts.library import TemplateLibrary
from modules.services.adapters import AdapterService, choices_written
from modules.services.conversations import ConversationService
from modules.services.file_manager import FileManager
from modules.services.fit import FitService
from modules.services.followers import Followers
from modules.services.generation import GenerationService
from modules.services.hub import HubService
from modules.services.jobs import JobService
from modules.services.lessons import EngineLessons
from modules.services.library import LibraryService
from modules.services.library_facts import FactStore
from modules.services.model_folders import ModelFolders
from modules.services.models import ModelService
from modules.services.notebook import NotebookService
from modules.services.presets import PresetService
from modules.services.remote import RemoteService
from modules.services.remote_servers import RemoteServers
from modules.services.replies import ReplyService
from modules.services.stock import AdapterStock, ModelStock
from modules.services.storage import Storage
from modules.services.templates import TemplateService


@dataclass(frozen=True)
class App:
    """All services. Front ends take it as their one argument."""

    settings: Settings
    models: ModelService
    remote: RemoteService
    adapters: AdapterService
    generation: GenerationService
    conversations: ConversationService
    replies: ReplyService
    notebook: NotebookService
    presets: PresetService
    templates: TemplateService
    jobs: JobService
    hub: HubService
    fit: FitService
    library: LibraryService
    adapter_library: LibraryService
    model_folders: ModelFolders
    lessons: EngineLessons
    file_manager: FileManager
    storage: Storage
    followers: Followers

    async def start(self) -> None:
        """Begin what runs in the background."""
        await self.library.start()
        await self.adapter_library.start()
        self.fit.start()
        self.lessons.start()
        self.models.start(self._use_adapters if self.settings.adapters else None)
        await self.storage.open()
        await self.jobs.start()

    async def _use_adapters(self, model: str) -> None:
        """Those of the settings, on the model loaded at start."""
        await self.adapters.apply(model, choices_written(self.settings.adapters))

    async def close(self) -> None:
        """Stop and save replies, then end the engines; the jobs stop meanwhile."""
        await asyncio.gather(self.jobs.close(), self._close_models())

    async def _close_models(self) -> None:
        await self.replies.close()
        await self.notebook.close()
        await self.models.close()
        await self.remote.close()
        await self.fit.close()
        await self.lessons.close()
        await self.storage.close()


def build_app(settings: Settings) -> App:
    """Make the services of one server."""
    for folder in (settings.models_dir, settings.loras_dir, settings.presets_dir, settings.templates_dir):
        folder.mkdir(parents=True, exist_ok=True)
    settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    if os.name != "nt" and settings.state_dir != PROJECT_ROOT:
        settings.state_dir.chmod(0o700)
    model_folders = ModelFolders(settings)
    servers = RemoteServers(settings.state_dir)
    models = ModelService(settings, ModelFolder(settings.models_dir, settings.loras_dir, model_folders.all), servers)
    storage = Storage(settings.state_dir)
    conversations = ConversationService(storage)
    presets = PresetService(settings.presets_dir)
    templates = TemplateService(TemplateLibrary(settings.templates_dir))
    facts, adapter_facts = FactStore(settings.state_dir / "library"), FactStore(settings.state_dir / "adapter-library")
    lessons = EngineLessons(models, facts, adapter_facts)
    adapters = AdapterService(models, settings.loras_dir.name, lessons.adapter_used)
    generation = GenerationService(models, templates, adapters)
    jobs = JobService(settings.state_dir, secret_of=lambda _, name: hub.secret(name))
    hub = HubService(settings, jobs)
    return App(
        settings=settings,
        models=models,
        remote=RemoteService(servers, models),
        adapters=adapters,
        generation=generation,
        conversations=conversations,
        replies=ReplyService(models=models, generation=generation, conversations=conversations, presets=presets, templates=templates),
        notebook=NotebookService(generation=generation, presets=presets, storage=storage),
        presets=presets,
        templates=templates,
        jobs=jobs,
        hub=hub,
        fit=FitService(settings, hub, models),
        library=LibraryService(ModelStock(settings, models), facts, jobs, hub),
        adapter_library=LibraryService(AdapterStock(settings, models), adapter_facts, jobs, hub),
        model_folders=model_folders,
        lessons=lessons,
        file_manager=FileManager(),
        storage=storage,
        followers=Followers(),
    )
