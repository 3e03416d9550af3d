"""Drafts without a draft model: what followed the last few tokens when they were written before, in the prompt or in the reply.

Knows sequences alone. Good where a reply repeats what it was given (code, quotes, lists); elsewhere it has no guess, which costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from modules.core.model import ImageToken
from modules.engine.payoff import StepTimes
from modules.engine.sequence import Sequence as Running

MATCHED_TOKENS = 3  # so many must be the same; fewer are the same by chance too often
SURE_TOKENS = 8  # a place where so many are the same is taken before a later one where fewer are
READ_AT_ONCE = 4096  # places taken note of before one step, for all sequences: about two milliseconds
GUESSED_FOR_EACH = 2  # tokens guessed for each that is the same: a short match is often chance, a long one a copy


@dataclass(slots=True, eq=False)
class _Seen:
    """Where each run of tokens was followed by something, the latest place of each, by the run's hash: what is found is compared anyway."""

    sequence: Running
    only_long: bool
    short: dict[int, int] = field(default_factory=dict)
    long: dict[int, int] = field(default_factory=dict)
    read: int = MATCHED_TOKENS  # places before this one are in it

    def read_on(self, most: int) -> int:
        """Take note of places before the one behind the last token, at most so many; returns how many."""
        ids, long = self.sequence.ids, self.long
        begin, end = self.read, min(len(ids), self.read + most)
        for place in range(self.read, end) if not self.only_long else ():
            self.short[hash(tuple(ids[place - MATCHED_TOKENS : place]))] = place
        for place in range(max(self.read, SURE_TOKENS), end):
            long[hash(tuple(ids[place - SURE_TOKENS : place]))] = place
        self.read = max(begin, end)
        return self.read - begin

    def place(self) -> int | None:
        """Where the last tokens stood before."""
        ids = self.sequence.ids
        found = self.long.get(hash(tuple(ids[-SURE_TOKENS:])))
        return self.short.get(hash(tuple(ids[-MATCHED_TOKENS:]))) if found is None else found

    def matched(self, place: int, limit: int) -> int:
        """How many tokens before that place are those at the end, at most so many."""
        ids, count = self.sequence.ids, 0
        while count < limit and count < place and ids[place - 1 - count] == ids[-1 - count]:
            count += 1
        return count


class LookupDrafter:
    """Proposes what came after the latest place where the last tokens stood before, the further the more of them did."""

    is_free = True

    def __init__(self, *, only_sure: bool = False) -> None:
        self._only_sure = only_sure
        self.times = StepTimes()  # stays empty: a look takes no time
        self._seen: dict[int, _Seen] = {}  # by slot

    def propose(self, wanted: Sequence[tuple[Running, int]]) -> list[list[int]]:
        """The continuation of each sequence as it was before; empty where its last tokens are new."""
        for slot in [slot for slot, seen in self._seen.items() if seen.sequence.slot != slot]:  # ended, or elsewhere
            del self._seen[slot]
        found, most = [], READ_AT_ONCE
        for sequence, count in wanted:
            seen = self._seen.get(sequence.slot)
            if seen is None or seen.sequence is not sequence:
                seen = self._seen[sequence.slot] = _Seen(sequence, self._only_sure)
            most -= seen.read_on(most)
            found.append(self._guess(seen, count))
        return found

    def close(self) -> None:
        """Forget all."""
        self._seen.clear()

    def _guess(self, seen: _Seen, count: int) -> list[int]:
        sequence, ids = seen.sequence, seen.sequence.ids
        start = seen.place()
        if start is None:
            return []
        drafts: list[int] = []
        matched = seen.matched(start, max(count, SURE_TOKENS))
        sequence.record.sure = matched >= SURE_TOKENS
        if matched < (SURE_TOKENS if self._only_sure else MATCHED_TOKENS):
            return []
        for place in range(start, start + min(count, GUESSED_FOR_EACH * matched)):
            token_id = ids[place] if place < len(ids) else drafts[place - len(ids)]  # a text that repeats itself goes on doing so
            if token_id in sequence.end_ids or isinstance(token_id, ImageToken):  # no model writes an image
                break
            drafts.append(token_id)
        return drafts
