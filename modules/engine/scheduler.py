"""Who runs in which slot, and what each step of the model works on.

Pure bookkeeping: admission in turns, room for all, and the rows of the next step. Knows no tensors and no model; what stands in the model's memory is the
table's (`slots.py`), and how much prefill rides along in a step the pace's (`pace.py`).

The rules, in short. A step first decodes every running sequence, then spends what is left of the batch on prefill; with caches apart such steps take turns
instead. Where nothing is left to prefill and taking turns writes more in a second (`crew.py`), those decode that waited longest. While others decode,
prefill is also bounded in time so that their streams keep flowing, unless all of them have only just begun and there are only short prompts to read. A much shorter prompt
need not wait until a long one is read (`reading_order.py`). A finished sequence leaves its tokens cached in its slot; a new one continues there, or copies
what it shares, also from a running one; if that one is still computing the part, the new one waits for it in its slot. When room runs out, idle caches go
first (least recently used), then the youngest running sequence goes back to the head of the queue with its tokens kept and later goes on exactly. The oldest one is never preempted, so everything ends. What leaves the model's
memory is saved in main memory or on disk, within budgets, and put back instead of being computed again; who needs what is on disk waits until it is read.
A deterministic sequence waits until nothing runs, and then runs alone in an empty memory, in steps that depend on nothing else. A model has one set of
adapters for all slots: sequences with different sets take turns in the order of the queue, and what was cached under one set is reused under that set
alone. A guided sequence has two sides (`guidance.py`): both get a slot at once and lose it at once, and both decode in the same steps.
"""

from __future__ import annotations

import math

from modules.core.model import Adapter
from modules.engine.crew import Crew
from modules.engine.pace import MIN_CHUNK_TOKENS, MOST_HELD_S, Pace
from modules.engine.reading_order import ReadingOrder
from modules.engine.sequence import Sequence, leads
from modules.engine.shares import Share, decode_share, prefill_share, steady_share
from modules.engine.slots import Slot, SlotMemory, SlotTable, Source
from modules.engine.spill import Spill
from modules.engine.waiting import WaitingQueue

BEGUN_TOKENS = 4  # who has no more yet came with the others who begin: all are served sooner when their prompts are read together
LEAST_PIECE_TOKENS = 64  # of a prompt beside another one's: with caches apart, a few rows more take as long as a step of their own


class Scheduler:
    """Slots, queue and step plans of one engine. One thread uses it."""

    def __init__(
        self, memory: SlotMemory, *, n_slots: int, capacity_tokens: int, max_batch_tokens: int, max_outputs: int, spill_bytes: int = 0,
        tile_rows: int = 0,
    ) -> None:  # fmt: skip
        self.pace = Pace(tile_rows)
        self.crew = Crew()
        self._order = ReadingOrder()
        self.spill = Spill(memory, spill_bytes)
        self.table = SlotTable(
            memory, n_slots=min(n_slots, max_batch_tokens), capacity_tokens=capacity_tokens, spill=self.spill, pace=self.pace
        )
        self.slots = self.table.slots
        self.running: list[Sequence] = []  # by admission; negative sides are not among them
        self.waiting = WaitingQueue()
        self.max_batch_tokens = max_batch_tokens
        self.max_outputs = max_outputs  # most rows of logits of a step
        self._arrivals = self._steps = 0
        self._held_s = 0.0  # for which prefill alone took the steps, since the last one in which nobody had a prompt to read
        self._has_read = False  # whether the last step was prefill beside replies that waited
        self._all_decode = False  # whether in the last step that decoded nobody had a prompt to read
        self._alike: Sequence | None = None  # the only one that runs, while its steps are as the one before
        self._alike_until = 0  # tokens in the memory for it, with which there is no more room

    @property
    def adapters(self) -> tuple[Adapter, ...]:
        """In use on the model; the engine changes them while nothing runs."""
        return self.table.adapters

    @adapters.setter
    def adapters(self, adapters: tuple[Adapter, ...]) -> None:
        self.table.adapters = adapters

    @property
    def capacity_tokens(self) -> int:
        """Room for all slots together; the engine lowers it when less proves to be there."""
        return self.table.capacity_tokens

    @capacity_tokens.setter
    def capacity_tokens(self, tokens: int) -> None:
        self.table.capacity_tokens, self._alike = tokens, None

    @property
    def used_tokens(self) -> int:
        """Tokens in the model's memory, running or idle."""
        return self.table.used_tokens

    def figures(self) -> dict[str, int]:
        """What counters say of slots, queue and memory."""
        return {
            "slots": len(self.slots),
            "running": len(self.running),
            "waiting": len(self.waiting),
            "preemptions": self.waiting.returns,
            "cached_tokens": self.used_tokens,
            "capacity_tokens": self.capacity_tokens,
            "moves": self.table.moves,
            **self.spill.figures(),
        }

    # ---- coming and going ------------------------------------------------------------------------------------------

    def submit(self, sequence: Sequence) -> None:
        """Put a new sequence into the queue."""
        sequence.number, self._alike = self._arrivals, None
        self._arrivals += 1
        if sequence.negative is not None:
            sequence.negative.keep_on_disk = sequence.keep_on_disk
        self.waiting.put(sequence)

    def finish(self, sequence: Sequence) -> None:
        """Take a sequence out, wherever it is. Its slot is free at once and keeps its tokens as a cache."""
        if sequence.slot < 0:
            self.waiting.remove(sequence)
        else:
            self._leave(sequence)

    def admit(self) -> list[Sequence]:
        """Give free slots to those who wait, in turn, as long as there is room; returns whose computation can begin.

        Who is next with other adapters waits until nothing runs, and nobody overtakes meanwhile. When a turn begins, those with the same
        adapters who stand further behind come along: the others wait for one round of the slots at most.
        """
        for half in [one for one in self.running if any(side.slot < 0 for side in one.sides)]:  # the first side failed to begin
            self._preempt(half)
        if not self.waiting and all(side.leader is None for side in self._sides):
            return []
        begins = not self.running
        ready = self._end_waits()
        placed: list[Sequence] = []
        while (sequence := self.waiting.peek()) is not None and self._may_start(sequence):
            self.waiting.pop()
            self._place(sequence)
            placed.append(sequence)
        for sequence in [other for other in self.waiting if other.adapters == self.adapters and not other.deterministic] if begins else ():
            if not self._may_start(sequence):
                break
            self.waiting.take(sequence)
            self._place(sequence)
            placed.append(sequence)
        return ready + [sequence for sequence in placed if sequence.leader is None]

    def begins_turn(self) -> Sequence | None:
        """Who is next and needs other adapters on the model, once nothing runs with the present ones."""
        if self.running or not self.waiting:
            return None
        sequence = self.waiting.peek()
        return sequence if sequence is not None and sequence.adapters != self.adapters else None

    def preempt_youngest(self) -> Sequence | None:
        """Send the youngest running sequence back to the head of the queue; None when fewer than two run."""
        if len(self.running) < 2:
            return None
        youngest = max(self.running, key=lambda sequence: sequence.number)
        self._preempt(youngest)
        return youngest

    def evict_idle(self) -> bool:
        """Empty the idle slot that was used least recently; False when there is none."""
        return self.table.evict_idle()

    def empty_all(self) -> None:
        """Empty every slot and forget what was saved, as the model may become another one; running sequences go back to the queue."""
        for sequence in list(self.running):
            self._send_back(sequence)
        self.forget_all()
        self.spill.clear()

    def empty_for(self, slot_index: int, tokens: int) -> None:
        """Empty one slot and make room for that many tokens."""
        self.table.make_way(self.slots[slot_index])
        for holder in [one for one in self.running if self.slots[slot_index].sequence in one.sides]:
            self._preempt(holder)
        self.table.lend(self.slots[slot_index])
        while not self.table.make_room(tokens) and self.running:
            self._preempt(max(self.running, key=lambda sequence: sequence.number))

    def forget_all(self) -> None:
        """Empty every slot, after a failure too; nothing may be running."""
        self.table.forget_all()

    # ---- steps -----------------------------------------------------------------------------------------------------

    def again(self) -> list[Share]:
        """The next step, where it is the last one again, as one reply is written and nobody came, went or waits; else nothing: `admit` and `plan`.

        What those two look through is felt beside a step of a small model (docs/lab-notes.md).
        """
        sequence = self._alike
        if sequence is None or sequence.pending != 1 or sequence.computed >= self._alike_until:
            return []
        self._steps += 1
        sequence.decoded_at = self._steps
        return [decode_share(sequence)]

    def look_again(self) -> None:
        """Something was done between two steps, so the next one is planned."""
        self._alike = None

    def plan(self) -> list[Share]:
        """The rows of the next step: all decodes, then as much prefill as the batch, the room and the time allow."""
        shares = self._plan_step()
        while not shares and self._active() is not None and self.preempt_youngest() is not None:
            shares = self._plan_step()
        sequence = self._active()
        if not shares and sequence is not None:  # alone, and the room shrank below its length: the model itself must say no
            shares = [prefill_share(sequence, min(sequence.unread, MIN_CHUNK_TOKENS, self.max_outputs))]
        if len(shares) == len(self.running) == 1 and not self.waiting and shares[0].decodes:
            self._alike = shares[0].sequence
            self._alike_until = self._alike.computed + self.capacity_tokens - self.used_tokens
        return shares

    def _plan_step(self) -> list[Share]:
        if self._alone is not None:
            return [steady_share(self._alone, min(self.max_batch_tokens, self.max_outputs))]
        decoding = self.decoding()
        while self.used_tokens + len(decoding) > self.capacity_tokens:
            if not self.evict_idle() and self.preempt_youngest() is None:
                break
            decoding = self.decoding()
        if self.table.close_ranks():
            decoding = self.decoding()
        is_all = len(decoding) == len(self._sides)
        takes_turns = is_all and not any(side.paired for side in decoding)  # a side alone would write nothing
        if takes_turns and (size := self.crew.size(len(decoding))) < len(decoding):
            decoding = sorted(decoding, key=lambda sequence: (sequence.decoded_at, sequence.slot))[:size]
        shares: list[Share] = []
        flows = bool(decoding) and not self._may_hold(decoding)
        if not is_all and decoding and self._reads_only(flows):
            self._plan_prefill(shares, flows)
            if shares:
                self._held_s, self._has_read = self._held_s + self.expected_s(shares), True
                return shares
        self._steps, self._held_s, self._has_read, self._all_decode = self._steps + 1, 0.0 if is_all else self._held_s, False, is_all
        for sequence in decoding:
            sequence.decoded_at = self._steps
        shares = [decode_share(sequence) for sequence in decoding]
        if not is_all and (self.table.mixes_slots or not decoding):
            self._plan_prefill(shares, flows)
        return shares

    def _reads_only(self, flows: bool) -> bool:
        """Whether the next step is prefill alone: with caches apart, llama.cpp computes what decodes and the first row of each prompt before the rest of them.

        So such steps and those that decode take turns; who may be held waits until the others' prompts are read.
        """
        return not self.table.mixes_slots and not (self._has_read and flows)

    def _may_hold(self, decoding: list[Sequence]) -> bool:
        """Whether all who write have only just begun, and the others' prompts are one batch each at most and soon read."""
        if any(side.produced > BEGUN_TOKENS for side in decoding):
            return False
        unread = [side.pending for side in self._reading]
        return max(unread, default=0) <= self.max_batch_tokens and self._held_s + sum(unread) * self.pace.prefill_s_per_token <= MOST_HELD_S

    def _plan_prefill(self, shares: list[Share], flows: bool) -> None:
        sides, reading = self._sides, self._order.of(self._reading)
        budget = self.pace.prefill_tokens(self.max_batch_tokens - len(shares), flows, reading[0].computed if reading else 0)
        decodes, planned, reported, least = len(shares), len(shares), 0, 0 if self.table.mixes_slots else LEAST_PIECE_TOKENS
        for sequence in reading:
            if budget >= self.pace.tiles.rows:
                self.table.widen(sequence)
            wanted = self.table.marking.before_mark(sequence, self.pace.tiles.cut(sequence.unread, budget))
            if sequence.reports_prompt:  # every token of the chunk has an output, and everybody else may want one
                wanted = min(wanted, max(1, self.max_outputs - len(sides) + 1 - reported))
                reported += wanted
            self.table.make_room(planned + wanted)
            count = min(wanted, self.capacity_tokens - self.used_tokens - planned)
            if count <= 0 or (planned > decodes and count < min(sequence.unread, least)):
                break
            shares.append(prefill_share(sequence, count))
            planned += count
            budget -= count
        self._order.note([share.sequence for share in shares[decodes:]])

    def spare(self, shares: list[Share], wanted: int) -> int:
        """How many more tokens the step has room for, at most `wanted`; idle caches give way to them."""
        planned = sum(len(share.row.token_ids) for share in shares)
        wanted = min(wanted, self.max_batch_tokens - planned, self.max_outputs - sum(share.row.outputs for share in shares))
        self.table.make_room(planned + wanted)
        return max(0, min(wanted, self.capacity_tokens - self.used_tokens - planned))

    def trim(self, share: Share) -> bool:
        """Take the drafts of a share that did not become text out of the memory; False if that lost more than them."""
        slot, kept = self.slots[share.row.slot], share.sequence.computed
        if share.accepted == len(share.drafts):
            return True
        left = self.table.cut_back(slot, kept)
        if slot.sequence is share.sequence:
            share.sequence.computed = min(kept, left)
        else:  # it has ended
            slot.cached = slot.cached[:left]
        return left >= kept

    def advance(self, shares: list[Share], seconds: float) -> int:
        """Take note of a step that was run; returns how many of its tokens were prefill. Drafts count when they are accepted."""
        prefill, depths, is_plain = 0, [], True
        for share in shares:
            sequence, drafts = share.sequence, len(share.drafts)
            count = len(share.row.token_ids) - drafts
            sequence.computed += count
            self.table.marking.note(sequence)
            if count > 1 or sequence.produced == 0:
                prefill += count
            if drafts:
                is_plain = False
            elif count > 1:
                depths.append(share.row.start)
        self.pace.note(prefill, seconds, depths[0] if len(depths) == 1 else None, beside=len(shares) > len(depths))
        if is_plain and not prefill and self._all_decode:
            self.crew.note(len(shares), seconds)
        return prefill

    def expected_s(self, shares: list[Share]) -> float:
        """How long the prefill of a step will take, as far as is known; endless before anything is."""
        prefill = sum(len(share.row.token_ids) for share in shares if len(share.row.token_ids) > 1)
        return prefill * (self.pace.prefill_s_per_token or math.inf) if prefill else 0.0

    @property
    def _sides(self) -> list[Sequence]:
        return [side for sequence in self.running for side in sequence.sides]

    @property
    def _reading(self) -> list[Sequence]:
        return [side for side in self._sides if side.pending > 1 and side.leader is None]

    def decoding(self) -> list[Sequence]:
        """The sides that have one token to read."""
        return [side for sequence in self.running if all(one.pending == 1 for one in sequence.sides) for side in sequence.sides]

    # ---- slots -----------------------------------------------------------------------------------------------------

    def _may_start(self, sequence: Sequence) -> bool:
        if self._alone is not None or (sequence.deterministic and self.running):
            return False
        return sequence.adapters == self.adapters and self._fits(sequence)

    @property
    def _alone(self) -> Sequence | None:
        """The one that runs by itself, if it is its turn."""
        return self.running[0] if self.running and self.running[0].deterministic else None

    def _fits(self, sequence: Sequence) -> bool:
        """Whether there are free slots for its sides, and room for its tokens beside those that are running."""
        sides = [*self._sides, *sequence.sides]
        if len(sides) > len(self.slots):
            return False
        if not self.running:
            return True
        reserve = min(64, self.capacity_tokens // 16)
        return sum(len(side.ids) for side in sides) + reserve <= self.capacity_tokens

    def _place(self, sequence: Sequence) -> None:
        """Choose a slot for each side, take over what can be, and start running there."""
        for side in sequence.sides:
            source = Source() if side.deterministic else self.table.source_for(side)
            self.table.leader_for(side, source.shared, self._sides)
            source = self.table.look_on_disk(side, source)
            if side.leader is not None:
                source = Source()
            self.table.occupy(side, source)
            if side is sequence:
                self.running.append(sequence)  # before the memory is touched: if that fails, nobody is lost
            self.table.begin(side, source)
            if side.leader is None:
                self._note_reuse(side)

    def _end_waits(self) -> list[Sequence]:
        """Let those begin whose leader has what they share, or is gone; returns them."""
        ready = []
        for side in [one for one in self._sides if one.leader is not None and not leads(one.leader, one.common)]:
            self.table.take_over(side)
            self.table.leader_for(side, side.computed, self._sides)  # the next one on the same way
            if side.leader is None:
                self._note_reuse(side)
                ready.append(side)
        return [side for side in ready if not side.is_negative]

    def _active(self) -> Sequence | None:
        """The first side that has something to read and does not wait for another one's prefill."""
        return next((side for side in self._sides if side.leader is None and side.unread), None)

    def _note_reuse(self, sequence: Sequence) -> None:
        if not sequence.admitted:
            sequence.admitted, sequence.reused = True, sequence.computed

    def _preempt(self, sequence: Sequence) -> None:
        """Back to the queue; what was computed is saved if it can be."""
        for slot in self._send_back(sequence):
            self.table.evict(slot)

    def _send_back(self, sequence: Sequence) -> list[Slot]:
        slots = self._leave(sequence)
        for side in sequence.sides:
            side.computed, side.leader = 0, None
        self.waiting.put_back(sequence)
        return slots

    def _leave(self, sequence: Sequence) -> list[Slot]:
        self._alike = None
        self.running.remove(sequence)
        return [self.table.leave(side) for side in sequence.sides if side.slot >= 0]
