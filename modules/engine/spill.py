"""Conversations that lost their slot: what the model's memory held of them, kept in main memory within a budget, and beyond that on disk.

What a slot still holds goes first, as it can be saved again; then who was used least recently: to the disk, if there is one (`spill_disk.py`). Knows ids and sizes; no slot's sequence and no queue.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from collections.abc import Sequence as SequenceABC

from modules.core.errors import AppError
from modules.core.model import Adapter
from modules.core.slot_states import STATE_CUTS, SlotStates
from modules.engine.spill_disk import DiskSpill, Tell, open_disk
from modules.engine.spill_states import Saved, longest_of, serves_for

log = logging.getLogger(__name__)

MIN_SPILL_TOKENS = 64  # fewer are computed again as quickly
MEASURED_SAVES = 3  # before what saving costs is believed
MOST_READY_BYTES = 64 << 20  # memory for what the next conversations push out, unless one of them has more
GUESSED_S_PER_BYTE = 0.5e-9  # of a copy, before any was timed
MOMENT_S = 0.005  # for which a request that comes meanwhile may wait


class Spill:
    """Saved states of one model, the least recently used first."""

    def __init__(self, memory: SlotStates, budget_bytes: int) -> None:
        self._memory = memory
        self.budget_bytes = budget_bytes
        self.disk: DiskSpill | None = None
        self.min_tokens = MIN_SPILL_TOKENS
        self.is_held: Callable[[Saved], bool] = lambda saved: False  # whether a slot has all of it
        self._saved: list[Saved] = []
        self._prefill_s_per_token = 0.0
        self._s_per_byte = 0.0  # of the fastest save so far: the others were held up by something
        self._copies = 0  # by which that was measured
        self._last_bytes = 0  # of the last save
        self._expected: list[int] = []  # bytes that the next saves may need: as they are expected, or as much as the last one
        self.saves = self.restores = self.restored_tokens = 0

    @property
    def size_bytes(self) -> int:
        """What the states take of main memory."""
        return sum(saved.size_bytes for saved in self._saved)

    @property
    def tokens(self) -> int:
        """Tokens of all states."""
        return sum(len(saved.ids) for saved in self._saved)

    def figures(self) -> dict[str, int]:
        """What counters say of main memory and disk."""
        own = {
            "spilled_tokens": self.tokens,
            "spilled_bytes": self.size_bytes,
            "spill_saves": self.saves,
            "spill_restores": self.restores,
            "restored_tokens": self.restored_tokens,
        }
        return own | (self.disk.figures() if self.disk is not None else {})

    def use_disk(self, folder: str, asked_gb: float, tell: Tell) -> None:
        """Let what main memory has no room for take so much of a disk; `tell` has something done on the thread that uses this."""
        self.disk = open_disk(self._memory, folder, asked_gb, tell)

    def longest(self, ids: SequenceABC[int], adapters: tuple[Adapter, ...]) -> tuple[Saved | None, int]:
        """The state in main memory that shares the longest usable prefix with `ids`, and its length."""
        return longest_of(reversed(self._saved), ids, adapters, least=self.min_tokens, in_parts=self._memory.keeps_parts)

    def save(
        self, slot: int, ids: list[int], adapters: tuple[Adapter, ...], *, lost: int, prefill_s_per_token: float, keep_on_disk: bool = True
    ) -> None:
        """Keep what a slot holds, if that is worth it: `lost` of its tokens are nowhere else and would be computed again.

        Args:
            slot: the slot.
            ids: what it holds was computed from these.
            adapters: and with these.
            lost: how many tokens would be computed again.
            prefill_s_per_token: how long that takes; 0 while it is not known.
            keep_on_disk: whether it may be written to the disk.
        """
        self._prefill_s_per_token = prefill_s_per_token
        if lost < self.min_tokens or (not self.budget_bytes and self.disk is None) or self._covers(ids, adapters):
            return
        try:
            copied = self._memory.state_bytes(slot)
            size = copied + self._memory.marks_bytes(slot)
            saved = Saved(ids, adapters, None, size, keep_on_disk, cuts=self._memory.cuts(slot)[-STATE_CUTS:])
            if not copied or not self._has_place(saved) or not self._pays(copied, lost * prefill_s_per_token):
                return
            for one in [one for one in self._saved if serves_for(saved, one.ids, one.adapters, in_parts=self._memory.keeps_parts)]:
                self._drop(one)  # the new state has all of theirs
            self._make_room(size)
            begun_s = time.perf_counter()
            saved.state = self._memory.save_state(slot)
        except (AppError, MemoryError, RuntimeError) as error:  # then it is computed again
            log.warning("The state of a slot could not be saved: %s", error)
            return
        self._last_bytes, self._expected = copied, [copied]
        taken = (time.perf_counter() - begun_s) / copied
        self._s_per_byte = min(self._s_per_byte or taken, taken)
        self._copies += 1
        self.saves += size <= self.budget_bytes
        self._keep(saved)

    def take(self, saved: Saved) -> None:
        """Take a state out, so that nothing that is saved meanwhile pushes it out."""
        if not saved.lent:
            self._saved.remove(saved)

    def restore(self, saved: Saved, slot: int, length: int) -> int:
        """Put the first `length` positions of a state that was taken out into an empty slot; how many it really holds.

        The state stays here only if there is more in it, also where a part of it cannot be kept by itself, and on the disk in any case.
        """
        kept = self._memory.restore_state(slot, saved.state, length)
        self.restored_tokens += kept
        if saved.lent:
            if self.disk is not None and kept:
                self.disk.note_restored(kept)
            return kept
        self.restores += kept > 0
        if length < len(saved.ids):
            self.put_back(saved)
        else:
            self._memory.drop_state(saved.state)
        return kept

    def has(self, ids: list[int], adapters: tuple[Adapter, ...]) -> bool:
        """Whether a state here serves as well as one of these ids would."""
        return any(serves_for(saved, ids, adapters, in_parts=self._memory.keeps_parts) for saved in self._saved)

    def expect(self, slots: Iterable[tuple[int, int]], prefill_s_per_token: float) -> list[int]:
        """These slots with so many tokens each are the next that may be saved, where that is worth it; which of them are saved in a moment.

        Where none was saved yet perhaps none ever will, and no memory is taken.
        """
        sizes: list[int] = []
        quick: list[int] = []
        for slot, length in slots if self._copies else ():
            try:
                size = self._memory.state_bytes(slot) if length >= self.min_tokens else 0
            except (AppError, MemoryError, RuntimeError):  # `save` will say so
                break
            if sizes and sum(sizes) + size > MOST_READY_BYTES:
                break
            if size and self._pays(size, length * prefill_s_per_token):
                sizes.append(size)
                is_quick = size * self._s_per_byte <= MOMENT_S and sum(sizes) + self.size_bytes <= self.budget_bytes  # and pushes nothing out
                quick += [slot] if is_quick else []
        if sizes and sum(sizes) + self._last_bytes <= MOST_READY_BYTES:
            sizes.append(self._last_bytes)  # for one more, as between two that come one upon the other nothing is made ready
        self._expected = sizes or self._expected
        return quick

    def ready_memory(self, at_rest: Callable[[], bool]) -> None:
        """Have memory ready for the next saves, as far as the budget has room for them, while nothing else is to be done."""
        room, sizes = self.budget_bytes - self.size_bytes, []
        for size in self._expected:
            if size <= room:
                sizes.append(size)
                room -= size
        try:
            more = bool(sizes)
            while more and at_rest():
                more = self._memory.ready_memory(sizes)
        except MemoryError:  # then the next save finds none either, and says so
            self._expected = []

    def put_back(self, saved: Saved) -> None:
        """Keep a state that was taken out, as the one used last."""
        if not saved.lent:
            self._make_room(saved.size_bytes)
            self._keep(saved)

    def clear(self) -> None:
        """Forget everything."""
        self._saved.clear()
        if self.disk is not None:
            self.disk.clear()

    def rest(self) -> None:
        """Where nothing can be computed because everybody waits for the disk: wait for it, but only for a moment."""
        if self.disk is not None:
            self.disk.rest()

    def close(self) -> None:
        """Leave nothing on the disk."""
        if self.disk is not None:
            self.disk.close()

    def _covers(self, ids: list[int], adapters: tuple[Adapter, ...]) -> bool:
        """Whether a state here serves as well as one of these ids would; it counts as used then."""
        for saved in self._saved:
            if serves_for(saved, ids, adapters, in_parts=self._memory.keeps_parts):
                self._saved.remove(saved)
                self._saved.append(saved)
                return True
        return False

    def _has_place(self, saved: Saved) -> bool:
        """Whether there would be a place for a state, here or else on the disk."""
        if not saved.size_bytes or saved.size_bytes <= self.budget_bytes:
            return saved.size_bytes > 0
        return self.disk is not None and self.disk.wants(saved, self._compute_s(saved))

    def _pays(self, size: int, compute_s: float) -> bool:
        """Whether saving and restoring takes less time than computing again, as far as both are known."""
        if self._copies < MEASURED_SAVES or not compute_s:
            return True
        return 2 * size * self._s_per_byte < compute_s

    def pays_to_copy(self, size: int, compute_s: float) -> bool:
        """Whether a state of that size is copied from slot to slot in less time than computing takes; yes where that is not known."""
        return not compute_s or 2 * size * (self._s_per_byte or GUESSED_S_PER_BYTE) < compute_s

    def _compute_s(self, saved: Saved) -> float:
        return len(saved.ids) * self._prefill_s_per_token

    def _keep(self, saved: Saved) -> None:
        """Here, or on the disk if it is too large."""
        self._saved.append(saved)
        if saved.size_bytes > self.budget_bytes:
            self._push_out(saved)

    def _make_room(self, size: int) -> None:
        while self._saved and size <= self.budget_bytes < self.size_bytes + size:
            held = [saved for saved in self._saved if self._memory.keeps_parts and self.is_held(saved)]
            if held:  # nothing is lost yet; those saved first are needed first
                self._drop(held[-1])
            else:
                self._push_out(self._saved[0])

    def _push_out(self, saved: Saved) -> None:
        """To the disk; if that does not want it, nowhere."""
        self._saved.remove(saved)
        if self.disk is None or not self.disk.put(saved, self._compute_s(saved)):
            self._memory.drop_state(saved.state)

    def _drop(self, saved: Saved) -> None:
        self._saved.remove(saved)
        self._memory.drop_state(saved.state)
