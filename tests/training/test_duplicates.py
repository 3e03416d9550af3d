"""Duplicates: what counts as the same, what as nearly the same, and that finding them takes time in proportion."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modules.core.messages import Image, Message
from modules.training.duplicates import NEAR, SHINGLE_WORDS, without_duplicates
from modules.training.samples import ChatSample, FeedbackSample, PairSample, Sample, TextSample
from tests.paddock_server import ROOT

VOCABULARY = tuple(f"word{number}" for number in range(3000))
TOOL = {"type": "function", "function": {"name": "search"}}


def text(words: Sequence[str], where: str = "") -> TextSample:
    return TextSample(where, " ".join(words))


def chat(*texts: str, unlearned: Sequence[int] = (), tools: tuple[dict, ...] = ()) -> ChatSample:
    """Question and answer in turn."""
    messages = (Message(role="assistant" if place % 2 else "user", content=content) for place, content in enumerate(texts))
    return ChatSample("", tuple(messages), tools, frozenset(unlearned))


def pair(prompt: str, chosen: str, rejected: str) -> PairSample:
    better, worse = (Message(role="assistant", content=content) for content in (chosen, rejected))
    return PairSample("", (Message(role="user", content=prompt),), better, worse)


def feedback(prompt: str, answer: str, is_good: bool) -> FeedbackSample:
    return FeedbackSample("", (Message(role="user", content=prompt),), Message(role="assistant", content=answer), is_good)


def found(*samples: Sample) -> tuple[int, int]:
    """How many are left out as the same, and as nearly the same."""
    kept = without_duplicates(samples)
    assert len(kept.samples) + kept.exact + kept.near == len(samples)
    return kept.exact, kept.near


def long(count: int = 200, seed: int = 1) -> list[str]:
    return random.Random(seed).choices(VOCABULARY, k=count)


def similarity(one: Sequence[str], other: Sequence[str]) -> float:
    """The Jaccard value of the word triples, computed plainly."""
    first, second = ({tuple(words[at : at + SHINGLE_WORDS]) for at in range(len(words) - SHINGLE_WORDS + 1)} for words in (one, other))
    return len(first & second) / len(first | second)


LONG, EDITED = " ".join(long()), " ".join([*long()[:-1], "changed"])
ALIKE = (
    (text(["Hello", "there,", "friend."]), TextSample("", " Hello   there,\n\nfriend. "), (1, 0)),
    (TextSample("", "ﬁne ①"), TextSample("", "fine 1"), (1, 0)),
    (TextSample("", "Hello there, friend"), TextSample("", "hello THERE friend!"), (0, 1)),
    (TextSample("", LONG), TextSample("", EDITED), (0, 1)),
    (chat(LONG, "Yes."), chat(EDITED, "yes"), (0, 1)),
    (chat("Tell me a story", LONG), chat("Tell me a story", EDITED), (0, 1)),
    (pair(LONG, "good", "bad"), pair(EDITED, "good", "bad"), (0, 1)),
    (feedback(LONG, "good", True), feedback(EDITED, "good", True), (0, 1)),
)
DIFFERENT = (
    (chat(LONG, "Yes."), chat(LONG, "No.")),  # the same prompt, however long, with another answer
    (chat(LONG, LONG, "And?", "Yes."), chat(LONG, LONG, "And?", "No.")),
    (chat(LONG, LONG, "Shorter?", LONG), chat(LONG, LONG, "Longer?", LONG)),
    (chat("Say hello", "Hello"), chat("Say hello", "Hello", "Thanks", "Welcome")),
    (chat("Hello", "Hello"), chat("Hello", "Hello", unlearned=[1])),
    (chat("Hello", "Hello"), chat("Hello", "Hello", tools=(TOOL,))),
    (chat(LONG, "Yes."), TextSample("", LONG)),
    (pair(LONG, "good", "bad"), pair(LONG, "bad", "good")),
    (pair(LONG, LONG, "bad"), pair(LONG, LONG, "worse")),
    (feedback(LONG, LONG, True), feedback(LONG, LONG, False)),
    (TextSample("", "What is 7 + 5 ?"), TextSample("", "What is 7 - 5 ?")),
    (TextSample("", "की"), TextSample("", "का")),
    (TextSample("", "今天天气很好"), TextSample("", "今天天气不好")),
    (TextSample("", "one two"), TextSample("", "two one")),
    (TextSample("", "!"), TextSample("", "one")),
    (
        ChatSample("", (Message(role="user", content="What is it?", images=(Image(kind="png", data="AAAA"),)), Message(role="assistant", content="A fox."))),
        ChatSample("", (Message(role="user", content="What is it?", images=(Image(kind="png", data="BBBB"),)), Message(role="assistant", content="A fox."))),
    ),
    (
        ChatSample("", (Message(role="user", content="Find it"), Message(role="assistant", tool_calls=({"function": {"name": "a", "arguments": {"q": 1}}},)))),
        ChatSample("", (Message(role="user", content="Find it"), Message(role="assistant", tool_calls=({"function": {"name": "a", "arguments": {"q": 2}}},)))),
    ),
)


@pytest.mark.parametrize(("one", "other", "counts"), ALIKE)
def test_alike(one: Sample, other: Sample, counts: tuple[int, int]) -> None:
    assert found(one, other) == counts
    assert without_duplicates([one, other]).samples == (one,)
    assert without_duplicates([other, one]).samples == (other,)


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_different(one: Sample, other: Sample) -> None:
    assert found(one, other) == (0, 0)


def test_the_first_stays_and_the_order_too() -> None:
    samples = [text(long(seed=seed), str(place)) for place, seed in enumerate((3, 1, 3, 2, 1, 1, 4))]
    kept = without_duplicates(samples)
    assert [sample.where for sample in kept.samples] == ["0", "1", "3", "6"]
    assert (kept.exact, kept.near) == (3, 0)


def test_nothing_and_empty_samples() -> None:
    assert without_duplicates([]).samples == ()
    assert found(TextSample("", ""), TextSample("", "  "), chat("", "")) == (1, 0)


def test_half_a_surrogate_pair_is_no_problem() -> None:
    assert found(TextSample("", "a \ud83d b c"), TextSample("", "a \ud83d b c")) == (1, 0)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 12), st.integers(60, 400))
def test_near_is_what_the_measure_says(seed: int, changes: int, count: int) -> None:
    """Never on the wrong side of the line, whatever the signatures guess."""
    chance = random.Random(seed)
    words = chance.choices(VOCABULARY, k=count)
    changed = words[:]
    for place in chance.sample(range(count), changes):
        changed[place] = chance.choice(VOCABULARY)
    is_alike = similarity(words, changed) >= NEAR
    assert sum(found(text(words), text(changed))) == is_alike


def test_few_near_ones_are_missed_among_many() -> None:
    chance = random.Random(5)
    originals = [chance.choices(VOCABULARY, k=120) for _ in range(1500)]
    copies = []
    for words in originals:
        copy = words[:]
        copy[chance.randrange(10, 110)] = "changed"
        copies.append(copy)
    assert all(similarity(one, other) >= NEAR for one, other in zip(originals, copies, strict=True))
    kept = without_duplicates([text(words) for words in (*originals, *copies)])
    assert len(kept.samples) == 1500
    assert kept.near == 1500


def test_ten_thousand_samples_take_seconds() -> None:
    """Of a hundred words each, all different, but with most words shared, as data made from a template has it: it must not become a square."""
    chance = random.Random(9)
    template = chance.choices(VOCABULARY, k=85)
    samples = [text([*template, *chance.choices(VOCABULARY, k=15)]) for _ in range(10_000)]
    begin_s = time.process_time()
    kept = without_duplicates(samples)
    assert time.process_time() - begin_s < 5
    assert len(kept.samples) == 10_000


def test_every_process_finds_the_same() -> None:
    """A resumed run must see the data of before; Python's own hashes differ between processes."""
    program = (
        "import json, random\n"
        "from modules.training.duplicates import without_duplicates\n"
        "from modules.training.samples import TextSample\n"
        "chance = random.Random(2)\n"
        "words = [chance.choices([str(n) for n in range(60)], k=14) for _ in range(40)]\n"
        "texts = [' '.join(row[:13] + [str(chance.randrange(9))]) for row in words for _ in range(5)]\n"
        "kept = without_duplicates([TextSample(str(place), each) for place, each in enumerate(texts)])\n"
        "print(json.dumps([[sample.where for sample in kept.samples], kept.exact, kept.near]))\n"
    )
    answers = {
        subprocess.run([sys.executable, "-c", program], cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True).stdout
        for seed in ("1", "2")
    }
    assert len(answers) == 1
    assert json.loads(answers.pop())[1] > 0
