"""Where drafts come from: a smaller model that reads along, in slots of its own.

Knows sequences and a runner; nothing of whether drafts prove right. What the draft model has not seen yet is computed only when a draft is wanted,
and what it saw that did not become text is cut off again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from modules.core.model import Row
from modules.engine.logits import as_row
from modules.engine.payoff import StepTimes
from modules.engine.prefixes import common_prefix
from modules.engine.sequence import Sequence as Running

if TYPE_CHECKING:
    from modules.core.model import Runner

CATCH_UP_TOKENS = 256  # of one step: nobody's stream waits long for a draft model that has much to read
STEADY_TOKENS = 2  # what is new after a round: one token, or two when all drafts were right


class Drafter(Protocol):
    """Guesses how sequences go on."""

    times: StepTimes  # seconds for one more token, by sequences
    is_free: bool  # guesses take no time: they are made before it is decided how many are used

    def propose(self, wanted: Sequence[tuple[Running, int]]) -> list[list[int]]:
        """At most so many next tokens of each sequence; none where there is no guess (yet). Says in its record whether it is sure of them."""
        ...

    def close(self) -> None:
        """Give memory back."""
        ...


@dataclass(slots=True, eq=False)
class _Line:
    """One sequence's part of a round."""

    slot: int
    count: int
    end_ids: frozenset[int]
    feed: list[int]  # what the draft model reads next
    ready: bool = True  # nothing is missing after that
    drafts: list[int] = field(default_factory=list)


class ModelDrafter:
    """Drafts with the likeliest tokens of a smaller model over the same vocabulary."""

    is_free = False

    def __init__(self, runner: Runner, vocab_size: int) -> None:
        self._runner = runner
        self._vocab_size = vocab_size  # of the model; that of the draft model may be padded otherwise
        self._held: list[list[int]] = [[] for _ in range(runner.n_slots)]  # tokens in each slot of the draft model
        self.times = StepTimes()

    def propose(self, wanted: Sequence[tuple[Running, int]]) -> list[list[int]]:
        """Drafts of each sequence; none while the draft model still reads what came before.

        Raises:
            OutOfMemory: the draft model has no room.
        """
        lines = [self._line(sequence, count) for sequence, count in wanted]
        feeding = self._within_budget([line for line in lines if line.count > 0])
        if not self._make_room(feeding):
            return [[] for _ in lines]
        steady = all(line.ready and len(line.feed) <= STEADY_TOKENS for line in feeding)
        sequences, rounds, begun_s = len(feeding), 0, time.perf_counter()
        while feeding:
            rows = [Row(line.slot, len(self._held[line.slot]), line.feed) for line in feeding]
            entries = self._runner.forward(rows)
            for line in feeding:
                self._held[line.slot] += line.feed
            feeding = [line for line, entry in zip(feeding, entries, strict=True) if self._goes_on(line, entry)]
            rounds += 1
        if steady and rounds:
            self.times.note(sequences, (time.perf_counter() - begun_s) / rounds)
        return [line.drafts for line in lines]

    def close(self) -> None:
        """Free the draft model."""
        self._runner.close()

    def _line(self, sequence: Running, count: int) -> _Line:
        """What the draft model lacks of a sequence; nothing is wanted of one that it cannot hold."""
        slot, ids, runner = sequence.slot, sequence.ids, self._runner
        count = min(count, runner.context_length - len(ids) + 1)
        if not 0 <= slot < runner.n_slots or count <= 0:
            return _Line(slot, 0, sequence.end_ids, [])
        held = self._held[slot]
        known = common_prefix(held, ids, min(len(held), len(ids) - 1))  # the last one is always read: a guess comes after it
        if known < len(held):
            del held[runner.truncate(slot, known) :]
        feed = ids[len(held) :]
        return _Line(slot, count if max(feed) < runner.vocab_size else 0, sequence.end_ids, feed)

    def _within_budget(self, lines: list[_Line]) -> list[_Line]:
        """Those that read something in this step; one that lacks much reads a part of it."""
        budget = min(self._runner.max_batch_tokens, CATCH_UP_TOKENS)
        feeding = []
        for line in lines:
            line.ready = len(line.feed) <= budget
            line.feed = line.feed[:budget]
            budget -= len(line.feed)
            if line.feed:
                feeding.append(line)
        return feeding

    def _make_room(self, lines: list[_Line]) -> bool:
        """Forget what other slots hold until there is room for these; False if that is not enough."""
        surplus = sum(map(len, self._held)) + sum(len(line.feed) + line.count for line in lines) - self._runner.capacity_tokens
        busy = {line.slot for line in lines}
        for slot, held in enumerate(self._held):
            if surplus > 0 and held and slot not in busy:
                surplus -= len(held)
                self._runner.truncate(slot, 0)
                held.clear()
        return surplus <= 0

    def _goes_on(self, line: _Line, entry: Any) -> bool:
        """Note the draft after what was read; whether another one is to follow."""
        if not line.ready:
            return False
        likeliest = as_row(entry).cut(1, -math.inf)[0]
        if not len(likeliest) or likeliest[0] in line.end_ids or likeliest[0] >= self._vocab_size:
            return False  # behind an end nothing follows
        line.drafts.append(int(likeliest[0]))
        line.feed = line.drafts[-1:]
        return len(line.drafts) < line.count
