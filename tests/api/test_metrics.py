"""The text of metrics holds any name, and times are put together as they are said to be."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modules.api.metrics import Exposition
from modules.api.timings import timings
from modules.core.generation import Usage
from modules.services.meters import Buckets
from tests.exposition import labelled, read_exposition

NAMES = ('a"b', "a\\", "\\n", "new\nline", '{le="1"} 5', "ünï", "\r\t ", "", 'x"} 1\n# TYPE x counter\nx{y="')


def written(model: str) -> str:
    out = Exposition()
    out.family("one_total", "counter", "Counts.", [({"model": model, "outcome": "stop"}, 3), ({"model": model, "outcome": "length"}, 0)])
    out.family("none", "gauge", "Nothing.", [])
    out.family("two", "gauge", "Floats.", [({}, 1e-7)])
    buckets = Buckets((0.5, 1.0))
    for value in (0.1, 0.5, 0.7, 9.0):
        buckets.note(value)
    out.histogram("three_seconds", "Times.", [({"model": model}, buckets)])
    return out.body().decode()


@pytest.mark.parametrize("model", NAMES)
def test_a_name_of_any_kind_comes_back(model: str) -> None:
    samples = read_exposition(written(model))
    assert samples == {
        labelled("one_total", model=model, outcome="stop"): 3,
        labelled("one_total", model=model, outcome="length"): 0,
        labelled("two"): 1e-7,
        labelled("three_seconds_bucket", model=model, le="0.5"): 2,
        labelled("three_seconds_bucket", model=model, le="1"): 3,
        labelled("three_seconds_bucket", model=model, le="+Inf"): 4,
        labelled("three_seconds_sum", model=model): pytest.approx(10.3),
        labelled("three_seconds_count", model=model): 4,
    }


@given(st.text(st.characters(blacklist_categories=["Cs"])))
def test_made_up_names_come_back(model: str) -> None:
    assert read_exposition(written(model))[labelled("one_total", model=model, outcome="stop")] == 3


def test_half_a_character_pair_does_not_break_the_text() -> None:
    assert read_exposition(written("bad\udcff.gguf"))[labelled("one_total", model="bad?.gguf", outcome="stop")] == 3


@pytest.mark.parametrize(
    "wrong",
    ["one 1", "# HELP a x\n# TYPE a gauge\na 1\na 1\n", "# HELP a x\n# TYPE a gauge\na{b=\"c\nd\"} 1\n", "# HELP a x\n# TYPE a counter\na 1\n", "# HELP a x\n# TYPE a gauge\na one\n"],
)  # fmt: skip
def test_the_reader_of_these_tests_refuses_what_is_wrong(wrong: str) -> None:
    with pytest.raises((AssertionError, StopIteration)):
        read_exposition(wrong)


def test_several_choices_share_a_prompt_and_the_time() -> None:
    first = Usage(100, 60, 11, queue_s=0.1, prefill_s=0.2, decode_s=1.0, drafted_tokens=4, accepted_tokens=3, longest_gap_s=0.3)
    second = Usage(100, 99, 21, queue_s=0.2, prefill_s=0.1, decode_s=2.0, longest_gap_s=0.2, preemptions=2)
    told = timings([first], [first, second])
    assert (told["cache_n"], told["prompt_n"], told["prompt_ms"], told["prompt_per_second"]) == (60, 40, 200, 200)
    assert (told["predicted_n"], told["predicted_ms"], told["predicted_per_second"]) == (32, 2000, 15)
    assert told["predicted_per_token_ms"] == pytest.approx(1000 / 15, abs=0.001)
    assert (told["queue_ms"], told["longest_gap_ms"], told["draft_n"], told["draft_n_accepted"]) == (200, 300, 4, 3)
    assert told["preempted_n"] == 2
    nothing = timings([Usage()], [Usage()])
    assert not any(nothing.values())
    assert all(math.isfinite(value) for value in nothing.values())
