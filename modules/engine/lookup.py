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

Gram = tuple[int, int, int]


@dataclass(slots=True, eq=False)
class _Seen:
    """Where each run of tokens was followed by something, the latest place of each."""

    sequence: Running
    follows: dict[Gram, int] = field(default_factory=dict)
    read: int = MATCHED_TOKENS  # places before this one are in it


class LookupDrafter:
    """Proposes what came after the latest place where the last tokens stood before."""

    def __init__(self) -> None:
        self.times = StepTimes()  # stays empty: a look takes no time
        self._seen: dict[int, _Seen] = {}  # by slot

    def propose(self, wanted: Sequence[tuple[Running, int]]) -> list[list[int]]:
        """The continuation of each sequence as it was before; empty where its last tokens are new."""
        return [self._guess(sequence, count) for sequence, count in wanted]

    def close(self) -> None:
        """Forget all."""
        self._seen.clear()

    def _guess(self, sequence: Running, count: int) -> list[int]:
        ids = sequence.ids
        seen = self._seen.get(sequence.slot)
        if seen is None or seen.sequence is not sequence:
            seen = self._seen[sequence.slot] = _Seen(sequence)
        for place in range(seen.read, len(ids)):
            seen.follows[ids[place - 3], ids[place - 2], ids[place - 1]] = place
        seen.read = max(seen.read, len(ids))
        start = seen.follows.get((ids[-3], ids[-2], ids[-1])) if len(ids) >= MATCHED_TOKENS else None
        drafts: list[int] = []
        while start is not None and len(drafts) < count:
            place = start + len(drafts)
            token_id = ids[place] if place < len(ids) else drafts[place - len(ids)]  # a text that repeats itself goes on doing so
            if token_id in sequence.end_ids or isinstance(token_id, ImageToken):  # no model writes an image
                break
            drafts.append(token_id)
        return drafts
