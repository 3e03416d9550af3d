"""Which models there are and which are loaded: the owner of every engine.

Loading happens in a child process; this service decides what to start and what to do after a crash, `engine_starter.py` starts it. It knows
nothing of prompts or pages.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from modules.core.errors import AppError, Forbidden, NoModelLoaded, NotFound
from modules.core.generation import EngineCard
from modules.core.model import Adapter, ModelInfo
from modules.core.person import asking, refusal_of
from modules.core.settings import Settings
from modules.loaders.draft import could_draft
from modules.loaders.model_info import AdapterInfo, ModelFolder
from modules.loaders.registry import LOADERS
from modules.loaders.spec import LoaderSpec
from modules.services.audit import Note, unnoted
from modules.services.engine_starter import EngineStarter, Loading
from modules.services.loaded_models import LoadedModels
from modules.services.model_choices import LoadChoice, ModelChoices
from modules.services.model_engine import ModelEngine
from modules.services.remote_servers import FORMAT, RemoteServers

log = logging.getLogger(__name__)

STARTER_NAME = "starter/starter-Q8_0.gguf"
IDLE_GRAIN_S = 0.05  # between two looks for idle models, at least


@dataclass(frozen=True)
class ModelStatus:
    """One look at the service, for the page and the API."""

    loaded: tuple[EngineCard, ...]
    asleep: tuple[str, ...]  # unloaded because nobody used them; they come back when they are used
    sees: bool | None  # whether the model that answers takes images, also while it sleeps; None: not known
    loading: Loading | None
    error: str  # sentence of the last failed load, empty after a good one
    memory_total_bytes: int
    memory_available_bytes: int


class ModelService:
    """Lists, loads, unloads and restarts models. One event loop calls it."""

    def __init__(self, settings: Settings, folder: ModelFolder, remotes: RemoteServers | None = None, note: Note = unnoted) -> None:
        self._settings = settings
        self._folder = folder
        self._note = note
        self._remotes = remotes or RemoteServers(settings.state_dir)
        self._choices = ModelChoices(settings.state_dir / "models.yaml")
        self._loaded = LoadedModels(settings.loaded_models)
        self._starter = EngineStarter(
            settings, self._loaded, self._choices, self._remotes, find=lambda name: self.find(name), on_loading=self._set_loading, on_end=self._engine_ended
        )
        self._lock = asyncio.Lock()
        self._closing = False
        self._loading: Loading | None = None
        self._error = ""
        self._startup: asyncio.Task[None] | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[ModelEngine]] = set()
        self._watchers: list[Callable[[], None]] = []

    # ---- what there is ---------------------------------------------------------------------------------------------

    async def list(self) -> tuple[ModelInfo, ...]:
        """All models in the model folder, broken ones too (with a `problem`)."""
        return tuple(map(self._starter.marked, await asyncio.to_thread(self._folder.models)))

    async def remote(self) -> tuple[ModelInfo, ...]:
        """The models of other servers, as far as those told."""
        return await self._remotes.infos()

    async def adapters(self) -> tuple[AdapterInfo, ...]:
        """All LoRA adapters in the adapter folder."""
        return await asyncio.to_thread(self._folder.adapters)

    async def find(self, name: str) -> ModelInfo:
        """The model of that name.

        Raises:
            NotFound: no such model.
        """
        if self._remotes.owns(name):
            return await self._remotes.find(name)
        return self._starter.marked(await asyncio.to_thread(self._folder.find, name))

    def loaders(self) -> tuple[LoaderSpec, ...]:
        """All loaders there are, for their option forms."""
        return LOADERS

    def loaders_for(self, info: ModelInfo) -> tuple[LoaderSpec, ...]:
        """The loaders that can read a model, best first."""
        return () if info.format == FORMAT else tuple(spec for spec in LOADERS if spec.accepts(Path(info.path)))

    async def drafts_for(self, info: ModelInfo) -> tuple[str, ...]:
        """Names of the models that could draft for one, smallest first."""
        return could_draft(info, await self.list())

    def status(self) -> ModelStatus:
        """What is loaded and loading, and the memory of this machine."""
        memory = psutil.virtual_memory()
        return ModelStatus(
            loaded=self._loaded.cards(),
            asleep=self._loaded.asleep(),
            sees=self._loaded.sees(),
            loading=self._loading,
            error=self._error,
            memory_total_bytes=memory.total,
            memory_available_bytes=memory.available,
        )

    def loaded_names(self) -> tuple[str, ...]:
        """Names of the loaded models, most recently used first."""
        return self._loaded.names()

    def coming_back_with(self) -> Mapping[str, tuple[Adapter, ...]]:
        """The adapters that models which sleep or crashed have again when they are used, by model."""
        return self._loaded.coming_back_with()

    def loaded(self, name: str = "") -> ModelEngine | None:
        """The engine of a loaded model, empty is the one used last, for a look that does not count as use."""
        entry = self._loaded.get(name or next(iter(self.loaded_names()), ""))
        return entry.client if entry is not None else None

    def loaded_as(self, name: str) -> LoadChoice | None:
        """How a model that is loaded now was loaded; None if it is not."""
        entry = self._loaded.get(name)
        return entry.choice if entry is not None else None

    def watch(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` whenever the status changed; returns the function that ends it."""
        self._watchers.append(callback)
        return lambda: self._watchers.remove(callback)

    def _changed(self) -> None:
        for callback in tuple(self._watchers):
            callback()

    def remembered(self, name: str) -> LoadChoice:
        """The loader and options last used for a model, or the defaults."""
        return self._choices.of(name)

    def pinned(self) -> frozenset[str]:
        """Models that are neither unloaded by idleness nor make room for others."""
        return self._choices.pinned()

    async def pin(self, name: str, pinned: bool) -> None:
        """Pin a model, or take the pin off.

        Raises:
            NotFound: no such model.
        """
        self._choices.pin((await self.find(name)).name, pinned)
        self._changed()

    def template_of(self, name: str) -> str:
        """The prompt template chosen for a model, or by the settings for all; empty is its own chat template."""
        return self._choices.template_of(name) or self._settings.prompt_template

    def with_template(self, template: str) -> tuple[str, ...]:
        """The models for which a prompt template is chosen."""
        return self._choices.with_template(template)

    async def choose_template(self, name: str, template: str) -> None:
        """Choose a prompt template for a model; empty takes its own again.

        Raises:
            NotFound: no such model.
        """
        self._choices.choose_template((await self.find(name)).name, template)
        self._changed()

    def preset_of(self, name: str) -> str | None:
        """The preset last chosen with a model, empty is neutral; None if there was no choice."""
        return self._choices.preset_of(name)

    def choose_preset(self, name: str, preset: str) -> None:
        """Remember the preset chosen with a model."""
        self._choices.choose_preset(name, preset)

    # ---- load and unload -------------------------------------------------------------------------------------------

    def start(self, furnish: Callable[[str], Awaitable[None]] | None = None) -> None:
        """Begin loading the model of the settings, the last one used, or the starter model, in the background; `furnish` is given its name then."""
        self._startup = asyncio.create_task(self._load_first(furnish))
        if self._settings.idle_unload_s:
            self._keeper = asyncio.create_task(self._unload_idle(self._settings.idle_unload_s))

    async def _load_first(self, furnish: Callable[[str], Awaitable[None]] | None) -> None:
        wanted = self._settings.model
        if wanted == "none":
            return
        last = self._choices.last()
        for name in [wanted] if wanted else [last, STARTER_NAME, "starter"]:
            if not name:
                continue
            try:
                given = LoadChoice(name, self._settings.loader, self._settings.options) if wanted else self.remembered(name)
                await self.load(given.name, given.loader, given.options)
            except AppError as error:
                self._tell(error)
                continue
            if furnish is not None:
                try:
                    await furnish(name)
                except AppError as error:
                    self._tell(error)
            return

    def _tell(self, error: AppError) -> None:
        """Nobody asked for it just now, so the page shows it until a load goes well."""
        log.warning("%s", error.message)
        self._error = error.message
        self._changed()

    async def load(self, name: str, loader: str = "", options: Mapping[str, Any] | None = None) -> ModelEngine:
        """Load a model, or return it when it is loaded the same way already. A failed load leaves the loaded models usable.

        Raises:
            LoadFailed: with the reason and the cure (also its subclasses).
            NotFound: no such model.
        """
        return await self._shielded(LoadChoice(name, loader, dict(options or {})), anyhow=False)

    async def _shielded(self, choice: LoadChoice, *, anyhow: bool) -> ModelEngine:
        """Load, shielded: whoever asked may go away, but a half-started engine must not be left behind."""
        task = asyncio.create_task(self._load(choice, anyhow))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def _load(self, choice: LoadChoice, anyhow: bool) -> ModelEngine:
        """With `anyhow`, one that is loaded in another way will do."""
        name = choice.name
        async with self._lock:
            present = self._loaded.get(name)
            if present and (anyhow or present.choice == choice):
                self._loaded.use(name)
                return present.client
            if self._closing:
                raise NoModelLoaded("The server is stopping; try again when it is back.")
            self._set_loading(Loading(name, "Reading the file header", None))
            try:
                client = await self._starter.replace(self._loaded.as_it_was(choice))
                self._error = ""
                pin = self._starter.trusted_pin(name)
                self._note("model.load", name, why=f"with its own code, {pin}" if pin else "")
            except AppError as error:
                self._error = error.message
                self._note("model.load", name, "failed", error.kind)
                raise
            finally:
                self._set_loading(None)
            self._choices.remember(choice)
            self._loaded.use(name)  # being told of it begins now: it must not fall asleep between here and the first request
            return client

    def _set_loading(self, loading: Loading | None) -> None:
        self._loading = loading
        self._changed()

    def _engine_ended(self, choice: LoadChoice, reason: str) -> None:
        """An engine ended by itself: remember it, so that the next request starts it again."""
        log.warning("The engine of %s ended: %s", choice.name, reason)
        self._loaded.crash(choice, reason)
        self._error = reason
        self._changed()

    async def unload(self, name: str) -> None:
        """Give a model's memory back; one that crashed or sleeps no longer comes back by itself. Its running replies end.

        Raises:
            NotFound: that model is not loaded.
        """
        async with self._lock:
            forgotten = self._loaded.forget(name)
            entry = self._loaded.take(name)
            if entry is not None:
                await self._starter.end(entry)
            elif not forgotten:
                raise NotFound(f"“{name}” is not loaded.")
            self._error = ""  # what went wrong before is no reason for there being no model now
            self._note("model.unload", name)
            self._changed()

    async def make_room(self) -> tuple[str, ...]:
        """Every model in this machine's memory falls asleep, also one under a reply: other work needs the room. Their names; using one wakes it."""
        async with self._lock:
            names = [entry.choice.name for entry in self._loaded.all() if entry.takes_room and entry.client.alive]
            for name in names:
                entry = self._loaded.sleep(name)
                self._note("model.unload", name, why="other work needs the room")
                self._changed()
                await self._starter.end(entry)
            return tuple(names)

    async def _unload_idle(self, limit_s: float) -> None:
        """Models that nobody used for so long give their memory back. Never one under a reply."""
        while not self._closing:  # a cancellation alone can get lost in asyncio.wait_for
            await asyncio.sleep(self._loaded.next_idle_s(limit_s, self.pinned()) + IDLE_GRAIN_S)
            async with self._lock:
                while not self._closing and (idle := self._loaded.idle(limit_s, self.pinned())):  # anew each time: ending one takes a while
                    entry = self._loaded.sleep(idle[0])
                    log.info("%s is unloaded: nobody used it for %g s.", idle[0], limit_s)
                    self._note("model.unload", idle[0], why="nobody used it")
                    self._changed()
                    await self._starter.end(entry)

    def moved(self, names: Mapping[str, str]) -> None:
        """Models that are not loaded have other names now, old → new, or are gone: old → nothing."""
        self._loaded.rename(names)

    async def set_adapters(self, name: str, adapters: Sequence[Adapter]) -> ModelEngine:
        """Put exactly these LoRA adapters into use on a model, for requests that name none; it has them again after a crash or a sleep."""
        client = await self.get(name)
        await client.set_adapters(adapters)
        entry = self._loaded.get(client.name)
        if entry is not None and entry.client is client:
            entry.choice = replace(entry.choice, adapters=tuple(adapters))
        self._changed()
        return client

    # ---- use -------------------------------------------------------------------------------------------------------

    async def get(self, name: str = "") -> ModelEngine:
        """The engine of a model; empty is the most recently used one. Loads on demand, wakes, and restarts after a crash.

        Raises:
            NoModelLoaded: with what to do.
            EngineCrashed: it crashed too often lately.
        """
        for entry in self._loaded.all():
            if not entry.client.alive:  # until its end is known here as a crash
                await entry.client.ended()
        if not name:
            name = await self._current_name()
        present = self._loaded.get(name)
        client = present.client if present else await self._revive(name)
        self._loaded.use(name)
        return client

    async def _current_name(self) -> str:
        if not self.loaded_names() and (self._startup or self._lock.locked()):
            if self._startup is not None:
                await asyncio.shield(self._startup)
            async with self._lock:  # a load in progress ends first
                pass
        name = self._loaded.current()
        if name:
            return name
        raise NoModelLoaded("No model is loaded. Open the Models page and load one" + (f" ({self._error})" if self._error else "") + ".")

    async def _revive(self, name: str) -> ModelEngine:
        """Load a model that is wanted but not there: it sleeps, it crashed, or it was never loaded."""
        choice = self._loaded.to_revive(name)
        if choice is not None:
            return await self._shielded(choice, anyhow=True)
        if self._settings.multi_user or not self._settings.load_on_demand:
            raise NoModelLoaded(f"“{name}” is not loaded and loading on demand is off; load it on the Models page.")
        info, person = await self.find(name), asking()
        if person is not None and not person.may("models"):
            raise Forbidden(f"“{info.name}” is not loaded. {refusal_of(person, 'models')}")
        return await self._shielded(self.remembered(info.name), anyhow=True)

    async def close(self) -> None:
        """End all engines; called once when the server stops."""
        self._closing = True
        tasks = [task for task in (self._startup, self._keeper, *self._tasks) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)  # what was being started is ended by then
        entries = [entry for entry in (self._loaded.take(entry.choice.name) for entry in self._loaded.all()) if entry is not None]
        await asyncio.gather(*map(self._starter.end, entries), return_exceptions=True)
