"""Comparing greedy outputs of real models: they may part only where the two best tokens were as good as equal.

A batch sums in another order than one row does, and 8-bit weights make more of that; no engine can promise more. The starter model read by 64 tokens and more,
whose attention llama.cpp computes in tiles, has logits that are up to 0.16 from those of single tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

from modules.core.generation import TokenLogprob

TIE = 0.2  # between the two best tokens, nats


def assert_same_but_for_ties(found: Sequence[Sequence[int]], alone: Sequence[Sequence[TokenLogprob]]) -> None:
    """Each output equals the one alone up to a tie, and most are equal to the end."""
    equal = sum(_same(ids, entries) for ids, entries in zip(found, alone, strict=True))
    assert equal >= len(alone) * 3 / 4, f"only {equal} of {len(alone)} are equal to the end"


def _same(ids: Sequence[int], entries: Sequence[TokenLogprob]) -> bool:
    expected = [entry.token_id for entry in entries]
    for place, (got, wanted) in enumerate(zip(ids, expected, strict=False)):
        if got != wanted:
            behind = {other.token_id: entries[place].logprob - other.logprob for other in entries[place].top}
            gap = behind.get(got, float("inf"))  # infinite: not even among the alternatives that were reported
            assert gap < TIE, f"token {place}: {got} instead of {wanted}, which was better by {gap:.3f}"
            return False
    return len(ids) == len(expected)
