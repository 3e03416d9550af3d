"""The slots of a model and what stands in them: who gets which one, what is taken over from earlier work, and what makes room.

Pure bookkeeping over token ids; of a `Runner` it uses the calls that move, save and restore cached positions. Knows no queue and no steps.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as SequenceABC
from collections.abc import Set as SetABC
from dataclasses import dataclass, field
from typing import Protocol

from modules.core.errors import AppError
from modules.core.model import Adapter, ImageToken
from modules.core.slot_states import SlotStates
from modules.engine.marking import Marking
from modules.engine.pace import Pace
from modules.engine.prefixes import common_prefix, starts_with
from modules.engine.sequence import Sequence
from modules.engine.spill import Spill
from modules.engine.spill_disk import Reading
from modules.engine.spill_states import Saved

MIN_WAIT_TOKENS = 32  # for fewer nobody waits until another one has computed them
MIN_COPY_TOKENS = 8  # a shorter shared prefix is quicker computed than copied
MOST_COPIED = 8  # times what is shared: of more that has to be copied along it is looked at whether that is sooner done than computing
MOST_MOVED_BYTES = 256 << 20  # of slots that change places before one step: for a moment they are in main memory once more


class SlotMemory(SlotStates, Protocol):
    """The part of a `Runner` that moves cached positions."""

    mixes_slots: bool

    def truncate(self, slot: int, length: int) -> int:
        """Forget positions >= length; the length really kept."""
        ...

    def copy_prefix(self, source: int, target: int, length: int) -> bool:
        """Let `target` start with the first positions of `source`; False leaves `target` empty."""
        ...


@dataclass(slots=True, eq=False)
class Slot:
    """One place for a sequence in the model's memory."""

    index: int
    cached: list[int] = field(default_factory=list)  # ids in memory while idle
    sequence: Sequence | None = None
    used_at: int = 0  # tick of the last use
    adapters: tuple[Adapter, ...] = ()  # what is in memory was computed with them
    keep_on_disk: bool = True  # what is in memory, once it has to leave

    @property
    def length(self) -> int:
        """Positions in memory."""
        return len(self.cached) if self.sequence is None else self.sequence.computed

    @property
    def ids(self) -> list[int]:
        """The ids of which the first `length` are in memory."""
        return self.cached if self.sequence is None else self.sequence.ids

    def shared_prefix(self, ids: list[int]) -> int:
        """How many of `ids` stand at the beginning of this slot's memory."""
        return common_prefix(self.ids, ids, min(self.length, len(ids)))

    def holds(self, ids: list[int], adapters: tuple[Adapter, ...]) -> bool:
        """Whether all of these, computed with these adapters, are in this slot's memory."""
        if self.adapters != adapters or self.length < len(ids) or self.ids[len(ids) - 1 : len(ids)] != ids[-1:]:  # the last one first: mostly it differs
            return False
        return starts_with(self.ids, ids)


@dataclass(frozen=True, slots=True)
class Source:
    """Where the longest known beginning of a prompt is: in a slot, in a saved state, or nowhere."""

    shared: int = 0
    slot: Slot | None = None
    saved: Saved | None = None
    branches: SetABC[int] = frozenset()  # lengths that slots share with it


class SlotTable:
    """All slots of one model."""

    def __init__(self, memory: SlotMemory, *, n_slots: int, capacity_tokens: int, spill: Spill, pace: Pace) -> None:
        self.slots = [Slot(index) for index in range(n_slots)]
        self.capacity_tokens = capacity_tokens
        self.adapters: tuple[Adapter, ...] = ()  # in use on the model
        self.spill = spill
        spill.is_held = lambda saved: any(slot.holds(saved.ids, saved.adapters) for slot in self.slots)
        self.min_wait_tokens = MIN_WAIT_TOKENS
        self.mixes_slots = memory.mixes_slots
        self.keeps_places = False  # as a draft model has slots of its own, and would have to read everything again
        self.moves = 0
        self.marking, self._memory, self._pace = Marking(memory), memory, pace
        self._tick = 0
        self._lent = -1  # the slot that something else than sequences took last: who had to leave it would have to again
        self._is_new = False  # who runs where, since they stood side by side

    @property
    def used_tokens(self) -> int:
        """Tokens in the model's memory, running or idle."""
        return sum(slot.length for slot in self.slots)

    # ---- coming and going ------------------------------------------------------------------------------------------

    def source_for(self, sequence: Sequence) -> Source:
        """The longest beginning of a sequence that is known under the present adapters."""
        ids = sequence.ids[: sequence.reusable]
        best, best_key, branches = Source(), (False, 0, False, 0, 0), set[int]()
        for slot in self.slots:
            known = slot.shared_prefix(ids) if slot.adapters == self.adapters else 0
            branches.add(known)
            shared, sure = self.marking.usable(slot.index, known, slot.length)
            key = (sure, shared, slot.sequence is None, -slot.length, slot.used_at)  # of a shorter one less is lost or copied
            if shared and key > best_key:
                best, best_key = Source(shared, slot, branches=branches), key
        saved, shared = self.spill.longest(ids, self.adapters)
        if saved is None or (True, shared - MIN_COPY_TOKENS) <= best_key[:2]:
            return best
        more = shared - best_key[1] if best_key[0] else shared
        return Source(shared, saved=saved, branches=branches) if self._is_worth(more, len(saved.ids), lambda: saved.size_bytes) else best

    def look_on_disk(self, sequence: Sequence, source: Source) -> Source:
        """A better source than this one, if what is still to be written is one; or let the sequence wait for what is read for it."""
        disk = self.spill.disk
        if disk is None or sequence.deterministic:
            return source
        known = source.shared if sequence.leader is None else sequence.common
        found, shared = disk.bring(sequence.ids[: sequence.reusable], self.adapters, known, self._pace.prefill_s_per_token)
        if found is None:
            return source
        if isinstance(found, Reading):
            sequence.leader, sequence.common = found, shared
            return source
        sequence.leader = None
        return Source(shared, saved=found, branches=source.branches)

    def leader_for(self, sequence: Sequence, known: int, running: SequenceABC[Sequence]) -> None:
        """Let a sequence wait for one that is in prefill, if that will soon have computed more of its beginning than is known by now."""
        if not self.marking.may_share:
            return
        ids = sequence.ids[: sequence.reusable]
        most = known + self.min_wait_tokens - 1
        for other in running:
            if other.pending == 1 or other.leader is not None or other is sequence:
                continue  # who waits leads nobody, so there is no ring
            shared = common_prefix(other.ids, ids, min(other.computed + other.unread, len(ids)))  # what is sure to come of it
            if shared > max(most, other.computed) and (promised := self.marking.promised(other, shared)) > max(most, other.computed):
                sequence.leader, sequence.common, most = other, promised, promised

    def occupy(self, sequence: Sequence, source: Source) -> Slot:
        """Give a sequence a slot: the one where its conversation stands idle, or the free one that was used least recently.

        The memory is touched afterwards, by `begin`: if that fails, nobody is lost.
        """
        target = source.slot if source.slot is not None and _goes_on(source.slot, source.shared) else None
        if sequence.deterministic:
            target = self.slots[0]
        elif target is None:
            free = [slot for slot in self.slots if slot.sequence is None]
            target = min(free, key=lambda slot: (sequence.admitted and slot.index == self._lent, bool(slot.cached), slot.used_at))
        target.sequence, target.used_at, self._is_new = sequence, self._next_tick(), True
        sequence.slot, sequence.computed = target.index, 0
        return target

    def begin(self, sequence: Sequence, source: Source) -> None:
        """Make the memory of an occupied slot ready, with what can be taken over."""
        target = self.slots[sequence.slot]
        if sequence.deterministic:
            while self.evict_idle():
                pass
        if source.saved is not None:
            self.spill.take(source.saved)
        if source.slot is target:
            kept = self._cut(target, source.shared)
        else:
            self._clear(target)
            kept = self._bring(source, target)
        target.adapters = self.adapters
        sequence.computed = kept
        self.marking.begin(sequence, source.branches)

    def take_over(self, sequence: Sequence) -> None:
        """Let a slot whose sequence waited for others begin with what is known by now, if that is more than it has."""
        source, leader = self.source_for(sequence), sequence.leader
        sequence.leader = None
        if isinstance(leader, Reading) and leader.saved is not None and sequence.common > source.shared:
            source = Source(sequence.common, saved=leader.saved, branches=source.branches)
        if source.saved is not None:
            self.spill.take(source.saved)
        sequence.computed = self._bring(source, self.slots[sequence.slot])
        self.marking.begin(sequence, source.branches)

    def leave(self, sequence: Sequence) -> Slot:
        """Free the slot of a sequence; what it computed stays there as a cache."""
        slot = self.slots[sequence.slot]
        slot.cached = sequence.ids[: sequence.computed]
        slot.sequence, slot.used_at, slot.keep_on_disk = None, self._next_tick(), sequence.keep_on_disk
        sequence.slot, self._is_new = -1, True
        return slot

    def close_ranks(self) -> bool:
        """Bring the slots that run side by side, where only such are computed together; whether any changed places with idle ones, the fewest that it takes.

        A step of eight rows in five groups takes twice as long as in one, while the places of 1,024 tokens are changed in less time than one row takes.
        """
        if self.mixes_slots or self.keeps_places or not self._is_new:
            return False
        self._is_new = False
        running = [slot.index for slot in self.slots if slot.sequence is not None]
        if len(running) < 2 or running[-1] - running[0] < len(running):
            return False
        starts = range(len(self.slots) - len(running) + 1)
        first = max(starts, key=lambda start: sum(start <= index < start + len(running) for index in running))
        rank = range(first, first + len(running))
        outside = [self.slots[index] for index in running if index not in rank]
        gaps = [self.slots[index] for index in rank if self.slots[index].sequence is None]
        left, before = MOST_MOVED_BYTES, self.moves
        for busy, idle in zip(outside, gaps, strict=True):
            size = self._memory.state_bytes(busy.index) + self._memory.state_bytes(idle.index)
            if size <= left:
                left -= size
                self._change_places(busy, idle)
        return self.moves > before

    # ---- room ------------------------------------------------------------------------------------------------------

    def evict(self, slot: Slot) -> None:
        """Empty an idle slot; what it holds is saved where that is worth it."""
        if slot.sequence is None and slot.cached:
            self._clear(slot)

    def lend(self, slot: Slot) -> None:
        """Empty an idle slot for something else than a sequence."""
        self._lent = slot.index
        self.evict(slot)

    def make_way(self, slot: Slot) -> None:
        """Let what runs in a slot go on in an idle one, where that can be."""
        sequence = slot.sequence
        if sequence is None or sequence.deterministic or self.keeps_places or not self._can_move(slot):
            return
        running = {other.index for other in self.slots if other.sequence is not None and other is not slot}
        idle = [other for other in self.slots if other.sequence is None and self._can_move(other)]
        idle.sort(key=lambda other: (other.length > 0, running.isdisjoint((other.index - 1, other.index + 1)), other.used_at))
        if idle and self._memory.state_bytes(slot.index) + self._memory.state_bytes(idle[0].index) <= MOST_MOVED_BYTES:
            self._change_places(slot, idle[0])
            self._is_new = True

    def _can_move(self, slot: Slot) -> bool:
        """Whether what stands in a slot can be saved and restored: not where there are images."""
        return not slot.length or self._memory.state_bytes(slot.index) > 0

    def evict_idle(self, spared: Slot | None = None) -> bool:
        """Empty the idle slot that was used least recently; False when there is none but `spared`."""
        idle = [slot for slot in self.slots if slot.sequence is None and slot.cached and slot is not spared]
        if not idle:
            return False
        self.evict(min(idle, key=lambda slot: slot.used_at))
        return True

    def make_room(self, tokens: int, spared: Slot | None = None) -> bool:
        """Evict idle caches other than `spared` until that many tokens fit; False if they cannot."""
        while self.used_tokens + tokens > self.capacity_tokens:
            if not self.evict_idle(spared):
                return False
        return True

    def save_ahead(self, at_rest: Callable[[], bool]) -> None:
        """While nothing else is to be done, save what the next conversations would push out where that takes but a moment, and have memory ready for the rest."""
        if not self.spill.budget_bytes or not at_rest():
            return
        quick = self._expect(at_rest)
        self.spill.ready_memory(at_rest)
        if not quick or not self._memory.keeps_parts:  # there a longer state takes the place of none, and each turn would leave one
            return
        for index in quick:
            if not at_rest():
                return
            self._save(self.slots[index], self.slots[index].length)
        self._expect(at_rest)
        self.spill.ready_memory(at_rest)

    def _expect(self, at_rest: Callable[[], bool]) -> list[int]:
        """Tell which slots would be saved next; those of them that are saved in a moment."""
        idle = sorted((slot for slot in self.slots if slot.sequence is None), key=lambda slot: slot.used_at)
        if not idle or not all(slot.length for slot in self.slots):  # an empty one would be taken first
            return []
        unsaved = [(slot.index, slot.length) for slot in idle if at_rest() and not self.spill.has(slot.cached, slot.adapters)]
        return self.spill.expect(unsaved, self._pace.prefill_s_per_token)

    def forget_all(self) -> None:
        """Empty every slot, and save nothing; nothing may be running."""
        for slot in self.slots:
            slot.cached = []
            self._memory.truncate(slot.index, 0)

    def cut_back(self, slot: Slot, length: int) -> int:
        """Take the last positions of a slot out of the memory, as guesses that proved wrong; the length really kept."""
        return self._memory.truncate(slot.index, length)

    def widen(self, sequence: Sequence) -> None:
        """Have some of what is known read once more, where few tokens are read sooner in that way; once for each text."""
        tiles, known = self._pace.tiles, sequence.computed
        start = len(sequence.ids) - tiles.rows
        if sequence.widened == len(sequence.ids) or sequence.deterministic or sequence.paired or sequence.reports_prompt:
            return
        if not tiles.pays(sequence.pending, known):
            return
        if not any(isinstance(one, ImageToken) for one in sequence.ids[start:known]):  # what an image stands for is read as a whole
            sequence.computed, sequence.widened = self.cut_back(self.slots[sequence.slot], start), len(sequence.ids)

    # ---- the memory itself -----------------------------------------------------------------------------------------

    def _change_places(self, busy: Slot, idle: Slot) -> None:
        """What runs in one slot goes on in the other, and what rests there is kept in its place; nothing where main memory has no room for both."""
        memory = self._memory
        try:
            states = [memory.save_state(slot.index) if slot.length else None for slot in (busy, idle)]
        except (AppError, MemoryError):
            return
        for slot in (busy, idle):
            memory.truncate(slot.index, 0)
        held = [
            memory.restore_state(target.index, state, source.length) if state is not None else 0
            for state, source, target in zip(states, (busy, idle), (idle, busy), strict=True)
        ]
        for state in states:
            if state is not None:
                memory.drop_state(state)
        self.moves += 1
        sequence, idle.cached = busy.sequence, idle.cached[: held[1]]
        for name in ("cached", "sequence", "used_at", "adapters", "keep_on_disk"):
            own = getattr(busy, name)
            setattr(busy, name, getattr(idle, name))
            setattr(idle, name, own)
        if sequence is not None:
            sequence.slot, sequence.computed = idle.index, held[0]

    def _cut(self, slot: Slot, length: int) -> int:
        """Keep only the first positions of a slot's cache; the length really kept."""
        lost = len(slot.cached) - length
        if lost > 0:
            self._save(slot, lost if self.marking.is_cut(slot.index, length) else len(slot.cached))
            length = min(length, self._memory.truncate(slot.index, length))
        slot.cached = []
        return length

    def _clear(self, slot: Slot) -> None:
        if slot.cached:
            self._save(slot, len(slot.cached))
            slot.cached = []
            self._memory.truncate(slot.index, 0)

    def _save(self, slot: Slot, lost: int) -> None:
        """Save the cache of a slot, unless another slot holds all of it too."""
        ids = slot.cached
        if self._memory.keeps_parts and any(other is not slot and other.holds(ids, slot.adapters) for other in self.slots):
            return
        self.spill.save(
            slot.index, ids, slot.adapters, lost=lost, prefill_s_per_token=self._pace.prefill_s_per_token, keep_on_disk=slot.keep_on_disk
        )

    def _bring(self, source: Source, target: Slot) -> int:
        """Let a slot begin with what is known, instead of the little that it may hold; how much it holds then."""
        held = target.length
        known = source.shared if source.shared - held >= MIN_COPY_TOKENS else 0
        if source.saved is not None:
            whole = len(source.saved.ids)
            if known and self.make_room(whole - held):  # a part is cut out of the whole, there
                self._memory.truncate(target.index, 0)
                return self.spill.restore(source.saved, target.index, known)
            self.spill.put_back(source.saved)
        elif source.slot is not None and known and self._may_copy(source.slot, known) and self.make_room(known - held, source.slot):
            source.slot.used_at = self._tick
            return known if self._memory.copy_prefix(source.slot.index, target.index, known) else 0
        return held

    def _may_copy(self, slot: Slot, shared: int) -> bool:
        """Whether it pays to take over so many tokens of another slot: with caches apart all that it holds is copied for that."""
        return self.mixes_slots or self._is_worth(shared, slot.length, lambda: self._memory.state_bytes(slot.index))

    def _is_worth(self, shared: int, whole: int, size_bytes: Callable[[], int]) -> bool:
        """Whether copying a whole state of so many tokens for those that are shared takes less time than computing these."""
        return whole <= MOST_COPIED * shared or self.spill.pays_to_copy(size_bytes(), shared * self._pace.prefill_s_per_token)

    def _next_tick(self) -> int:
        self._tick += 1
        return self._tick


def _goes_on(slot: Slot, shared: int) -> bool:
    """Whether a prompt that shares so much with an idle slot is the same conversation."""
    return slot.sequence is None and 2 * shared >= len(slot.cached)
