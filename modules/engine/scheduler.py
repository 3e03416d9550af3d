"""Who runs in which slot, and what each step of the model works on.

Pure bookkeeping: admission in turns, prefix reuse, eviction of idle caches, room for all, and the rows of the next step. Knows no tensors
and no model: of a `Runner` it uses the two calls that move cached positions.

The rules, in short. A step first decodes every running sequence, then spends what is left of the batch on prefill; while others decode,
prefill is also bounded in time so that their streams keep flowing. A finished sequence leaves its tokens cached in its slot; a new one continues
there, or copies the part it shares, also from a slot that is running. When room runs out, idle caches go first (least recently used), then the
youngest running sequence goes back to the head of the queue with its tokens kept; it is prefilled again later and continues exactly. The
oldest one is never preempted, so everything ends. A model has one set of adapters for all slots: sequences with different sets take turns in
the order of the queue, and what was cached under one set is reused under that set alone.
"""

from __future__ import annotations

from collections.abc import Sequence as SequenceABC
from dataclasses import dataclass, field
from typing import Protocol

from modules.core.model import Adapter, Row
from modules.engine.sequence import Sequence
from modules.engine.waiting import WaitingQueue

MIN_COPY_TOKENS = 8  # a shorter shared prefix is quicker computed than copied
MIN_CHUNK_TOKENS = 16  # prefill never crawls, however slow the model
FIRST_CHUNK_TOKENS = 64  # until the speed of prefill is known: on a slow machine a whole batch would look like a hang
MIN_ALONE_TOKENS = 128  # a whole-batch prefill is efficient from about here
MEASURED_FROM_TOKENS = 16  # shorter prefills say little about speed


class SlotMemory(Protocol):
    """The part of a `Runner` that moves cached positions."""

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

    @property
    def length(self) -> int:
        """Positions in memory."""
        return len(self.cached) if self.sequence is None else self.sequence.computed

    def shared_prefix(self, ids: list[int]) -> int:
        """How many of `ids` stand at the beginning of this slot's memory."""
        own = self.cached if self.sequence is None else self.sequence.ids
        return common_prefix(own, ids, min(self.length, len(ids)))


@dataclass(slots=True)
class Share:
    """One sequence's part of a step."""

    sequence: Sequence
    row: Row
    completes: bool  # the row ends with the last known token: its logits choose the next one
    drafts: tuple[int, ...] = ()  # guesses at what follows; they stand at the end of the row, and may prove wrong
    accepted: int = 0  # how many of them became text

    @property
    def decodes(self) -> bool:
        """Whether this continues a reply by one token, and nothing else."""
        return self.completes and len(self.row.token_ids) == 1 and self.sequence.produced > 0 and not self.sequence.probe


def common_prefix(first: SequenceABC[int], second: SequenceABC[int], limit: int) -> int:
    """Length of the longest common prefix, at most `limit`; compares slices, so it costs a few microseconds per thousand tokens."""
    if first[:limit] == second[:limit]:
        return limit
    low, high = 0, limit  # equal up to low, different somewhere before high
    while high - low > 1:
        middle = (low + high) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle
    return low


class Scheduler:
    """Slots, queue and step plans of one engine. One thread uses it."""

    def __init__(
        self,
        memory: SlotMemory,
        *,
        n_slots: int,
        capacity_tokens: int,
        max_batch_tokens: int,
        target_step_s: float = 0.25,
        longest_step_s: float = 1.0,
    ) -> None:
        self._memory = memory
        self.slots = [Slot(index) for index in range(min(n_slots, max_batch_tokens))]
        self.running: list[Sequence] = []  # by admission
        self.waiting = WaitingQueue()
        self.adapters: tuple[Adapter, ...] = ()  # in use on the model; the engine changes them while nothing runs
        self.capacity_tokens = capacity_tokens
        self.max_batch_tokens = max_batch_tokens
        self.prefill_s_per_token = 0.0  # measured; 0 until known
        self._target_step_s = target_step_s
        self._longest_step_s = longest_step_s
        self._tick = 0
        self._arrivals = 0

    # ---- coming and going ------------------------------------------------------------------------------------------

    def submit(self, sequence: Sequence) -> None:
        """Put a new sequence into the queue."""
        sequence.number = self._arrivals
        self._arrivals += 1
        self.waiting.put(sequence)

    def finish(self, sequence: Sequence) -> None:
        """Take a sequence out, wherever it is. Its slot is free at once and keeps its tokens as a cache."""
        if sequence.slot < 0:
            self.waiting.remove(sequence)
            return
        slot = self.slots[sequence.slot]
        slot.cached = sequence.ids[: sequence.computed]
        self._leave(sequence, slot)

    def admit(self) -> list[Sequence]:
        """Give free slots to those who wait, in turn, as long as there is room; returns who got one.

        Who is next with other adapters waits until nothing runs, and nobody overtakes meanwhile. When a turn begins, those with the same
        adapters who stand further behind come along: the others wait for one round of the slots at most.
        """
        begins = not self.running
        admitted: list[Sequence] = []
        while (sequence := self.waiting.peek()) is not None and self._may_start(sequence):
            self.waiting.pop()
            self._place(sequence)
            admitted.append(sequence)
        for sequence in [other for other in self.waiting if other.adapters == self.adapters] if begins else ():
            if not self._fits(sequence):
                break
            self.waiting.take(sequence)
            self._place(sequence)
            admitted.append(sequence)
        return admitted

    def begins_turn(self) -> Sequence | None:
        """Who is next and needs other adapters on the model, once nothing runs with the present ones."""
        sequence = None if self.running else self.waiting.peek()
        return sequence if sequence is not None and sequence.adapters != self.adapters else None

    def preempt_youngest(self) -> Sequence | None:
        """Send the youngest running sequence back to the head of the queue; None when fewer than two run."""
        if len(self.running) < 2:
            return None
        youngest = max(self.running, key=lambda sequence: sequence.number)
        self._preempt(youngest)
        return youngest

    def evict_idle(self) -> bool:
        """Forget the idle cache that was used least recently; False when there is none."""
        idle = [slot for slot in self.slots if slot.sequence is None and slot.cached]
        if not idle:
            return False
        self._evict(min(idle, key=lambda slot: slot.used_at))
        return True

    def empty_all(self) -> None:
        """Empty every slot; running sequences go back to the queue and are prefilled again."""
        for sequence in list(self.running):
            self._preempt(sequence)
        for slot in self.slots:
            self._evict(slot)

    def empty_for(self, slot_index: int, tokens: int) -> None:
        """Empty one slot and make room for that many tokens."""
        holder = self.slots[slot_index].sequence
        if holder is not None:
            self._preempt(holder)
        self._evict(self.slots[slot_index])
        while self.used_tokens + tokens > self.capacity_tokens and self.running:
            if not self.evict_idle():
                self._preempt(max(self.running, key=lambda sequence: sequence.number))

    def forget_all(self) -> None:
        """Empty every slot after a failure; nothing may be running."""
        for slot in self.slots:
            slot.cached = []
            self._memory.truncate(slot.index, 0)

    @property
    def used_tokens(self) -> int:
        """Tokens in the model's memory, running or idle."""
        return sum(slot.length for slot in self.slots)

    # ---- steps -----------------------------------------------------------------------------------------------------

    def plan(self) -> list[Share]:
        """The rows of the next step: all decodes, then as much prefill as the batch, the room and the time allow."""
        shares = self._plan_step()
        while not shares and self.preempt_youngest() is not None:
            shares = self._plan_step()
        if not shares and self.running:  # alone, and the room shrank below its length: the model itself must say no
            sequence = self.running[0]
            ids = sequence.ids[sequence.computed : sequence.computed + MIN_CHUNK_TOKENS]
            shares = [Share(sequence, Row(sequence.slot, sequence.computed, ids), len(ids) == sequence.pending)]
        return shares

    def _plan_step(self) -> list[Share]:
        decoding = self._decoding()
        while self.used_tokens + len(decoding) > self.capacity_tokens:
            if not self.evict_idle() and self.preempt_youngest() is None:
                break
            decoding = self._decoding()
        shares = [Share(s, Row(s.slot, s.computed, s.ids[-1:]), True) for s in decoding]
        if len(decoding) < len(self.running):
            self._plan_prefill(shares)
        return shares

    def _plan_prefill(self, shares: list[Share]) -> None:
        budget = self._prefill_budget(len(shares))
        planned = len(shares)
        for sequence in self.running:
            pending = sequence.pending
            if pending == 1:
                continue
            wanted = min(pending, budget)
            while self.used_tokens + planned + wanted > self.capacity_tokens and self.evict_idle():
                pass
            count = min(wanted, self.capacity_tokens - self.used_tokens - planned)
            if count <= 0:
                break
            start = sequence.computed
            shares.append(Share(sequence, Row(sequence.slot, start, sequence.ids[start : start + count]), count == pending))
            planned += count
            budget -= count

    def spare(self, shares: list[Share], wanted: int) -> int:
        """How many more tokens the step has room for, at most `wanted`; idle caches give way to them."""
        planned = sum(len(share.row.token_ids) for share in shares)
        wanted = min(wanted, self.max_batch_tokens - planned)
        while self.used_tokens + planned + wanted > self.capacity_tokens and self.evict_idle():
            pass
        return max(0, min(wanted, self.capacity_tokens - self.used_tokens - planned))

    def trim(self, share: Share) -> bool:
        """Take the drafts of a share that did not become text out of the memory; False if that lost more than them."""
        slot, kept = self.slots[share.row.slot], share.sequence.computed
        if share.accepted == len(share.drafts):
            return True
        left = self._memory.truncate(slot.index, kept)
        if slot.sequence is share.sequence:
            share.sequence.computed = min(kept, left)
        else:  # it has ended
            slot.cached = slot.cached[:left]
        return left >= kept

    def advance(self, shares: list[Share], seconds: float) -> int:
        """Take note of a step that was run; returns how many of its tokens were prefill. Drafts count when they are accepted."""
        prefill = 0
        for share in shares:
            count = len(share.row.token_ids) - len(share.drafts)
            share.sequence.computed += count
            if share.sequence.produced == 0 or count > 1:
                prefill += count
        if prefill >= MEASURED_FROM_TOKENS:
            measured = seconds / (prefill + len(shares))
            known = self.prefill_s_per_token
            self.prefill_s_per_token = 0.7 * known + 0.3 * measured if known else measured
        return prefill

    def _decoding(self) -> list[Sequence]:
        return [sequence for sequence in self.running if len(sequence.ids) - sequence.computed == 1]

    def _prefill_budget(self, decoding: int) -> int:
        """Tokens of prefill in the next step."""
        room = self.max_batch_tokens - decoding
        known = self.prefill_s_per_token
        if not known:
            return min(room, FIRST_CHUNK_TOKENS)
        if decoding:
            return min(room, max(MIN_CHUNK_TOKENS, int(self._target_step_s / known)))
        return min(room, max(MIN_ALONE_TOKENS, int(self._longest_step_s / known)))

    # ---- slots -----------------------------------------------------------------------------------------------------

    def _may_start(self, sequence: Sequence) -> bool:
        return sequence.adapters == self.adapters and self._fits(sequence)

    def _fits(self, sequence: Sequence) -> bool:
        """Whether there is a free slot, and room for its tokens beside those that are running."""
        if len(self.running) == len(self.slots):
            return False
        if not self.running:
            return True
        reserve = min(64, self.capacity_tokens // 16)
        return sum(len(other.ids) for other in self.running) + len(sequence.ids) + reserve <= self.capacity_tokens

    def _place(self, sequence: Sequence) -> None:
        """Choose a slot, reuse what can be reused, and start running there."""
        most = len(sequence.ids) - 1  # the last token is always computed: its logits are wanted
        best, shared = self._best_prefix(sequence.ids[:most])
        free = [slot for slot in self.slots if slot.sequence is None]
        target = min(free, key=lambda slot: (bool(slot.cached), slot.used_at))
        if best is not None and best.sequence is None and 2 * shared >= len(best.cached):
            target = best  # the same conversation goes on
        reusable = target is best
        if not reusable:
            self._evict(target)
        cached = len(target.cached)
        target.cached, target.sequence, target.used_at = [], sequence, self._next_tick()
        target.adapters = self.adapters
        sequence.slot, sequence.computed = target.index, 0
        self.running.append(sequence)  # before the memory is touched: if that fails, nobody is lost
        kept = 0
        if reusable:
            kept = min(shared, self._memory.truncate(target.index, shared)) if shared < cached else shared
        elif best is not None and shared >= MIN_COPY_TOKENS and self._room_for(shared, best):
            best.used_at = self._tick
            kept = shared if self._memory.copy_prefix(best.index, target.index, shared) else 0
        sequence.computed = kept
        if not sequence.admitted:
            sequence.admitted, sequence.reused = True, kept

    def _best_prefix(self, ids: list[int]) -> tuple[Slot | None, int]:
        """The slot that shares the longest prefix with `ids` under the same adapters, idle ones preferred, and its length."""
        best: Slot | None = None
        best_key = (0, False, 0)
        for slot in self.slots:
            shared = slot.shared_prefix(ids) if slot.adapters == self.adapters else 0
            key = (shared, slot.sequence is None, slot.used_at)
            if shared and key > best_key:
                best, best_key = slot, key
        return best, best_key[0]

    def _room_for(self, tokens: int, spared: Slot) -> bool:
        """Evict idle caches other than `spared` until that many tokens fit."""
        while self.used_tokens + tokens > self.capacity_tokens:
            idle = [slot for slot in self.slots if slot.sequence is None and slot.cached and slot is not spared]
            if not idle:
                return False
            self._evict(min(idle, key=lambda slot: slot.used_at))
        return True

    def _preempt(self, sequence: Sequence) -> None:
        slot = self.slots[sequence.slot]
        self._leave(sequence, slot)
        self._memory.truncate(slot.index, 0)
        sequence.computed = 0
        self.waiting.put_back(sequence)

    def _leave(self, sequence: Sequence, slot: Slot) -> None:
        self.running.remove(sequence)
        slot.sequence = None
        slot.used_at = self._next_tick()
        sequence.slot = -1

    def _evict(self, slot: Slot) -> None:
        if slot.sequence is None and slot.cached:
            self._memory.truncate(slot.index, 0)
            slot.cached = []

    def _next_tick(self) -> int:
        self._tick += 1
        return self._tick
