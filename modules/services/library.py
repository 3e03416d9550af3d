"""The models of this machine as a collection: where each came from, notes, rename, bin, verify, what is newer at the hub.

Names come from the list of the models folder, so none leads elsewhere. What moves files looks whether the model is loaded and moves it without
letting anybody else in between: both happen on the event loop, and a rename takes no time. Knows no page and no hashes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from modules.core.errors import AppError, Conflict, InvalidRequest
from modules.core.files import path_below
from modules.core.job import JobSnapshot
from modules.core.model import ModelInfo
from modules.core.settings import Settings
from modules.hub.inventory import (
    Installed,
    Provenance,
    add_to_record,
    announce_rename,
    forget_place,
    origin_of,
)
from modules.hub.verify import Verification
from modules.services.hub import HubService
from modules.services.jobs import JobService
from modules.services.model_bin import KEPT_S, BinEntry, ModelBin, is_there, reach
from modules.services.model_choices import ModelChoices
from modules.services.model_facts import FactStore, ModelFacts, renamed
from modules.services.model_files import ModelFiles, is_part, names_in
from modules.services.models import ModelService

FOLDER_NAME = "library"  # below the state folder
FILES_LIMIT = 2000
DAY_S = 24 * 3600.0


@dataclass(frozen=True)
class Shelved:
    """What is known of a model beside its header."""

    name: str
    repo: str = ""
    commit: str = ""
    licence: str = ""
    fetched: str = ""  # ISO 8601
    note: str = ""
    used_s: float = 0.0  # when it was last loaded, seconds since 1970; 0 if never
    verified: str = ""  # ISO 8601; empty if never
    verified_state: str = ""  # good, damaged, changed (since it was verified), or kept: there was nothing to compare with yet
    has_hashes_since: str = ""  # no record: its files are compared with what they were then
    damaged: tuple[str, ...] = ()
    rename_part: str = ""  # the part of its name that a rename changes; empty if it cannot be renamed
    deletes: tuple[str, ...] = ()  # other models that lie in it and would go along


@dataclass(frozen=True)
class Binned:
    """A model in the bin."""

    id: str
    name: str
    size_bytes: int
    deleted_s: float
    days_left: int


@dataclass(frozen=True)
class UpdateCheck:
    """What is newer at the hub, and what to fetch to have it."""

    repo: str
    commit: str  # empty: nothing is newer
    kind: str = ""
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    files: tuple[str, ...] = ()  # of the newer version, those that this one has too


class LibraryService:
    """All verbs on models as files. One event loop calls it."""

    def __init__(self, settings: Settings, models: ModelService, jobs: JobService, hub: HubService) -> None:
        self._models_dir = settings.models_dir
        self._models = models
        self._jobs = jobs
        self._hub = hub
        self._files = ModelFiles(settings.models_dir)
        self._facts = FactStore(settings.state_dir / FOLDER_NAME)
        self._choices = ModelChoices(settings.state_dir / "models.yaml")
        self._bin = ModelBin(settings.models_dir)
        self._lock = asyncio.Lock()  # one change at a time

    async def start(self) -> None:
        """Finish what a killed server left half done, and empty the bin of what is old."""
        async with self._lock:
            await asyncio.to_thread(self._bin.recover)
            await asyncio.to_thread(self._bin.empty_old)

    # ---- look ------------------------------------------------------------------------------------------------------

    async def shelf(self) -> tuple[Shelved, ...]:
        """All models of the folder, in the order of its list."""
        infos = await self._models.list()
        return await asyncio.to_thread(self._shelf, infos, self._choices.used())

    def _shelf(self, infos: Sequence[ModelInfo], used: Mapping[str, float]) -> tuple[Shelved, ...]:
        names = [info.name for info in infos]
        return tuple(self._shelved(info, names, used.get(info.name, 0.0)) for info in infos)

    def _shelved(self, info: ModelInfo, names: Sequence[str], used_s: float) -> Shelved:
        try:
            places = self._files.places(info)
        except OSError:  # removed meanwhile
            return Shelved(info.name)
        origin = origin_of(self._models_dir, Path(info.path))
        facts = self._facts.read(info.name)
        found = facts.verification
        from_hub = origin.provenance if origin else None
        renames = self._files.renamed_place(info)
        return Shelved(
            name=info.name,
            repo=from_hub.repo if from_hub else "",
            commit=from_hub.commit if from_hub else "",
            licence=(from_hub.licence if from_hub else "") or info.licence,
            fetched=from_hub.fetched if from_hub else "",
            note=facts.note,
            used_s=used_s,
            verified=found.date if found else "",
            verified_state=self._state_of(found) if found else "",
            has_hashes_since=found.since if found else "",
            damaged=found.damaged if found else (),
            rename_part=renames.rpartition("/")[2],
            deletes=tuple(name for name in names_in(places, names) if name != info.name),
        )

    def _state_of(self, found: Verification) -> str:
        """Whether what was found still says something about the files as they are."""
        for file in found.files:
            try:
                state = (self._models_dir / file.path).stat()
                is_same = (state.st_size, state.st_mtime_ns) == (file.size, file.mtime_ns)
            except OSError:
                is_same = not file.found
            if not is_same:
                return "changed"
        return "damaged" if found.damaged else "good" if found.compared else "kept"

    async def bin(self) -> tuple[Binned, ...]:
        """Deleted models that can be restored, the newest first."""
        await asyncio.to_thread(self._bin.empty_old)
        entries = await asyncio.to_thread(self._bin.entries)
        return tuple(_binned(entry) for entry in entries)

    def _check_idle(self, names: Sequence[str], verb: str) -> None:
        """Refuse to touch what an engine reads."""
        status = self._models.status()
        loaded = next((card.name for card in status.loaded if card.name in names), "")
        if loaded:
            raise Conflict(f"“{loaded}” is loaded; unload it, then {verb} it.")
        if status.loading is not None:
            raise Conflict(f"“{status.loading.name}” is being loaded just now; wait until that is done, then {verb} again.")

    # ---- change ----------------------------------------------------------------------------------------------------

    async def set_note(self, name: str, note: str) -> str:
        """Keep a note about a model; empty forgets it. Returns it as kept.

        Raises:
            NotFound: no such model.
            InvalidRequest: too long.
        """
        info = await self._models.find(name)
        return await asyncio.to_thread(self._facts.set_note, info.name, note)

    async def rename(self, name: str, new_name: str) -> str:
        """Give a model's file or folder another name; notes, remembered options and the record move along. Returns the model's new name.

        Raises:
            NotFound: no such model.
            InvalidRequest: not a safe name, or one that is taken.
            Conflict: it is loaded.
        """
        async with self._lock:
            info = await self._models.find(name)
            place = self._files.renamed_place(info)
            if not place:
                raise InvalidRequest(f"“{name}” is in parts whose names belong together; put them into a folder of their own, then rename that.", field="name")
            source, target = reach(self._models_dir, place), self._target(place, new_name)
            if target == source:
                return info.name
            new_place = self._files.place_of(target)
            infos = await self._models.list()
            moving = {row.name: new_place + row.name.removeprefix(place) for row in infos if names_in((place,), [row.name])}
            self._check_idle(tuple(moving), "rename")
            await asyncio.to_thread(self._announce, place, new_place, moving)
            try:
                self._check_idle(tuple(moving), "rename")
                _check_free(target, new_place)
                _attempt(lambda: source.rename(target), f"{place} cannot be renamed")
            except AppError:
                await asyncio.to_thread(self._forget, tuple(moving.values()), (new_place,))
                raise
            self._choices.move(moving)
            self._models.moved(moving)
            await asyncio.to_thread(self._forget, tuple(moving), (place,))
            return moving[info.name]

    def _target(self, place: str, new_name: str) -> Path:
        source = self._models_dir / place
        wanted = new_name.strip()
        if source.is_file() and not wanted.lower().endswith(".gguf"):
            wanted += ".gguf"
        if is_part(wanted):
            raise InvalidRequest(f"“{wanted[:60]}” is how a part of a larger model is named; choose another name.", field="name")
        if wanted == source.name:
            return source
        target = path_below(source.parent, wanted)
        _check_free(target, self._files.place_of(target))
        return target

    def _announce(self, place: str, new_place: str, moving: Mapping[str, str]) -> None:
        """Before a rename: what is known under the old names is known under the new ones too."""
        for old, new in moving.items():
            self._facts.put(renamed(self._facts.read(old), new, place, new_place))
        folder, _, inner = place.partition("/")
        if inner:
            announce_rename(self._models_dir / folder, inner, new_place.partition("/")[2])

    def _forget(self, names: Sequence[str], places: Sequence[str]) -> None:
        """After a move: nothing is known under names that are free."""
        for name in names:
            self._facts.drop(name)
        for place in places:
            folder, _, inner = place.partition("/")
            if inner:
                forget_place(self._models_dir / folder, inner)

    async def delete(self, name: str) -> Binned:
        """Put a model into the bin, where it can be restored for thirty days. Of a link only the link goes.

        Raises:
            NotFound: no such model.
            Conflict: it is loaded.
        """
        async with self._lock:
            info = await self._models.find(name)
            places = await asyncio.to_thread(self._files.places, info)
            infos = await self._models.list()
            names = names_in(places, [row.name for row in infos]) or (info.name,)
            self._check_idle(names, "delete")
            size_bytes = sum(row.size_bytes for row in infos if row.name in names)
            entry = await asyncio.to_thread(self._prepare, info, places, names, size_bytes)
            try:
                self._check_idle(names, "delete")
                self._bin.take(entry)
            except AppError:
                await asyncio.to_thread(self._bin.recover)
                raise
            self._choices.forget_last(names)
            self._models.moved(dict.fromkeys(names, ""))
            await asyncio.to_thread(self._forget, names, places)
            await asyncio.to_thread(self._bin.empty_old)
            return _binned(entry)

    def _prepare(self, info: ModelInfo, places: Sequence[str], names: Sequence[str], size_bytes: int) -> BinEntry:
        origin = origin_of(self._models_dir, Path(info.path))
        stays = origin is not None and self._files.place_of(origin.folder) not in places
        facts = [known for known in map(self._facts.read, names) if known != ModelFacts(name=known.name)]
        try:
            return self._bin.prepare(info.name, places, size_bytes, facts, origin.provenance if origin and stays else None)
        except OSError as error:
            raise AppError(f"{info.name} cannot be deleted: {error.strerror or error}. Delete it in {self._models_dir}.") from error

    async def restore(self, entry_id: str) -> str:
        """Bring a model back from the bin. Returns its name.

        Raises:
            NotFound: it is no longer there.
            InvalidRequest: another model has its place.
        """
        async with self._lock:
            entry = await asyncio.to_thread(self._bin.find, entry_id)
            self._bin.check_free(entry)
            await asyncio.to_thread(_attempt, lambda: self._recall(entry), f"{entry.name} cannot be restored")
            _attempt(lambda: self._bin.give_back(entry), f"{entry.name} cannot be restored")
            return entry.name

    def _recall(self, entry: BinEntry) -> None:
        """What is known of it, before it is there again."""
        for facts in entry.facts:
            self._facts.put(facts)
        if entry.origin is not None:
            folder = reach(self._models_dir, entry.places[0].partition("/")[0])
            if "/" in entry.places[0]:
                folder.mkdir(exist_ok=True)
                add_to_record(folder, entry.origin)

    async def discard(self, entry_id: str) -> None:
        """Delete a model in the bin for good.

        Raises:
            NotFound: it is no longer there.
        """
        async with self._lock:
            await asyncio.to_thread(self._bin.discard, entry_id)

    # ---- check -----------------------------------------------------------------------------------------------------

    async def verify(self, owner: str, name: str) -> JobSnapshot:
        """Begin to read all files of a model and compare them with its record, or with what they were the first time.

        Raises:
            NotFound: no such model.
        """
        info = await self._models.find(name)
        for job in await self._jobs.list(owner):
            if job.kind == "verify" and job.status in ("queued", "running") and job.args.get("name") == info.name:
                return job
        origin = await asyncio.to_thread(self._origin, info)
        files = () if origin else tuple(self._files.place_of(file) for file in await asyncio.to_thread(self._files.files, info))
        if len(files) > FILES_LIMIT:
            raise InvalidRequest(f"“{name}” has {len(files)} files, {FILES_LIMIT} are read at most; take out of its folder what is not part of it.")
        args = {"name": info.name, "files": files, "models_dir": str(self._models_dir), "result_path": str(self._facts.verification_path(info.name))}
        return await self._jobs.submit(owner, "verify", args)

    def _origin(self, info: ModelInfo) -> Installed | None:
        return origin_of(self._models_dir, Path(info.path))

    async def check_update(self, name: str) -> UpdateCheck:
        """Ask the hub whether the repository of a model has changed since it was downloaded.

        Raises:
            NotFound: no such model.
            InvalidRequest: it was not downloaded here.
            HubError: with the cure.
        """
        info = await self._models.find(name)
        origin = await asyncio.to_thread(self._origin, info)
        if origin is None:
            raise InvalidRequest(f"It is not known where “{name}” came from; look for it under Get models.", field="model")
        known: Provenance = origin.provenance
        update = await self._hub.newer(known)
        if update is None:
            return UpdateCheck(known.repo, "")
        files = tuple(file.path for file in known.files if file.path not in update.removed)
        return UpdateCheck(known.repo, update.commit, known.kind, update.changed, update.removed, files)


def _binned(entry: BinEntry) -> Binned:
    left_s = entry.deleted_s + KEPT_S - time.time()
    return Binned(entry.id, entry.name, entry.size_bytes, entry.deleted_s, max(0, -int(-left_s // DAY_S)))


def _check_free(target: Path, place: str) -> None:
    if is_there(target):
        raise InvalidRequest(f"There is “{place}” already; choose another name, or rename that one first.", field="name")


def _attempt(work: Callable[[], object], failed: str) -> None:
    try:
        work()
    except OSError as error:
        raise AppError(f"{failed}: {error.strerror or error}. Close what uses it, and check the folder's permissions.") from error
