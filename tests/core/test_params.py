"""Generation parameters: neutral defaults, bounds, and what a preset keeps."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from modules.core.params import DEFAULT_ORDER, GenerationParams


def test_the_defaults_change_nothing_and_are_not_stored() -> None:
    assert GenerationParams().changed() == {}
    assert GenerationParams(temperature=0.5).changed() == {"temperature": 0.5}


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": -1}, {"temperature": float("nan")}, {"top_p": 0}, {"top_k": -1}, {"min_p": 1.1}, {"dry_range": 2**31 - 1},
        {"penalty_range": 2**31}, {"mirostat_mode": 3}, {"logit_bias": {-1: 1}}, {"logit_bias": {1: 1000}}, {"stop": ("",)},
        {"stop": ("x",) * 65}, {"sampler_order": ("top_k", "top_k")}, {"sampler_order": ("top_z",)}, {"seed": -1}, {"max_tokens": 10**9},
        {"unknown": 1},
    ],
)  # fmt: skip
def test_values_outside_their_limits_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        GenerationParams(**values)


def test_every_field_says_what_it_does_and_where_it_stands() -> None:
    for name, field in GenerationParams.model_fields.items():
        extra = field.json_schema_extra
        assert field.description and field.description.endswith("."), name
        assert isinstance(extra, dict) and extra["group"], name


def test_the_default_order_names_every_sampler_once() -> None:
    assert len(set(DEFAULT_ORDER)) == len(DEFAULT_ORDER)
