"""What is held out: a fixed share by content, never both sides of a duplicate, never everything and never nothing."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modules.core.messages import Message
from modules.training.division import HELD_OUT_LIMIT, content_key, divide
from modules.training.formats import read_samples
from modules.training.samples import ChatSample, DatasetSpec, FeedbackSample, PairSample, TextSample


def texts(*numbers: int) -> list[TextSample]:
    return [TextSample(f"a.jsonl, line {place}", f"text {number}") for place, number in enumerate(numbers, 1)]


def said(samples: tuple[object, ...]) -> set[str]:
    return {sample.text for sample in samples if isinstance(sample, TextSample)}


def test_the_share_is_about_what_was_asked_for() -> None:
    train, held_out = divide(texts(*range(4000)), 5)
    assert 150 < len(held_out) < 250
    assert len(train) + len(held_out) == 4000


def test_other_order_and_added_rows_change_no_side() -> None:
    samples = texts(*range(400))
    before = said(divide(samples, 10).held_out)
    random.Random(1).shuffle(samples)
    assert said(divide(samples, 10).held_out) == before
    after = divide([*samples, *texts(*range(400, 800))], 10)
    assert before <= said(after.held_out)
    assert said(after.train).isdisjoint(before)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 30), max_size=60), st.floats(0, 50))
def test_every_sample_is_on_one_side_and_duplicates_on_the_same(numbers: list[int], percent: float) -> None:
    train, held_out = divide(texts(*numbers), percent)
    assert sorted(sample.text for sample in (*train, *held_out)) == sorted(f"text {number}" for number in numbers)  # type: ignore[union-attr]
    assert said(train).isdisjoint(said(held_out))
    if percent > 0 and len(set(numbers)) >= 2:
        assert train
        assert held_out
    else:
        assert not held_out


def test_no_more_than_the_limit_is_held_out() -> None:
    assert len(divide(texts(*range(3 * HELD_OUT_LIMIT)), 50).held_out) == HELD_OUT_LIMIT


def test_of_contents_that_are_there_too_often_the_rarest_is_held_out() -> None:
    samples = texts(*[1] * (HELD_OUT_LIMIT + 1), *[2] * (HELD_OUT_LIMIT + 9))
    assert said(divide(samples, 50).held_out) == {"text 1"}


def test_a_single_text_is_cut_at_the_end_of_a_paragraph() -> None:
    text = "".join(f"Paragraph {number} says a thing.\n\n" for number in range(200))
    train, held_out = divide([TextSample("story.txt", text)], 10)
    assert isinstance(train[0], TextSample)
    assert isinstance(held_out[0], TextSample)
    assert train[0].text + held_out[0].text == text
    assert train[0].text.endswith("\n\n")
    assert 0.08 < len(held_out[0].text) / len(text) < 0.17
    line = int(held_out[0].where.removeprefix("story.txt, from line "))
    assert held_out[0].text.startswith(text.split("\n")[line - 1])


@pytest.mark.parametrize("text", ["short", "x" * 1000, " " * 1000, "a" + " " * 999])
def test_a_single_text_without_a_place_to_cut_is_kept_whole_or_cut_to_two_texts(text: str) -> None:
    train, held_out = divide([TextSample("a.txt", text)], 5)
    assert "".join(sample.text for sample in (*train, *held_out)) == text  # type: ignore[union-attr]
    assert all(sample.text.strip() for sample in held_out)  # type: ignore[union-attr]


def test_what_a_sample_says_decides_and_not_where_it_stood() -> None:
    ask, good, bad = Message(role="user", content="Hello"), Message(role="assistant", content="Good day"), Message(role="assistant", content="No")
    samples = [
        TextSample("w", "Hello"),
        ChatSample("w", (ask, good)),
        ChatSample("w", (ask, good), unlearned=frozenset({1})),
        ChatSample("w", (ask, good), tools=({"type": "function", "function": {"name": "look"}},)),
        PairSample("w", (ask,), good, bad),
        PairSample("w", (ask,), bad, good),
        FeedbackSample("w", (ask,), good, True),
        FeedbackSample("w", (ask,), good, False),
    ]
    assert len({content_key(sample) for sample in samples}) == len(samples)
    assert content_key(ChatSample("elsewhere", (ask, good))) == content_key(samples[1])


@pytest.mark.parametrize("name", ["gsm8k/test.jsonl", "training-formats/dpo_en_demo.json"])
def test_real_rows_are_divided_and_stay_so(testdata: Path, name: str) -> None:
    path = testdata / "datasets" / name
    spec = DatasetSpec(path=path, format="preference" if "dpo" in name else "instruction")
    samples = list(read_samples(spec))
    parts = divide(samples, 5)
    assert 0.02 < len(parts.held_out) / len(samples) < 0.09
    fewer = divide(samples[: len(samples) // 2], 5)
    assert {content_key(sample) for sample in fewer.held_out} <= {content_key(sample) for sample in parts.held_out}
