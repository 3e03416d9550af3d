"""The usual chain of samplers in one go: top-k, then any of those that can say what they do to a short sorted list.

Chooses what the chain itself would choose, in two thirds to three quarters of its time: between two steps of a model a choice costs what code it runs
through, and nothing is made here for what each sampler leaves but a list (docs/lab-notes.md). Knows lists; what the samplers do is said in `samplers.py`.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence, Set
from itertools import accumulate
from typing import TYPE_CHECKING

from modules.engine.few import MOST, weights_of

if TYPE_CHECKING:
    from modules.core.model import LogitsRow
    from modules.core.params import GenerationParams
    from modules.engine.samplers import SamplerSpec

OnList = Callable[[list[float]], list[float]]  # from logits, likeliest first, to those of the first ones that are left, at least one


class Shortlist:
    """Chooses among the `k` likeliest tokens that are not banned, as far as these samplers leave them."""

    def __init__(self, k: int, banned: Set[int], samplers: Sequence[OnList]) -> None:
        self._k = k
        self._banned = banned
        self._samplers = tuple(samplers)

    def choose(self, row: LogitsRow, uniform: float) -> int | None:
        """The token at which the cumulative probability passes `uniform`; None when every token is impossible."""
        banned = self._banned
        found, raw = row.cut(self._k + len(banned), -math.inf)
        ids, logits = found.tolist(), raw.tolist()
        order = sorted(range(len(ids)), key=logits.__getitem__, reverse=True)  # stable, so of equal ones the lower ids come first
        if banned:
            order = [place for place in order if ids[place] not in banned]
        left = [logits[place] for place in order[: self._k]]
        while left and left[-1] == -math.inf:
            left.pop()
        if not left:
            return None
        for sampler in self._samplers:
            left = sampler(left)
        cumulative = list(accumulate(weights_of(left)))
        token_id: int = ids[order[min(bisect_right(cumulative, uniform * cumulative[-1]), len(left) - 1)]]
        return token_id


def shortlist_of(steps: Sequence[SamplerSpec], params: GenerationParams, banned: Set[int]) -> Shortlist | None:
    """The same chain, if it begins with a top-k that leaves few tokens and all that follow know lists."""
    if not steps or steps[0].name != "top_k" or params.top_k + len(banned) > MOST:
        return None
    samplers = [step.on_list(params) for step in steps[1:]]
    known = [sampler for sampler in samplers if sampler is not None]
    return Shortlist(params.top_k, banned, known) if len(known) == len(samplers) else None
