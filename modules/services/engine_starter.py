"""Starts engines: which loaded models make room for one that comes, and what comes back when its load fails.

Knows how an engine is started and ended. When one is wanted is `models.py`'s business, what is loaded `loaded_models.py`'s.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from modules.core.errors import AppError, NotFound, OutOfMemory, UnsupportedFormat
from modules.core.model import Adapter, ModelInfo
from modules.core.settings import Settings
from modules.core.trusted_code import FLAG
from modules.engine.client import COMMAND, EngineClient
from modules.loaders.adapter_facts import files_version
from modules.loaders.machine import available_bytes
from modules.loaders.registry import find_loader
from modules.loaders.spec import LoaderSpec
from modules.services.code_trust import CodeTrust
from modules.services.loaded_models import Loaded, LoadedModels
from modules.services.model_choices import LoadChoice, ModelChoices, checked_options
from modules.services.model_engine import ModelEngine
from modules.services.remote_servers import RemoteServers
from modules.services.thread_records import FILE, ThreadRecords

log = logging.getLogger(__name__)

ALONGSIDE_FACTOR = 2  # room asked for, relative to the file size, before two models are held at once: less, and the new one would be mapped
ALONGSIDE_RESERVE_BYTES = 1 << 30


@dataclass(frozen=True)
class Loading:
    """A load in progress, as the page shows it."""

    name: str
    stage: str
    done: float | None  # 0 … 1, None while unknown


class EngineStarter:
    """Starts and ends the engines of `loaded`. One load at a time: the caller holds the lock."""

    def __init__(
        self,
        settings: Settings,
        loaded: LoadedModels,
        choices: ModelChoices,
        remotes: RemoteServers,
        *,
        find: Callable[[str], Awaitable[ModelInfo]],
        on_loading: Callable[[Loading], None],
        on_end: Callable[[LoadChoice, str], None],
    ) -> None:
        self._settings = settings
        self._loaded = loaded
        self._choices = choices
        self._remotes = remotes
        self._trust = CodeTrust(settings)
        self._threads = ThreadRecords(settings.state_dir / FILE)
        self._find = find
        self._on_loading = on_loading
        self._on_end = on_end

    def trusted_pin(self, name: str) -> str:
        """The commit whose code the command line trusts for a model; empty for all others."""
        return self._trust.pin_of(name)

    def marked(self, info: ModelInfo) -> ModelInfo:
        """What is known of a model, and whether its code is trusted."""
        pin = self.trusted_pin(info.name)
        return info.model_copy(update={"trusted_code": pin}) if pin else info

    async def replace(self, choice: LoadChoice) -> ModelEngine:
        """Start the engine, letting older ones make room; what was unloaded for a load that fails is loaded again.

        Raises:
            LoadFailed: with the reason and the cure (also its subclasses).
            NotFound: no such model or loader.
        """
        if self._remotes.owns(choice.name):
            return await self._connect(choice)
        info = await self._find(choice.name)
        if info.problem:
            raise UnsupportedFormat(info.problem)
        spec = find_loader(Path(info.path), choice.loader)
        checked_options(spec, choice.options)
        draft = await self._draft(choice, spec)
        size_bytes = info.size_bytes + (draft.size_bytes if draft else 0)
        pinned = self._choices.pinned()
        leaving = self._loaded.leaving(choice.name, pinned)
        same = self._loaded.get(choice.name)  # beside itself it would get fewer slots, or a shorter context, than it has
        room_bytes = max(size_bytes * ALONGSIDE_FACTOR, same.client.card.memory_bytes if same is not None else 0)
        alongside = available_bytes() > room_bytes + ALONGSIDE_RESERVE_BYTES
        removed = [] if alongside else await self._make_room(leaving)
        try:
            try:
                client = await self._start(choice, spec, info)
            except OutOfMemory:  # of a graphics card, say, which was not counted above
                if removed or not leaving:
                    raise
                removed = await self._make_room(leaving)
                client = await self._start(choice, spec, info)
        except AppError:
            for old in removed:
                await self._restore(old)
            raise
        older = self._taken(leaving)
        self._loaded.put(client, choice)
        self._loaded.forget_surplus(self._choices.pinned())  # pins may have changed meanwhile
        for entry in older:
            await self.end(entry)
        return client

    async def _connect(self, choice: LoadChoice) -> ModelEngine:
        """A model of another server: nobody makes room for it, as it takes none."""
        self._on_loading(Loading(choice.name, "Asking the server", None))
        client = await self._remotes.open(choice.name)
        older = self._taken([choice.name])
        self._loaded.put(client, choice)
        for entry in older:
            await self.end(entry)
        return client

    def _taken(self, names: Sequence[str]) -> list[Loaded]:
        return [entry for entry in map(self._loaded.take, names) if entry is not None]

    async def _make_room(self, leaving: Sequence[str]) -> list[LoadChoice]:
        """Unload models; how to load them again."""
        entries = self._taken(leaving)
        for entry in entries:
            await self.end(entry)
        return [entry.choice for entry in entries]

    async def _restore(self, choice: LoadChoice) -> None:
        """Load again what had to make room for a load that failed: never a model of another server."""
        try:
            info = await self._find(choice.name)
            client = await self._start(choice, find_loader(Path(info.path), choice.loader), info)
        except AppError as error:
            log.warning("%s could not be loaded again: %s", choice.name, error.message)
            return
        self._loaded.put(client, choice)

    async def _draft(self, choice: LoadChoice, spec: LoaderSpec) -> ModelInfo | None:
        """The draft model that the options name, if they do.

        Raises:
            NotFound: no model of that name in the model folder.
            UnsupportedFormat: it is broken, or another loader's.
        """
        name = str(choice.options.get("draft_model") or "")
        if not name:
            return None
        cure = "choose a smaller one of the same family, or leave draft_model empty."
        try:
            draft = await self._find(name)
        except NotFound as error:
            raise NotFound(f"There is no model “{name[:100]}” to draft with; {cure}", field="draft_model") from error
        if draft.problem:
            raise UnsupportedFormat(f"The draft model: {draft.problem}", field="draft_model")
        if not spec.accepts(Path(draft.path)):
            raise UnsupportedFormat(f"“{name}” cannot draft here: the loader {spec.title} does not read it; {cure}", field="draft_model")
        return draft

    async def _start(self, choice: LoadChoice, spec: LoaderSpec, info: ModelInfo) -> EngineClient:
        def progress(stage: str, done: float | None) -> None:
            self._on_loading(Loading(choice.name, stage, done))

        draft = await self._draft(choice, spec)
        trusted = await asyncio.to_thread(self._trust.permission, info) if spec.load_trusted else None
        measured = await asyncio.to_thread(self._threads.known) if spec.load_measured else None
        try:
            client = await EngineClient.start(
                info.path,
                spec.name,
                {**choice.options, **({"draft_model": draft.path} if draft else {})},
                command=COMMAND if trusted is None else (*COMMAND, FLAG, trusted.model_dump_json()),
                name=choice.name,
                log_path=self._settings.state_dir / "logs" / "engine.log",
                on_progress=progress,
                load_timeout_s=self._settings.load_timeout_s,
                step_timeout_s=self._settings.step_timeout_s,
                queue_limit=self._settings.queue_limit,
                spill_folder=str(self._settings.state_dir / "spill"),
                measured=measured,
            )
        except UnsupportedFormat as error:
            named = error.details.get("own_code")
            if trusted is not None or draft is not None or not named:  # with a draft model it may be that one's code
                raise
            cure = await asyncio.to_thread(self._trust.cure, info, tuple(named))
            raise UnsupportedFormat(error.message + cure) from error
        try:
            if client.measured:
                await asyncio.to_thread(self._threads.remember, client.measured)
            if choice.adapters:
                await client.set_adapters(await asyncio.to_thread(_as_now, choice.adapters))
        except BaseException:
            await client.close()
            raise
        client.on_exit = lambda reason: self._on_end(choice, reason)
        return client

    async def end(self, entry: Loaded) -> None:
        """End an engine that was taken out."""
        entry.client.on_exit = None
        await entry.client.close()


def _as_now(adapters: Sequence[Adapter]) -> tuple[Adapter, ...]:
    """In the version that their files have now: they may have been trained again while the model slept."""
    return tuple(adapter.model_copy(update={"version": _version(Path(adapter.path))}) for adapter in adapters)


def _version(path: Path) -> str:
    try:
        return files_version(path)
    except OSError:  # they are gone, which the loader says
        return ""
