"""Speeds that follow from what was measured: hand-computed."""

from __future__ import annotations

from typing import Any

import pytest

from modules.loaders.measured import HeadTime, Measured, Pace, Rate, read_measured
from modules.loaders.shape import CacheLayers, Shape

SLOW = (Rate(model_bytes=1_000_000, bytes_per_s=4e9), Rate(model_bytes=100_000_000, bytes_per_s=2e9))
HEADS = (HeadTime(width=8, seconds=36e-9), HeadTime(width=32, seconds=16e-9))
ONE = Pace(threads=1, step_s=0.001, layer_s=0.0001, heads=HEADS, rates={"Q8_0": SLOW, "Q6_K": SLOW[:1]})
TWO = ONE.model_copy(update={"threads": 2, "step_s": 0.002})
MEASURED = Measured(process_bytes=60_000_000, copied=("Q4_0",), token_s=0.0005, word_s=1e-9, paces=(ONE, TWO))


def shape(**changes: Any) -> Shape:
    plain: dict[str, Any] = {
        "name": "x", "stored_bytes": 10_000_000, "parameters": 10_000_000, "layers": 10, "width": 64, "heads": 4, "head_width": 16, "inner": 128,
        "vocabulary": 100_000, "trained_tokens": 0, "cache": (CacheLayers(10, 128),), "reads": (("Q8_0", 1.0),),
    }  # fmt: skip
    return Shape(**plain | changes)


def test_a_token_is_the_sum_of_its_parts() -> None:
    step_s = 0.001 + 10 * 0.0001 + 100 * 10 * 4 * 26e-9 + 10e6 / 3e9  # 10 MB lie in the middle of the two sizes
    assert ONE.seconds(shape(), 10_000_000, 100) == pytest.approx(step_s)
    assert MEASURED.tokens_per_s(shape(), 10_000_000, 1, 100) == pytest.approx(1 / (step_s + 0.0005 + 0.0001))
    assert MEASURED.tokens_per_s(shape(), 10_000_000, 2, 100) == pytest.approx(1 / (step_s + 0.001 + 0.0005 + 0.0001))
    assert MEASURED.pace(16) == TWO


def test_beyond_the_sizes_that_were_measured_a_rate_stays() -> None:
    assert ONE.weights_s("Q8_0", 1e6, 10) == pytest.approx(1e6 / 4e9)
    assert ONE.weights_s("Q8_0", 1e6, 1e12) == pytest.approx(1e6 / 2e9)


def test_types_that_were_not_measured_are_taken_for_their_likest() -> None:
    assert ONE.weights_s("Q5_K", 1e6, 1e6) == pytest.approx(1e6 / 4e9)
    assert ONE.weights_s("IQ3_XXS", 1e6, 1e6) == pytest.approx(1e6 / 4e9)
    assert Pace(threads=1, step_s=0, layer_s=0, rates={}).weights_s("F16", 1e6, 1e6) == 0


def test_a_window_ends_what_attention_costs() -> None:
    windowed = shape(cache=(CacheLayers(10, 128, 50),))
    assert ONE.overhead_s(windowed, 1000) == ONE.overhead_s(shape(), 50)


def test_only_what_is_multiplied_is_copied() -> None:
    assert MEASURED.copied_bytes(shape()) == 0
    assert MEASURED.copied_bytes(shape(reads=(("Q4_0", 0.75), ("Q6_K", 0.1)))) == 7_500_000


def test_what_is_stored_comes_back_or_is_nothing() -> None:
    assert read_measured(MEASURED.model_dump(mode="json")) == MEASURED
    for bad in (None, {}, {"process_bytes": -1}, {**MEASURED.model_dump(mode="json"), "paces": []}):
        assert read_measured(bad) is None
