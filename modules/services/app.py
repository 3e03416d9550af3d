"""The composition root: builds every service once and hands them out as one frozen `App`."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field

from modules.core.server_run import ServerRun
from modules.core.settings import PROJECT_ROOT, Settings
from modules.loaders.model_info import ModelFolder
from modules.prompts.library import TemplateLibrary
from modules.services.accounts import AccountService
from modules.services.adapter_files import AdapterFileService
from modules.services.adapters import AdapterService, choices_written
from modules.services.attachments import AttachmentService
from modules.services.audit import AuditLog
from modules.services.beginnings import Beginnings
from modules.services.characters import Casting, CharacterService
from modules.services.chat_preferences import ChatPreferenceService
from modules.services.context import ContextService
from modules.services.conversation_bin import ConversationBin
from modules.services.conversation_exports import ConversationExports
from modules.services.conversation_imports import ConversationImports
from modules.services.conversation_samples import ConversationSamples
from modules.services.conversations import ConversationService
from modules.services.dataset_fetching import DatasetFetching
from modules.services.datasets import DatasetService
from modules.services.embeddings import EmbeddingService
from modules.services.file_manager import FileManager
from modules.services.fit import FitService
from modules.services.followers import Followers
from modules.services.generation import GenerationService
from modules.services.hub import HubService
from modules.services.jobs import JobService
from modules.services.lessons import EngineLessons
from modules.services.library import LibraryService
from modules.services.library_facts import FactStore
from modules.services.meters import Meters
from modules.services.model_folders import ModelFolders
from modules.services.model_hashes import ModelHashes
from modules.services.models import ModelService
from modules.services.notebook import NotebookService
from modules.services.perplexity import PerplexityService
from modules.services.preset_choices import PresetChoices
from modules.services.presets import PresetService
from modules.services.queues import Queues
from modules.services.receipts import ReceiptService
from modules.services.remote import RemoteService
from modules.services.remote_servers import RemoteServers
from modules.services.replies import ReplyService
from modules.services.reply_request import ReplyRequests
from modules.services.scores import ScoreService
from modules.services.seen import SeenService
from modules.services.stock import AdapterStock, ModelStock
from modules.services.storage import Storage
from modules.services.summaries import SummaryService
from modules.services.template_bin import TemplateBin
from modules.services.template_checks import TemplateChecks
from modules.services.template_doctor import TemplateDoctor
from modules.services.templates import TemplateService
from modules.services.titles import TitleService
from modules.services.training import TrainingService
from modules.services.turns import TurnService
from modules.services.usage import UsageService


@dataclass(frozen=True)
class App:
    """All services. Front ends take it as their one argument."""

    settings: Settings
    run: ServerRun
    accounts: AccountService
    audit: AuditLog
    models: ModelService
    hashes: ModelHashes
    remote: RemoteService
    adapters: AdapterService
    adapter_files: AdapterFileService
    generation: GenerationService
    embeddings: EmbeddingService
    scores: ScoreService
    meters: Meters
    queues: Queues
    usage: UsageService
    conversations: ConversationService
    chat_preferences: ChatPreferenceService
    beginnings: Beginnings
    attachments: AttachmentService
    context: ContextService
    summaries: SummaryService
    conversation_bin: ConversationBin
    replies: ReplyService
    seen: SeenService
    casting: Casting
    turns: TurnService
    notebook: NotebookService
    presets: PresetService
    preset_choices: PresetChoices
    templates: TemplateService
    template_doctor: TemplateDoctor
    template_checks: TemplateChecks
    jobs: JobService
    hub: HubService
    fit: FitService
    library: LibraryService
    adapter_library: LibraryService
    model_folders: ModelFolders
    lessons: EngineLessons
    conversation_imports: ConversationImports
    conversation_exports: ConversationExports
    datasets: DatasetService
    dataset_fetching: DatasetFetching
    conversation_samples: ConversationSamples
    training: TrainingService
    perplexity: PerplexityService
    storage: Storage
    followers: Followers = field(default_factory=Followers)
    file_manager: FileManager = field(default_factory=FileManager)

    async def start(self) -> None:
        """Begin what runs in the background."""
        await self.library.start()
        await self.adapter_library.start()
        await self.adapter_files.start()
        self.meters.start()
        self.fit.start()
        self.lessons.start()
        if self.settings.template_check and self.settings.ui:  # nobody else shows it
            self.template_checks.start()
        self.models.start(self._use_adapters if self.settings.adapters else None)
        await self.storage.open()
        self.conversation_bin.start()
        await self.jobs.start()

    async def _use_adapters(self, model: str) -> None:
        """Those of the settings, on the model loaded at start."""
        await self.adapters.apply(model, choices_written(self.settings.adapters))

    async def close(self) -> None:
        """Stop and save replies, then end the engines; the jobs stop meanwhile."""
        await asyncio.gather(self.jobs.close(), self._close_models())

    async def _close_models(self) -> None:
        await self.training.close()
        await self.replies.close()
        await self.notebook.close()
        await self.template_checks.close()
        await self.template_doctor.close()
        await self.models.close()
        await self.remote.close()
        await self.fit.close()
        await self.lessons.close()
        await self.conversation_bin.close()
        await self.accounts.close()
        await self.usage.close()
        await self.storage.close()


def _make_folders(settings: Settings) -> None:
    for folder in (settings.models_dir, settings.loras_dir, settings.datasets_dir, settings.presets_dir, settings.templates_dir, settings.characters_dir):
        folder.mkdir(parents=True, exist_ok=True)
    settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    if os.name != "nt" and settings.state_dir != PROJECT_ROOT:
        settings.state_dir.chmod(0o700)


def _storage(settings: Settings) -> Storage:
    """What several people write is kept in memory only."""
    return Storage(None if settings.multi_user else settings.state_dir)


def _casting(settings: Settings) -> Casting:
    return Casting(CharacterService(settings.characters_dir), CharacterService(settings.state_dir / "profiles", "profile", state_dir=settings.state_dir))


def _replies(
    settings: Settings,
    models: ModelService,
    storage: Storage,
    generation: GenerationService,
    conversations: ConversationService,
    requests: ReplyRequests,
    preferences: ChatPreferenceService,
) -> tuple[ModelHashes, ContextService, SummaryService, ReplyService]:
    """What looks at prompts and has replies written; hashes of models are made while none is."""
    hashes = ModelHashes(settings.state_dir / "model-hashes.json", lambda: bool(replies.running_ids()))
    context = ContextService(models, generation, requests)
    summaries = SummaryService(conversations, generation, context, requests)
    replies: ReplyService = ReplyService(
        generation=generation,
        conversations=conversations,
        requests=requests,
        receipts=ReceiptService(models, hashes, storage),
        titles=TitleService(conversations, requests, generation, models, preferences),
        summaries=summaries,
    )
    return hashes, context, summaries, replies


def _models(settings: Settings, audit: AuditLog) -> tuple[ModelFolders, RemoteServers, ModelService]:
    """Where models are, and those that are loaded."""
    folders, servers = ModelFolders(settings), RemoteServers(settings.state_dir)
    return folders, servers, ModelService(settings, ModelFolder(settings.models_dir, settings.loras_dir, folders.all), servers, audit.note)


def build_app(settings: Settings, run: ServerRun | None = None) -> App:
    """Make the services of one server; one without its `run` cannot start itself again."""
    _make_folders(settings)
    audit = AuditLog(settings.state_dir)
    model_folders, servers, models = _models(settings, audit)
    storage, preferences = _storage(settings), ChatPreferenceService(settings.state_dir, one_for_all=settings.multi_user)
    presets = PresetService(settings.presets_dir, audit.note)
    conversations, templates = ConversationService(storage), TemplateService(TemplateLibrary(settings.templates_dir), TemplateBin(settings.state_dir / "template-bin"))
    facts, adapter_facts, casting = FactStore(settings.state_dir / "library"), FactStore(settings.state_dir / "adapter-library"), _casting(settings)
    lessons, meters, queues, usage = EngineLessons(models, facts, adapter_facts), Meters(models), Queues(settings), UsageService(storage, settings)
    adapters, jobs = AdapterService(models, settings.loras_dir.name, lessons.adapter_used), JobService(settings.state_dir, secret_of=lambda _, name: hub.secret(name), note=audit.note)
    hub, datasets = HubService(settings, jobs), DatasetService(settings.datasets_dir)
    generation = GenerationService(models, templates, adapters, meters, queues, usage, on_disk=not settings.multi_user)
    requests, choices = ReplyRequests(conversations, presets, templates, casting), PresetChoices(settings.state_dir, models, presets)
    hashes, context, summaries, replies = _replies(settings, models, storage, generation, conversations, requests, preferences)
    return App(
        settings=settings, audit=audit, models=models, hashes=hashes, adapters=adapters, generation=generation, meters=meters, queues=queues,
        usage=usage, conversations=conversations, context=context, summaries=summaries, replies=replies, casting=casting, presets=presets,
        templates=templates, jobs=jobs, hub=hub, model_folders=model_folders, lessons=lessons, datasets=datasets, storage=storage,
        run=run or ServerRun(),
        accounts=AccountService(storage),
        remote=RemoteService(servers, models),
        adapter_files=AdapterFileService(settings, models, adapters, conversations, jobs),
        embeddings=EmbeddingService(models, adapters, usage, queues),
        scores=ScoreService(models, adapters, usage, queues),
        chat_preferences=preferences,
        beginnings=Beginnings(storage, casting, choices, templates, preferences),
        attachments=AttachmentService(settings.state_dir, storage),
        conversation_bin=ConversationBin(storage, conversations.tell),
        seen=SeenService(conversations, requests, generation),
        turns=TurnService(storage, conversations, replies, generation, requests, casting),
        notebook=NotebookService(generation=generation, presets=presets, storage=storage),
        preset_choices=choices,
        template_doctor=TemplateDoctor(models, generation, templates, conversations, casting),
        template_checks=TemplateChecks(models, templates, generation, facts),
        conversation_imports=ConversationImports(storage, settings.state_dir),
        conversation_exports=ConversationExports(storage),
        fit=FitService(settings, hub, models),
        library=LibraryService(ModelStock(settings, models), facts, jobs, hub),
        adapter_library=LibraryService(AdapterStock(settings, models), adapter_facts, jobs, hub),
        dataset_fetching=DatasetFetching(settings.datasets_dir, hub, jobs),
        conversation_samples=ConversationSamples(storage, datasets),
        training=TrainingService(settings, models, templates, datasets, jobs),
        perplexity=PerplexityService(settings, models, adapters, datasets, jobs),
    )
