"""What adding a sampler costs: one field, one function, one row. The parameters and the table of samplers must name the same things."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from modules.core.params import DEFAULT_ORDER, GenerationParams, SamplerName
from modules.core.text_shape import SHAPE_FIELDS
from modules.engine.logits import NumpyRow
from modules.engine.penalties import breaker_tokens
from modules.engine.samplers import SAMPLERS, SamplerSpec
from modules.engine.sampling import Sampler

ROW = (np.random.default_rng(2).standard_normal(400) * 2).astype(np.float32)
PIECES = [f"t{i}".encode() for i in range(400)]
PROMPT = [1, 2, 3, 4, 5, 1, 2, 3, 9, 4, 5, 1, 2, 3]
COMPLETION = [7, 8, 4, 5, 1, 2, 3]
END = frozenset({11})

# A value for every sampling field that must change the choice, and the fields without which it has nothing to do
CHANGES: dict[str, tuple[object, dict]] = {
    "temperature": (0.5, {}),
    "dynamic_temperature_range": (0.5, {}),
    "dynamic_temperature_exponent": (3.0, {"dynamic_temperature_range": 0.5}),
    "top_k": (5, {}),
    "top_p": (0.5, {}),
    "min_p": (0.1, {}),
    "typical_p": (0.5, {}),
    "top_n_sigma": (1.0, {}),
    "xtc_probability": (1.0, {"xtc_threshold": 0.01}),
    "xtc_threshold": (0.02, {"xtc_probability": 1.0}),
    "dry_multiplier": (1.0, {}),
    "dry_base": (3.0, {"dry_multiplier": 1.0}),
    "dry_allowed_length": (4, {"dry_multiplier": 1.0}),
    "dry_range": (8, {"dry_multiplier": 1.0}),
    "dry_sequence_breakers": (("t2",), {"dry_multiplier": 1.0}),
    "repetition_penalty": (1.5, {}),
    "frequency_penalty": (0.5, {}),
    "presence_penalty": (0.5, {}),
    "no_repeat_ngram_size": (2, {}),
    "smoothing_factor": (0.5, {}),
    "smoothing_curve": (2.0, {"smoothing_factor": 0.5}),
    "penalty_range": (3, {"presence_penalty": 1.0}),
    "mirostat_mode": (2, {"mirostat_tau": 2.0}),
    "mirostat_tau": (2.0, {"mirostat_mode": 2}),
    "mirostat_eta": (1.0, {"mirostat_mode": 2}),
    "logit_bias": ({5: 3.0}, {}),
    "banned_tokens": ((5,), {}),
    "ban_eos": (True, {}),
    "sampler_order": (("temperature", "top_p"), {"temperature": 3.0, "top_p": 0.5}),
    "seed": (8, {}),
}
ELSEWHERE = {"max_tokens", "context_tokens", "stop", "deterministic", "drafts", "deadline_s", "logprobs", "prompt_logprobs", "prompt_only", "show_special_tokens", "guidance_scale", "negative_prompt", *SHAPE_FIELDS}  # the engine reads these
BEFORE_ALL = {"logit_bias", "banned_tokens", "ban_eos", "sampler_order", "seed", "mirostat_mode", "mirostat_tau", "mirostat_eta"}


def behaviour(**fields: object) -> tuple:
    """Everything that shows of a sampler: its distribution before and after a few tokens, and what it draws."""
    params = GenerationParams(**{"seed": 7, **fields})
    breakers = breaker_tokens(PIECES, params.dry_sequence_breakers)
    sampler = Sampler(params, vocab_size=400, end_ids=END, prompt_ids=PROMPT, breaker_ids=breakers)
    for token_id in COMPLETION:
        sampler.accept(token_id)
    drawn = []
    for _ in range(12):
        drawn.append(sampler.sample(NumpyRow(ROW)))
        if params.mirostat_mode:
            sampler.accept(drawn[-1])
    ids, shares = sampler.distribution(NumpyRow(ROW), coin=0.0)
    return ids.tolist(), np.round(shares, 9).tolist(), drawn


def test_every_sampler_has_one_row_and_a_place_in_the_order() -> None:
    names = [spec.name for spec in SAMPLERS]
    assert len(set(names)) == len(names)
    assert set(names) == set(DEFAULT_ORDER) == set(get_args(SamplerName))


def test_every_field_is_read_by_something() -> None:
    assert set(CHANGES) | ELSEWHERE == set(GenerationParams.model_fields)
    read = [name for spec in SAMPLERS for name in spec.fields]
    assert len(set(read)) == len(read)
    assert set(read) | BEFORE_ALL == set(CHANGES)


@pytest.mark.parametrize("field", list(CHANGES))
def test_a_field_changes_what_is_chosen(field: str) -> None:
    value, needed = CHANGES[field]
    assert behaviour(**needed) != behaviour(**needed, **{field: value})


def test_neutral_values_leave_the_row_alone() -> None:
    neutral = GenerationParams()
    assert [spec.name for spec in SAMPLERS if spec.is_active(neutral)] == []
    ids, shares = Sampler(neutral, vocab_size=400, end_ids=END, prompt_ids=PROMPT).distribution(NumpyRow(ROW), coin=0.0)
    weights = np.exp(ROW.astype(np.float64))
    assert np.allclose(shares, (weights / weights.sum())[ids], atol=1e-9)
    assert ids.tolist() == (-ROW).argsort(kind="stable").tolist()


@pytest.mark.parametrize("spec", SAMPLERS, ids=lambda spec: spec.name)
def test_a_sampler_left_out_of_the_order_is_off(spec: SamplerSpec) -> None:
    value, needed = CHANGES[spec.fields[0]]
    fields = {spec.fields[0]: value, **needed}
    without = tuple(name for name in DEFAULT_ORDER if name != spec.name)
    assert behaviour(**fields) != behaviour()
    assert behaviour(**fields, sampler_order=without) == behaviour()
