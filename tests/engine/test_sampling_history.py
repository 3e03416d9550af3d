"""What was written before: counts and repeats kept per token equal those made anew from the whole text, at a small cost."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modules.engine.penalties import Repeats, TokenCounts, breaker_tokens, dry_amounts
from tests.engine.reference_sampling import dry_matches

texts = st.lists(st.integers(0, 4), max_size=60)


@settings(max_examples=80)
@given(texts, texts, st.sampled_from([0, 1, 5, 40]), st.booleans())
def test_counts_follow_the_window(prompt: list[int], completion: list[int], window: int, with_prompt: bool) -> None:
    counts = TokenCounts(prompt, window, with_prompt)
    for token_id in completion:
        counts.accept(token_id)
    text = [(i, False) for i in prompt] + [(i, True) for i in completion]
    text = text[-window:] if window else text
    seen = sorted({i for i, written in text if written or with_prompt})
    assert counts.ids.tolist() == seen
    assert counts.written.tolist() == [text.count((i, True)) for i in seen]
    assert counts.seen.tolist() == [text.count((i, True)) + with_prompt * text.count((i, False)) for i in seen]


def test_counts_grow_with_the_vocabulary_used() -> None:
    counts = TokenCounts([], 0, True)
    order = np.random.default_rng(0).permutation(1000).tolist()
    for token_id in order:
        counts.accept(token_id)
    assert counts.ids.tolist() == list(range(1000))
    assert counts.seen.tolist() == counts.written.tolist() == [1] * 1000


@settings(max_examples=120)
@given(texts, texts, st.sampled_from([0, 1, 2, 7, 30]), st.frozensets(st.integers(0, 4), max_size=2), st.integers(1, 4))
def test_repeats_equal_a_search_of_the_whole_text(
    prompt: list[int], completion: list[int], window: int, breakers: frozenset[int], shortest: int
) -> None:
    repeats = Repeats(prompt, window, breakers)
    for done in range(len(completion) + 1):
        text = prompt + completion[:done]
        matches = dry_matches(text[-window:] if window else text, breakers)
        ids, lengths = repeats.next_tokens(shortest)
        assert dict(zip(ids.tolist(), lengths.tolist(), strict=True)) == {i: n for i, n in matches.items() if n >= shortest}
        if done < len(completion):
            repeats.accept(completion[done])


@pytest.mark.parametrize("kind", ["varied", "one token", "periodic"])
def test_a_history_of_32k_tokens_costs_well_under_a_millisecond_per_token(kind: str) -> None:
    random = np.random.default_rng(0)
    text = {"varied": random.integers(0, 2000, 32_000), "one token": np.full(32_000, 5), "periodic": np.arange(32_000) % 7}[kind].tolist()
    repeats, counts = Repeats(text, 0, ()), TokenCounts(text, 0, True)
    costs = []
    for token_id in text[:40]:
        start = time.perf_counter()
        repeats.accept(token_id)
        repeats.next_tokens(2)
        counts.accept(token_id)
        costs.append(time.perf_counter() - start)
    assert min(costs) < 0.002  # quietest of many: what it costs, not what the machine does beside


def test_dry_amounts_stay_finite() -> None:
    amounts = dry_amounts(np.array([2, 3, 10_000]), 2, 0.8, 1.75)
    assert amounts[:2].tolist() == pytest.approx([0.8, 0.8 * 1.75])
    assert np.isfinite(amounts).all()


def test_breakers_are_the_tokens_that_contain_one() -> None:
    pieces = [b"a", b":", b" b:c", b"\n\n", "é".encode(), b"\xc3", b"*"]
    assert breaker_tokens(pieces, ("\n", ":", '"')) == {1, 2, 3}
    assert breaker_tokens(pieces, ("é",)) == {4}
    assert breaker_tokens(pieces, ()) == frozenset()
