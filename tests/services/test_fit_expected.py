"""What is foretold of a model whose weights will be held in eight bits."""

from __future__ import annotations

import dataclasses

import pytest

from modules.loaders.llama_cpp import memory
from modules.loaders.measured import Measured, Pace, Rate
from modules.loaders.shape import CacheLayers, Shape
from modules.services.fit_expected import Expected

FAST, SLOW = (Rate(model_bytes=1, bytes_per_s=20e9),), (Rate(model_bytes=1, bytes_per_s=5e9),)
MEASURED = Measured(
    process_bytes=60_000_000, copied=("Q8_0",), token_s=0, word_s=0, paces=(Pace(threads=1, step_s=0, layer_s=0, rates={"Q8_0": FAST, "Q6_K": SLOW}),),
)
SHAPE = Shape(
    name="x", stored_bytes=100_000_000, parameters=1, layers=10, width=64, heads=4, head_width=16, inner=128, vocabulary=0, trained_tokens=0,
    cache=(CacheLayers(10, 128),), reads=(("Q5_0", 0.55), ("Q8_0", 0.45)), wide_table_bytes=45_000_000, widens=(("Q5_0", 0.55),),
)  # fmt: skip


@pytest.mark.parametrize("has_tiles", [True, False])
def test_memory_and_speed_are_those_of_what_is_held(monkeypatch: pytest.MonkeyPatch, has_tiles: bool) -> None:
    monkeypatch.setattr(memory, "has_tiles", lambda: has_tiles)
    monkeypatch.setattr(memory, "available_bytes", lambda: 1 << 34)
    monkeypatch.setattr(memory, "_has_files_in_memory", lambda: True)
    monkeypatch.setattr(memory, "has_huge_pages", lambda: True)
    expected = Expected(SHAPE, "llama.cpp", {"threads": 1}, "float32", MEASURED)
    mapped = Expected(SHAPE, "llama.cpp", {"threads": 1, "mmap": "on"}, "float32", MEASURED)
    if has_tiles:
        assert expected.needs.weights == pytest.approx((55e6 * 34 / 22 + 45e6) * 38 / 34 + 45e6, abs=2)  # in tiles, and the table once more
        assert expected.needs.spare == 0
        assert expected.tokens_per_s(0) == pytest.approx(20e9 / (55e6 * 34 / 22 + 45e6), rel=1e-3)
    else:
        assert expected.needs.weights == 100_000_000
        assert expected.needs.spare == 0
        assert mapped.needs.spare == 45_000_000  # what is copied of the file
        assert Expected(SHAPE, "llama.cpp", {"threads": 1}, "float32", MEASURED, mapped=True).needs == mapped.needs
        read_in = expected.needs
        with monkeypatch.context() as later:
            later.setattr(memory, "available_bytes", lambda: 0)  # what is loaded has taken it
            assert Expected(SHAPE, "llama.cpp", {"threads": 1}, "float32", MEASURED).needs == mapped.needs
            assert Expected(SHAPE, "llama.cpp", {"threads": 1}, "float32", MEASURED, mapped=False).needs == read_in
        assert expected.tokens_per_s(0) == pytest.approx(1 / (55e6 / 5e9 + 45e6 / 20e9), rel=1e-3)
    for same in (
        Expected(SHAPE, "llama.cpp", {"threads": 1, "widen_weights": "off"}, "float32", MEASURED),
        Expected(SHAPE, "llama.cpp", {"threads": 1}, "float32", MEASURED, on_gpu=True),
        Expected(SHAPE, "llama.cpp", {"threads": 1}, "float32", MEASURED, wide=False),
        Expected(SHAPE, "transformers", {}, "float32", MEASURED),
    ):
        assert same.held is SHAPE
    monkeypatch.setattr(memory, "available_bytes", lambda: 0)  # what is loaded has taken it
    assert Expected(SHAPE, "llama.cpp", {}, "float32", MEASURED, wide=True).held == SHAPE.widened()


@pytest.mark.parametrize(("speed", "expected"), [(20e9, 1), (30e9, 2)])
def test_threads_of_a_large_model_are_those_the_loader_will_find(monkeypatch: pytest.MonkeyPatch, speed: float, expected: int) -> None:
    monkeypatch.setattr("modules.services.fit_expected.usable_cores", lambda: 2)
    two = Pace(threads=2, step_s=0, layer_s=0, rates={"Q8_0": (Rate(model_bytes=1, bytes_per_s=speed),)})
    measured = MEASURED.model_copy(update={"paces": (*MEASURED.paces, two)})
    shape = dataclasses.replace(SHAPE, stored_bytes=2 << 30, reads=(("Q8_0", 1.0),), widens=())
    assert Expected(shape, "llama.cpp", {}, "float32", measured).threads == expected
    assert Expected(shape, "llama.cpp", {}, "float32", None).threads == 2
