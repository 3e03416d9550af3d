"""Advice: settings for a model on this machine, and the best choice of a repository; by verdicts made by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from modules.loaders.fit import Fit, Needs, Room
from modules.loaders.shape import CacheLayers, Shape
from modules.services.fit_advice import Advice, Judged, best_settings, recommended

GB = 10**9
SHAPE = Shape(
    "x", 4 * GB, GB, layers=32, width=64, heads=8, head_width=8, inner=128, vocabulary=1000, trained_tokens=131_072, cache=(CacheLayers(32, 128),)
)


def needs_of(options: dict[str, Any]) -> Needs:
    """4 GB of weights, 100 kB a token; half with half the precision."""
    half = "kv_type" in options or "dtype" in options
    return Needs(2 * GB if "dtype" in options else 4 * GB, GB // 10 * options["slots"], 50_000.0 if half else 100_000.0)


def advised(memory: float, graphics: float = 0, loader: str = "llama.cpp") -> Advice | None:
    return best_settings(SHAPE, loader, needs_of, Room(int(memory * GB), int(graphics * GB)))


def test_with_much_memory_a_long_context_for_four() -> None:
    advice = advised(40)
    assert advice is not None
    assert advice.options == {"context_length": 32_768}  # the loader itself chooses four
    assert "32768 tokens" in advice.reason
    assert "4 replies at the same time" in advice.reason
    assert "17.5 GB" in advice.reason


def test_slots_go_before_context_and_precision_goes_where_the_context_would_be_short() -> None:
    fewer = advised(10)
    assert fewer is not None
    assert fewer.options == {"context_length": 32_768}
    assert "for 1 reply at the same time" in fewer.reason
    careful = advised(11.5)
    assert careful is not None
    assert careful.options == {"context_length": 32_768, "slots": 1}  # the loader would choose two, with nothing left for everything else
    short = advised(5)
    assert short is not None
    assert short.options == {"context_length": 7936, "slots": 1, "kv_type": "q8_0"}
    assert "half the precision (q8_0)" in short.reason
    halved = advised(4, loader="transformers")
    assert halved is not None
    assert halved.options["dtype"] == "bfloat16"
    assert advised(3) is None


def test_layers_go_to_the_graphics_card() -> None:
    whole, part = advised(8, 40), advised(16, 4)
    assert whole is not None
    assert part is not None
    assert whole.options["gpu_layers"] == -1
    assert 0 < part.options["gpu_layers"] < 32
    assert "of 32 layers on the graphics card" in part.reason


def test_more_slots_than_usual_are_left_to_the_loader() -> None:
    rich = best_settings(replace(SHAPE, trained_tokens=2048), "llama.cpp", needs_of, Room(60 * GB), may_be_more=True)
    assert rich is not None
    assert rich.options == {"context_length": 2048}
    assert "for 16 replies at the same time: needs about 8.9 GB" in rich.reason


def judged(label: str, size: float, kind: str = "fits", context: int = 8192, form: str = "gguf") -> Judged:
    return Judged(label, form, label, int(size * GB), Fit(kind, int(size * GB), 9 * GB, context, 1, 0, ""))  # type: ignore[arg-type]


def test_the_largest_that_fits_with_a_good_context_is_recommended() -> None:
    choices = [judged("Q4_K_M", 4), judged("Q8_0", 8), judged("F16", 15), judged("Q6_K", 6), judged("folder", 30, "no", 0, "folder")]
    assert recommended(choices) == ("Q8_0", "The largest that fits with a context of 8192 tokens.")
    assert recommended([judged("Q8_0", 8, "shorter", 2048), judged("Q4_K_M", 4)]) == ("Q4_K_M", "The largest that fits with a context of 8192 tokens.")
    only = recommended([judged("Q8_0", 8, "shorter", 512), judged("Q4_K_M", 4, "shorter", 2048)])
    assert only == ("Q4_K_M", "The one with the longest context that fits: 2048 tokens.")
    assert recommended([judged("F16", 3), judged("folder", 2, form="folder")]) == ("F16", "The largest that fits with a context of 8192 tokens.")
    assert recommended([judged("Q8_0", 8, "no", 0)]) is None
    assert recommended([]) is None
