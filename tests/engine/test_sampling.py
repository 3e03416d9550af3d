"""Every sampler, alone and in chains of any order, against the plain reference: same tokens kept, same probabilities, same token drawn."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modules.core.params import DEFAULT_ORDER, GenerationParams
from modules.engine.logits import NumpyRow
from modules.engine.sampling import Sampler
from tests.engine import reference_sampling as reference

# Per sampler the values worth trying; a chain takes any mixture of them
CHOICES = {
    "temperature": {"temperature": st.sampled_from([0.05, 0.3, 0.8, 1.0, 1.7, 5.0])},
    "dynamic temperature": {
        "temperature": st.sampled_from([0.5, 1.0]),
        "dynamic_temperature_range": st.sampled_from([0.2, 0.7, 2.0]),
        "dynamic_temperature_exponent": st.sampled_from([0.5, 1.0, 2.0]),
    },
    "top_k": {"top_k": st.sampled_from([1, 2, 7, 40, 900])},
    "top_p": {"top_p": st.sampled_from([0.01, 0.3, 0.5, 0.9, 0.95, 0.999])},
    "min_p": {"min_p": st.sampled_from([0.0001, 0.05, 0.3, 1.0])},
    "typical_p": {"typical_p": st.sampled_from([0.05, 0.2, 0.6, 0.95])},
    "top_n_sigma": {"top_n_sigma": st.sampled_from([0.1, 0.5, 1.0, 3.0])},
    "xtc": {"xtc_probability": st.sampled_from([0.5, 1.0]), "xtc_threshold": st.sampled_from([0.0, 0.001, 0.05, 0.1, 0.5])},
    "dry": {
        "dry_multiplier": st.sampled_from([0.8, 5.0]),
        "dry_base": st.sampled_from([1.0, 1.75, 8.0]),
        "dry_allowed_length": st.sampled_from([1, 2, 4]),
        "dry_range": st.sampled_from([0, 3, 20]),
    },
    "repetition": {"repetition_penalty": st.sampled_from([0.7, 1.1, 2.0]), "penalty_range": st.sampled_from([0, 1, 8])},
    "frequency": {"frequency_penalty": st.sampled_from([-1.0, 0.5, 2.0]), "penalty_range": st.sampled_from([0, 1, 8])},
    "presence": {"presence_penalty": st.sampled_from([-1.0, 0.5, 2.0]), "penalty_range": st.sampled_from([0, 1, 8])},
    "no repeat": {"no_repeat_ngram_size": st.sampled_from([2, 3, 4])},
    "smoothing": {"smoothing_factor": st.sampled_from([0.05, 0.3, 2.0]), "smoothing_curve": st.sampled_from([1.0, 2.5, 3.0, 6.0, 10.0])},
    "bias": {"logit_bias": st.sampled_from([{0: 100.0}, {0: -100.0}, {0: 2.5, 1: -1.0}])},
    "ban": {"banned_tokens": st.sampled_from([(0,), (1, 3), (5, 0)]), "ban_eos": st.booleans()},
    "mirostat": {"mirostat_mode": st.sampled_from([1, 2]), "mirostat_tau": st.sampled_from([0.5, 2.0, 5.0])},
    "greedy": {"temperature": st.just(0.0)},
}


@st.composite
def rows(draw: st.DrawFn) -> np.ndarray:
    """Logits as models write them and as nobody expects them: peaked, flat, full of ties, with impossible tokens."""
    size = draw(st.sampled_from([8, 9, 60, 65, 500, 1025, 3000]))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    row = random.standard_normal(size) * draw(st.sampled_from([0.0, 0.5, 2.0, 6.0])) - draw(st.sampled_from([0.0, 12.0]))
    kind = draw(st.sampled_from(["plain", "ties", "impossible", "peaked"]))
    if kind == "ties":
        row = np.round(row)
    elif kind == "impossible":
        row[random.random(size) < 0.7] = -np.inf
        row[6] = 0.25  # never banned or biased
    elif kind == "peaked":
        row[random.integers(0, size, 5)] += random.random(5) * 20
    return row.astype(np.float32)


def params_of(*names: str) -> st.SearchStrategy[dict]:
    fields = {key: strategy for name in names for key, strategy in CHOICES[name].items()}
    return st.fixed_dictionaries(fields)


ROUNDED = 1e-6  # of a probability
histories = st.lists(st.integers(0, 7), max_size=30)


def assert_same_choice(row: np.ndarray, params: GenerationParams, prompt: list[int], completion: list[int], draws: int = 3) -> None:
    """Distribution and drawn token of `Sampler` equal the reference's, XTC acting and, if it may, not."""
    end_ids, breakers = frozenset({3}), frozenset({7})
    seeded = params.model_copy(update={"seed": 11})
    sampler = Sampler(seeded, vocab_size=len(row), end_ids=end_ids, prompt_ids=prompt, breaker_ids=breakers)
    for token_id in completion:
        sampler.accept(token_id)
    situation = reference.Situation(prompt, completion, end_ids, breakers, mu=2 * params.mirostat_tau)
    for coin in (0.0, 1.0) if params.xtc_probability else (0.0,):
        situation.coin = coin
        want = reference.survivors(row, params, situation)
        ids, probabilities = sampler.distribution(NumpyRow(row), coin)
        assert ids.tolist() == [i for i, _ in want]
        assert np.allclose(probabilities, reference.probabilities(want), rtol=0, atol=1e-6)
    random = Random(11)
    for _ in range(draws):
        situation.coin, uniform = random.random(), random.random()
        left = reference.survivors(row, params, situation)
        near = (uniform, max(0.0, uniform - ROUNDED), min(uniform + ROUNDED, 1 - ROUNDED))  # a whole vocabulary is added up in single precision
        assert sampler.sample(NumpyRow(row)) in {reference.draw(left, one) for one in near}


def test_what_is_left_may_be_what_must_not_be_repeated() -> None:
    params = GenerationParams(top_k=1, no_repeat_ngram_size=2, top_p=0.5, sampler_order=("top_k", "no_repeat", "top_p"))
    assert_same_choice(np.zeros(8, np.float32), params, [], [0, 0])


@pytest.mark.parametrize("name", list(CHOICES))
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_each_sampler_equals_the_reference(name: str, data: st.DataObject) -> None:
    params = GenerationParams(**data.draw(params_of(name)))
    assert_same_choice(data.draw(rows()), params, data.draw(histories), data.draw(histories))


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_chains_in_any_order_equal_the_reference(data: st.DataObject) -> None:
    names = data.draw(st.lists(st.sampled_from([n for n in CHOICES if n != "greedy"]), min_size=2, max_size=8, unique=True))
    fields = data.draw(params_of(*names))
    order = tuple(data.draw(st.permutations(DEFAULT_ORDER)))
    params = GenerationParams(**fields, sampler_order=order[: data.draw(st.integers(4, len(order)))])
    assert_same_choice(data.draw(rows()), params, data.draw(histories), data.draw(histories))


LARGE = (
    {"top_p": 0.95}, {"typical_p": 0.9}, {"min_p": 0.05}, {"top_n_sigma": 1.0}, {"temperature": 0.7}, {"temperature": 1.5, "top_p": 0.6},
    {"xtc_probability": 1.0, "xtc_threshold": 0.01}, {"dynamic_temperature_range": 0.5}, {"mirostat_mode": 2},
    {"repetition_penalty": 1.3, "top_k": 100}, {"repetition_penalty": 1.3, "top_p": 0.7}, {"frequency_penalty": -2.0, "top_k": 5},
    {"mirostat_mode": 1}, {"smoothing_factor": 0.3}, {"smoothing_factor": 0.2, "smoothing_curve": 5.0, "min_p": 0.01}, {"no_repeat_ngram_size": 2, "top_p": 0.9},
    {"top_k": 40, "top_p": 0.95, "min_p": 0.05, "temperature": 0.8}, {"top_k": 1000, "dry_multiplier": 1.0},
)  # fmt: skip


@pytest.mark.parametrize("fields", LARGE, ids=str)
@pytest.mark.parametrize("spread", [0.3, 2.5])
def test_large_vocabularies_equal_the_reference(fields: dict, spread: float) -> None:
    random = np.random.default_rng(5)
    row = (random.standard_normal(3_011) * spread).astype(np.float32)
    row[random.integers(0, len(row), 40)] += np.linspace(0, 12, 40, dtype=np.float32)
    best = row.argsort()[::-1]
    prompt = [*best[:30].tolist(), *random.integers(0, len(row), 300).tolist()]
    assert_same_choice(row, GenerationParams(**fields), prompt, best[10:60:2].tolist(), draws=1)
