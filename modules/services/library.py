"""The models, or the adapters, of this machine as a collection: where each came from, notes, rename, bin, verify, what is newer at the hub.

Names come from the list of the folder, so none leads elsewhere. What moves files looks whether they are in use and moves them without
letting anybody else in between: both happen on the event loop, and a rename takes no time. Knows no page and no hashes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from modules.core.errors import AppError, InvalidRequest
from modules.core.files import path_below
from modules.core.job import JobSnapshot
from modules.hub.inventory import (
    Installed,
    Provenance,
    add_to_record,
    announce_rename,
    forget_place,
    origin_of,
)
from modules.services.hub import HubService
from modules.services.jobs import JobService
from modules.services.library_bin import KEPT_S, BinEntry, LibraryBin, is_there, reach
from modules.services.library_facts import Facts, FactStore, renamed
from modules.services.library_files import LibraryFiles, is_part, names_in
from modules.services.shelf import ShelfReader, Shelved, read_only_sentence, root_of
from modules.services.stock import Item, Stock

FILES_LIMIT = 2000
DAY_S = 24 * 3600.0


@dataclass(frozen=True)
class Binned:
    """A model or adapter in the bin."""

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
    """All verbs on the things of one stock as files. One event loop calls it."""

    def __init__(self, stock: Stock, facts: FactStore, jobs: JobService, hub: HubService) -> None:
        self._folder = stock.folder
        self._stock = stock
        self._jobs = jobs
        self._hub = hub
        self._files = LibraryFiles(stock.folder)
        self._facts = facts
        self._bin = LibraryBin(stock.folder)
        self._reader = ShelfReader(stock.folder, facts)
        self._lock = asyncio.Lock()  # one change at a time

    async def start(self) -> None:
        """Finish what a killed server left half done, and empty the bin of what is old."""
        async with self._lock:
            await asyncio.to_thread(self._bin.recover)
            await asyncio.to_thread(self._bin.empty_old)

    # ---- look ------------------------------------------------------------------------------------------------------

    async def shelf(self) -> tuple[Shelved, ...]:
        """All of the folder, in the order of its list."""
        items = await self._stock.list()
        templates = {item.name: self._stock.template_of(item.name) for item in items}
        return await asyncio.to_thread(self._reader.rows, items, self._stock.used(), templates)

    async def bin(self) -> tuple[Binned, ...]:
        """What was deleted and can be restored, the newest first."""
        await asyncio.to_thread(self._bin.empty_old)
        entries = await asyncio.to_thread(self._bin.entries)
        return tuple(_binned(entry) for entry in entries)

    async def folder_of(self, name: str) -> Path:
        """The folder in which something lies, or which it is.

        Raises:
            NotFound: there is none of that name.
        """
        path = (await self._stock.find(name)).path
        return path if await asyncio.to_thread(path.is_dir) else path.parent

    # ---- change ----------------------------------------------------------------------------------------------------

    async def set_note(self, name: str, note: str) -> str:
        """Keep a note about one; empty forgets it. Returns it as kept.

        Raises:
            NotFound: there is none of that name.
            InvalidRequest: too long.
        """
        item = await self._stock.find(name)
        return await asyncio.to_thread(self._facts.set_note, item.name, note)

    async def rename(self, name: str, new_name: str) -> str:
        """Give its file or folder another name; notes, remembered options and the record move along. Returns its new name.

        Raises:
            NotFound: there is none of that name.
            InvalidRequest: not a safe name, or one that is taken.
            Conflict: it is in use.
        """
        async with self._lock:
            item = await self._own(name, "rename")
            place = self._files.renamed_place(item.path)
            if not place:
                raise InvalidRequest(f"“{name}” is in parts whose names belong together; put them into a folder of their own, then rename that.", field="name")
            source, target = reach(self._folder, place), self._target(place, new_name)
            if target == source:
                return item.name
            new_place = self._files.place_of(target)
            items = await self._stock.list()
            moving = {row.name: new_place + row.name.removeprefix(place) for row in items if names_in((place,), [row.name])}
            self._stock.check_idle(tuple(moving), "rename")
            await asyncio.to_thread(self._announce, place, new_place, moving)
            try:
                self._stock.check_idle(tuple(moving), "rename")
                _check_free(target, new_place)
                _attempt(lambda: source.rename(target), f"{place} cannot be renamed")
            except AppError:
                await asyncio.to_thread(self._forget, tuple(moving.values()), (new_place,))
                raise
            self._stock.moved(moving)
            await asyncio.to_thread(self._forget, tuple(moving), (place,))
            return moving[item.name]

    async def _own(self, name: str, verb: str) -> Item:
        """Something that lies in the folder of this library and may be changed."""
        item = await self._stock.find(name)
        if item.source:
            raise InvalidRequest(read_only_sentence(item, verb), field="name")
        return item

    def _target(self, place: str, new_name: str) -> Path:
        source = self._folder / place
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
            announce_rename(self._folder / folder, inner, new_place.partition("/")[2])

    def _forget(self, names: Sequence[str], places: Sequence[str]) -> None:
        """After a move: nothing is known under names that are free."""
        for name in names:
            self._facts.drop(name)
        for place in places:
            folder, _, inner = place.partition("/")
            if inner:
                forget_place(self._folder / folder, inner)

    async def delete(self, name: str) -> Binned:
        """Put it into the bin, where it can be restored for thirty days. Of a link only the link goes.

        Raises:
            NotFound: there is none of that name.
            Conflict: it is in use.
        """
        async with self._lock:
            item = await self._own(name, "delete")
            places = await asyncio.to_thread(self._files.places, item.path)
            items = await self._stock.list()
            names = names_in(places, [row.name for row in items]) or (item.name,)
            self._stock.check_idle(names, "delete")
            size_bytes = sum(row.size_bytes for row in items if row.name in names)
            entry = await asyncio.to_thread(self._prepare, item, places, names, size_bytes)
            try:
                self._stock.check_idle(names, "delete")
                self._bin.take(entry)
            except AppError:
                await asyncio.to_thread(self._bin.recover)
                raise
            self._stock.moved(dict.fromkeys(names, ""))
            await asyncio.to_thread(self._forget, names, places)
            await asyncio.to_thread(self._bin.empty_old)
            return _binned(entry)

    def _prepare(self, item: Item, places: Sequence[str], names: Sequence[str], size_bytes: int) -> BinEntry:
        origin = origin_of(self._folder, item.path)
        stays = origin is not None and self._files.place_of(origin.folder) not in places
        facts = [known for known in map(self._facts.read, names) if known != Facts(name=known.name)]
        try:
            return self._bin.prepare(item.name, places, size_bytes, facts, origin.provenance if origin and stays else None)
        except OSError as error:
            raise AppError(f"{item.name} cannot be deleted: {error.strerror or error}. Delete it in {self._folder}.") from error

    async def restore(self, entry_id: str) -> str:
        """Bring it back from the bin. Returns its name.

        Raises:
            NotFound: it is no longer there.
            InvalidRequest: something else has its place.
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
            folder = reach(self._folder, entry.places[0].partition("/")[0])
            if "/" in entry.places[0]:
                folder.mkdir(exist_ok=True)
                add_to_record(folder, entry.origin)

    async def discard(self, entry_id: str) -> None:
        """Delete for good what is in the bin.

        Raises:
            NotFound: it is no longer there.
        """
        async with self._lock:
            await asyncio.to_thread(self._bin.discard, entry_id)

    # ---- check -----------------------------------------------------------------------------------------------------

    async def verify(self, owner: str, name: str) -> JobSnapshot:
        """Begin to read all its files and compare them with its record, or with what they were the first time.

        Raises:
            NotFound: there is none of that name.
        """
        item = await self._stock.find(name)
        result_path = str(self._facts.verification_path(item.name))
        for job in await self._jobs.list(owner):
            if job.kind == "verify" and job.status in ("queued", "running") and job.args.get("result_path") == result_path:
                return job
        root = root_of(item, self._folder)
        known = LibraryFiles(root)
        origin = await asyncio.to_thread(self._origin, item)
        files = () if origin else tuple(known.place_of(file) for file in await asyncio.to_thread(known.files, item.path))
        if len(files) > FILES_LIMIT:
            raise InvalidRequest(f"“{name}” has {len(files)} files, {FILES_LIMIT} are read at most; take out of its folder what is not part of it.")
        args = {"name": item.name, "root": str(root), "place": known.place_of(item.path), "files": files, "result_path": result_path}
        return await self._jobs.submit(owner, "verify", args)

    def _origin(self, item: Item) -> Installed | None:
        return origin_of(self._folder, item.path) if not item.source else None

    async def check_update(self, name: str) -> UpdateCheck:
        """Ask the hub whether its repository has changed since it was downloaded.

        Raises:
            NotFound: there is none of that name.
            InvalidRequest: it was not downloaded here.
            HubError: with the cure.
        """
        item = await self._stock.find(name)
        origin = await asyncio.to_thread(self._origin, item)
        if origin is None:
            raise InvalidRequest(f"It is not known where “{name}” came from; look for it under Get models.", field=self._stock.noun)
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
