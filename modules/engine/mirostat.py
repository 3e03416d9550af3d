"""Mirostat (Basu et al. 2020): steers the surprise of the text, in bits, to a target. Takes the place of the samplers that cut.

Surprise is measured in the distribution before its own cut, as in the algorithm of the paper. Knows candidates; knows no row and no text.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

from modules.engine.candidates import SLACK

if TYPE_CHECKING:
    from modules.core.params import GenerationParams
    from modules.engine.candidates import Candidates
    from modules.engine.few import Ranked

LN2 = math.log(2)
MEASURED = 100  # steps between the likeliest tokens that the exponent of Zipf's law is estimated from
LARGEST_EXPONENT = 700.0  # of e; beyond it everything is kept


class Mirostat:
    """Of one request: version 1 or 2, and how much surprise is allowed now (mu of the paper)."""

    def __init__(self, params: GenerationParams, vocab_size: int) -> None:
        self._version = params.mirostat_mode
        self._target = params.mirostat_tau
        self._rate = params.mirostat_eta
        self._vocab_size = vocab_size
        self._largest = 2 * params.mirostat_tau
        self._drawn: tuple[int, float] | None = None  # token and its surprise, until it is accepted

    def choose(self, candidates: Candidates, uniform: float) -> int:
        """The token at `uniform` among those that are not too surprising."""
        left, log_total = self.cut(candidates)
        place = left.place(uniform)
        self._drawn = int(left.ids[place]), (log_total - float(left.logits[place])) / LN2
        return self._drawn[0]

    def cut(self, candidates: Candidates) -> tuple[Ranked, float]:
        """Version 2 leaves out tokens with -log2 p > mu; version 1 takes so many of the likeliest as Zipf's law gives that surprise on average.

        Also the logarithm of the total before the cut.
        """
        log_total = candidates.log_total()
        if self._version == 1:
            return candidates.top(self._count(candidates)), log_total
        return candidates.above(log_total - self._largest * LN2 - SLACK), log_total

    def accept(self, token_id: int) -> None:
        """Allow less after a surprise, more after none."""
        if self._drawn is not None and self._drawn[0] == token_id:
            self._largest -= self._rate * (self._drawn[1] - self._target)
            self._drawn = None

    def _count(self, candidates: Candidates) -> int:
        """How many tokens version 1 keeps: k of the paper, and one."""
        logits = [float(logit) for logit in candidates.top(MEASURED + 1).logits[: MEASURED + 1]]
        steps = [math.log((i + 2) / (i + 1)) for i in range(len(logits) - 1)]
        drops = [before - after for before, after in pairwise(logits)]
        exponent = sum(drop * step for drop, step in zip(drops, steps, strict=True)) / sum(step * step for step in steps) if steps else math.inf
        if exponent == math.inf:
            return 1
        if exponent <= 0:  # all alike
            return self._vocab_size
        beyond = exponent - 1
        size = math.log(self._vocab_size)
        scale = math.log(beyond / -math.expm1(-beyond * size)) if abs(beyond) > SLACK else -math.log(size)
        power = (scale + self._largest * LN2) / exponent
        return min(self._vocab_size, round(math.exp(power)) + 1 if power < LARGEST_EXPONENT else self._vocab_size)
