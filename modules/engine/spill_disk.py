"""Conversations that main memory has no room for: written to files, within a budget, and read back when a prompt begins like one.

The thread that steps the model never waits for the disk. It hands a state to the writing thread, and one that would have to wait there is not kept;
what a prompt needs is read by the reading thread, and its sequence waits as for another one that computes its beginning, while the others go on.
`tell` brings what these threads have done back to the engine's thread, which alone touches what is here. Files have no names and end with this
process (`spill_file.py`); which ids they belong to stands in memory alone. A disk that does not take a state is not asked again.
Knows ids, sizes and files; no slot, no queue.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from modules.core.errors import AppError
from modules.core.model import Adapter
from modules.core.process import name_thread
from modules.core.slot_states import SlotStates
from modules.engine.spill_file import StateFile, empty_folder
from modules.engine.spill_states import Saved, longest_of, serves_for

log = logging.getLogger(__name__)

MIN_DISK_TOKENS = 128  # fewer are computed again as quickly as they are read
MIN_SAVED_TOKENS = 64  # what reading must bring beyond what is known already
MOST_FILES = 128  # each holds a descriptor
WAITING_BYTES = 256_000_000  # of states that wait for the writing thread: main memory beyond its budget. One alone may be larger
RESERVE_BYTES = 1_000_000_000  # of the disk stay free
DEFAULT_BYTES = 8_000_000_000
DEFAULT_SHARE = 10  # one part in so many of what is free
LEAST_WAIT_S = 1.0  # for a read, before it is computed after all
REST_S = 0.005  # between two looks at commands while everything waits for the disk
NEW_SHARE = 0.5  # of the newest measurement in what is known
FORGOTTEN = 0.9  # of a pace that kept something from being read: the next disk may be quicker, or this one idle again

Tell = Callable[[Callable[[], None]], None]


@dataclass(slots=True, eq=False)
class OnDisk:
    """One state that is written, or about to be."""

    ids: list[int]
    adapters: tuple[Adapter, ...]
    size_bytes: int
    form: Any
    state: Any  # until it is written
    cuts: tuple[int, ...] = ()
    file: StateFile | None = None
    reading: Reading | None = None
    is_wanted: bool = True


@dataclass(slots=True, eq=False)
class Reading:
    """A state on its way from the disk; sequences wait for it as for a leader that is computing."""

    source: OnDisk
    until_s: float  # monotonic; whoever waits computes from then on
    is_over: bool = False
    saved: Saved | None = None  # what was read
    computed: int = 0  # as a leader's: all at once, and then it is over

    @property
    def slot(self) -> int:
        """As a leader's: negative once nothing more comes of it."""
        return -1 if self.is_over or time.monotonic() > self.until_s else 0


def disk_budget(asked_gb: float, free_bytes: int) -> int:
    """How much of a disk is used: what was asked for, or a part of what is free; never so much that it gets full."""
    wanted = int(asked_gb * 1e9) if asked_gb >= 0 else min(DEFAULT_BYTES, free_bytes // DEFAULT_SHARE)
    return max(0, min(wanted, free_bytes - RESERVE_BYTES))


def open_disk(memory: SlotStates, folder: str, asked_gb: float, tell: Tell) -> DiskSpill | None:
    """The disk behind a folder; None where it is not wanted or cannot be used."""
    if not folder or not asked_gb:
        return None
    try:
        path = empty_folder(Path(folder))
        budget_bytes = disk_budget(asked_gb, shutil.disk_usage(path).free)
    except OSError as error:
        log.warning("Conversations are not kept on disk: %s cannot be used (%s)", folder, error.strerror or error)
        return None
    return DiskSpill(memory, path, budget_bytes, tell) if budget_bytes else None


class DiskSpill:
    """States of one model on disk, the least recently used first."""

    def __init__(self, memory: SlotStates, folder: Path, budget_bytes: int, tell: Tell) -> None:
        self._memory = memory
        self._folder = folder
        self.budget_bytes = budget_bytes
        self._tell = tell
        self._kept: list[OnDisk] = []
        self._unwritten: list[OnDisk] = []
        self._readings = 0
        self._s_per_byte = 0.0  # of reading
        self._is_over = False
        self._news = threading.Event()
        self._writer = ThreadPoolExecutor(1, "disk writer", name_thread)
        self._reader = ThreadPoolExecutor(1, "disk reader", name_thread)
        self.min_tokens = MIN_DISK_TOKENS
        self.least_wait_s = LEAST_WAIT_S
        self.is_off = False
        self.saves = self.restores = self.restored_tokens = self.dropped = 0

    @property
    def size_bytes(self) -> int:
        """What the states take of the disk."""
        return sum(one.size_bytes for one in self._kept)

    def figures(self) -> dict[str, int]:
        """What counters say of the disk."""
        return {
            "disk_tokens": sum(len(one.ids) for one in self._kept),
            "disk_bytes": self.size_bytes,
            "disk_saves": self.saves,
            "disk_restores": self.restores,
            "disk_restored_tokens": self.restored_tokens,
            "disk_dropped": self.dropped,
            "disk_off": int(self.is_off),
        }

    # ---- to the disk -----------------------------------------------------------------------------------------------

    def wants(self, saved: Saved, compute_s: float) -> bool:
        """Whether a state is worth a file that is not there yet, and the writing thread has time for it; `compute_s` is what it saves."""
        if self.is_off or not saved.keep_on_disk or len(saved.ids) < self.min_tokens or saved.size_bytes > self.budget_bytes:
            return False
        for one in self._kept:
            if serves_for(one, saved.ids, saved.adapters, in_parts=self._memory.keeps_parts):
                self._touch(one)
                return False
        if not self._pays(saved.size_bytes, compute_s):
            return False
        waiting = sum(one.size_bytes for one in self._unwritten)
        if waiting and waiting + saved.size_bytes > WAITING_BYTES:
            self.dropped += 1
            return False
        return True

    def put(self, saved: Saved, compute_s: float) -> bool:
        """Have a state written; its memory is given back then. False: it is not wanted. Returns at once."""
        if not self.wants(saved, compute_s):
            return False
        for one in [one for one in self._kept if serves_for(saved, one.ids, one.adapters, in_parts=self._memory.keeps_parts)]:
            self._drop(one)
        if not self._make_room(saved.size_bytes):
            return False
        try:
            form, parts = self._memory.pack_state(saved.state)
        except (AppError, MemoryError, RuntimeError) as error:
            log.warning("The state of a slot could not be made ready for the disk: %s", error)
            return False
        one = OnDisk(saved.ids, saved.adapters, saved.size_bytes, form, saved.state, cuts=saved.cuts)
        self._kept.append(one)
        self._unwritten.append(one)
        self._writer.submit(self._write, one, parts)
        return True

    def _write(self, one: OnDisk, parts: list[Any]) -> None:
        """On the writing thread."""
        problem: OSError | None = None
        try:
            if shutil.disk_usage(self._folder).free < one.size_bytes + RESERVE_BYTES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            one.file = StateFile.write(self._folder, parts, lambda: one.is_wanted and not self._is_over)
        except OSError as error:
            problem = error
        self._tell(partial(self._written, one, problem))

    def _written(self, one: OnDisk, problem: OSError | None) -> None:
        self._unwritten.remove(one)
        state, one.state = one.state, None
        self._memory.drop_state(state)
        if one.file is not None and one.is_wanted:
            self.saves += 1
        elif one.is_wanted:
            self._drop(one)
        else:
            _close(one)
        if problem is not None and not self.is_off:
            self.is_off = True
            self.clear()
            log.warning("No more conversations are kept on disk until the model is loaded again: %s", problem.strerror or problem)

    # ---- from the disk ---------------------------------------------------------------------------------------------

    def bring(
        self, ids: Sequence[int], adapters: tuple[Adapter, ...], known: int, prefill_s_per_token: float
    ) -> tuple[Saved | Reading | None, int]:
        """What has more of these ids than so many that are known anyhow, if fetching it takes less time than computing; and how many it has.

        A state that is still to be written is there at once, any other one has to be waited for.
        """
        if not self._kept:
            return None, 0
        one, shared = longest_of(reversed(self._kept), ids, adapters, least=self.min_tokens, in_parts=self._memory.keeps_parts)
        if one is None or shared - known < min(MIN_SAVED_TOKENS, self.min_tokens):
            return None, 0
        self._touch(one)
        if one.state is not None:
            return Saved(one.ids, one.adapters, one.state, one.size_bytes, cuts=one.cuts, lent=True), shared
        compute_s = (shared - known) * prefill_s_per_token
        if one.reading is None:
            if not self._pays(one.size_bytes, compute_s):
                self._s_per_byte *= FORGOTTEN
                return None, 0
            one.reading = Reading(one, time.monotonic() + max(self.least_wait_s, compute_s))
            self._readings += 1
            self._reader.submit(self._read, one.reading)
        return one.reading, shared

    def rest(self) -> None:
        """Until something was read, but only for a moment; at once where nothing is being read."""
        if self._readings:
            self._news.wait(REST_S)
            self._news.clear()

    def note_restored(self, tokens: int) -> None:
        """So much of a state from here stands in a slot now."""
        self.restores += 1
        self.restored_tokens += tokens

    def _read(self, reading: Reading) -> None:
        """On the reading thread."""
        one, begun_s = reading.source, time.perf_counter()
        parts: list[Any] | None = None
        problem: Exception | None = None
        try:
            if one.file is not None:
                parts = one.file.read(lambda: one.is_wanted and not self._is_over)
        except (OSError, ValueError, MemoryError) as error:
            problem = error
        self._tell(partial(self._was_read, reading, parts, problem, time.perf_counter() - begun_s))
        self._news.set()

    def _was_read(self, reading: Reading, parts: list[Any] | None, problem: Exception | None, seconds: float) -> None:
        one = reading.source
        self._readings -= 1
        reading.is_over, one.reading = True, None
        if not one.is_wanted:
            _close(one)
        elif problem is not None:
            log.warning("A conversation that was kept on disk is computed again: %s", problem)
            self._drop(one)
        elif parts is not None:
            taken = seconds / one.size_bytes
            self._s_per_byte = NEW_SHARE * taken + (1 - NEW_SHARE) * self._s_per_byte if self._s_per_byte else taken
            reading.saved = Saved(one.ids, one.adapters, self._memory.unpack_state(one.form, parts), one.size_bytes, cuts=one.cuts, lent=True)

    # ---- ends ------------------------------------------------------------------------------------------------------

    def clear(self) -> None:
        """Forget everything; what is on its way is not wanted any more."""
        for one in list(self._kept):
            self._drop(one)

    def close(self) -> None:
        """End both threads and give the disk back."""
        self._is_over = True
        for executor in (self._writer, self._reader):
            executor.shutdown(cancel_futures=True)
        for one in (*self._kept, *self._unwritten):
            _close(one)
        self._kept.clear()

    def _pays(self, size: int, compute_s: float) -> bool:
        """Whether reading takes less time than computing, as far as both are known."""
        return not self._s_per_byte or not compute_s or size * self._s_per_byte < compute_s

    def _make_room(self, size: int) -> bool:
        """Give up files until there is room for so much; False while what is being read takes it."""
        while self.size_bytes + size > self.budget_bytes or len(self._kept) >= MOST_FILES:
            oldest = next((one for one in self._kept if one.reading is None), None)
            if oldest is None:
                return False
            self._drop(oldest)
        return True

    def _touch(self, one: OnDisk) -> None:
        self._kept.remove(one)
        self._kept.append(one)

    def _drop(self, one: OnDisk) -> None:
        """Not wanted any more. What a thread is at work on it closes afterwards, so that no descriptor is another file's meanwhile."""
        self._kept.remove(one)
        one.is_wanted = False
        if one.state is None and one.reading is None:
            _close(one)


def _close(one: OnDisk) -> None:
    if one.file is not None:
        one.file.close()
        one.file = None
