"""Speculative decoding: guesses at the next tokens ride along in a step, and those that the sampler itself chooses are text.

The sampler of a sequence draws at each position as if there were no drafts, from the model's own logits and with all that was written before, and goes
on while what it draws is what was drafted. So the text is what it would be without, whatever the drafts are; they only decide how many tokens
a step yields. Knows the scheduler's shares, a source of drafts and when they pay; knows no sampler and no text.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from modules.core.model import Row
from modules.engine.drafting import Drafter, ModelDrafter
from modules.engine.lookup import LookupDrafter
from modules.engine.payoff import Payoff
from modules.engine.scheduler import Scheduler

if TYPE_CHECKING:
    from modules.core.model import DraftSource
    from modules.engine.shares import Share

log = logging.getLogger(__name__)

WHOLE_STEPS = 32  # behind the last one with drafts, in which still everybody decodes


class Speculation:
    """Adds drafts to the shares of a step and takes back those that were wrong. The engine thread alone uses it."""

    def __init__(self, source: DraftSource, scheduler: Scheduler, vocab_size: int) -> None:
        self._scheduler = scheduler
        scheduler.table.keeps_places = source.runner is not None
        self._is_careful = source.is_careful
        self._drafter: Drafter = LookupDrafter(only_sure=source.is_careful) if source.runner is None else ModelDrafter(source.runner, vocab_size)
        self._most = source.tokens
        self._payoff = Payoff(source.tokens, self._drafter.times)
        self._off = ""  # why nothing is drafted any more
        self._plain_steps = WHOLE_STEPS  # since the last one with drafts
        self.drafted_tokens = 0
        self.accepted_tokens = 0

    def figures(self) -> dict[str, int]:
        """What counters say of drafts."""
        return {"drafted_tokens": self.drafted_tokens, "accepted_tokens": self.accepted_tokens}

    def extend(self, shares: list[Share]) -> None:
        """Put drafts behind the last token of sequences that are decoding, where that pays and there is room.

        While that is done everybody decodes in every step, as what drafts cost is measured over all; else sequences may take turns.
        """
        if not self._off:
            self._extend(shares)
        self._plain_steps = 0 if any(share.drafts for share in shares) else self._plain_steps + 1
        self._scheduler.crew.is_whole = self._plain_steps < WHOLE_STEPS

    def _extend(self, shares: list[Share]) -> None:
        decoding = [share for share in shares if share.decodes]
        records = [share.sequence.record for share in decoding]
        offers = self._offered(decoding) if self._drafter.is_free else {}
        if self._drafter.is_free and not any(offers.values()):
            self._payoff.pass_over(records)
            return
        self._payoff.decide(records)
        counts = [min(share.sequence.record.count, _room_of(share)) for share in decoding]
        asked = sum(count for count in counts if count > 0)
        if not asked:
            return
        room = self._scheduler.spare(shares, asked)
        wanted = []
        for share, count in zip(decoding, counts, strict=True):
            count = min(count, room)
            if count > 0:
                wanted.append((share, count))
                room -= count
        found = [offers[id(share)][:count] for share, count in wanted] if offers else self._propose(wanted)
        for (share, _), drafts in zip(wanted, found, strict=True):
            row = share.row
            share.drafts = tuple(drafts)
            share.sequence.record.drafted += len(drafts)
            share.row = Row(row.slot, row.start, [*row.token_ids, *drafts], 1 + len(drafts))

    def _offered(self, decoding: list[Share]) -> dict[int, list[int]]:
        """What could be drafted for each share, and its record knows how much that is.

        Where nobody asked for drafts, a reply with a seed has none: in longer steps the last digits differ, and with them, now and then, a token.
        """
        asked = [(share, min(self._most, _room_of(share))) for share in decoding if share.sequence.record.may(self._is_careful)]
        offers = {id(share): drafts for (share, _), drafts in zip(asked, self._propose(asked), strict=True)}
        for share in decoding:
            share.sequence.record.offered = len(offers.get(id(share), ()))
        return offers

    def _propose(self, wanted: list[tuple[Share, int]]) -> list[list[int]]:
        try:
            return self._drafter.propose([(share.sequence, count) for share, count in wanted])
        except Exception as error:
            log.exception("Drafting failed; replies go on without")
            self._off = f"{type(error).__name__}: {error}"
            return [[] for _ in wanted]

    def settle(self, shares: list[Share], seconds: float) -> None:
        """After the tokens of a step were chosen: forget the drafts that were wrong, and learn."""
        tokens = sum(len(share.row.token_ids) for share in shares)
        if tokens == len(shares) + sum(len(share.drafts) for share in shares):  # no prefill among them
            self._payoff.steps.note(tokens, seconds)
        for share in shares:
            if not share.drafts:
                continue
            self.drafted_tokens += len(share.drafts)
            self.accepted_tokens += share.accepted
            self._payoff.note(share.sequence.record, len(share.drafts), share.accepted)
            if not self._scheduler.trim(share):
                self._off = "the model cannot take tokens back"
                log.warning("Nothing is drafted any more: %s", self._off)

    def close(self) -> None:
        """Give the draft model's memory back."""
        self._drafter.close()


def _room_of(share: Share) -> int:
    """How many tokens may be drafted behind the next one before the reply ends."""
    return max(0, share.sequence.max_length - len(share.sequence.ids) - 1)
