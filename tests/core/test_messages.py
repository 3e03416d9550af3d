"""Thinking and answer: the whole split and the split piece by piece agree."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modules.core.messages import THINKING_TAGS, ThoughtStream, split_thinking, without_thinking


def test_a_block_at_the_start_is_thinking() -> None:
    thought = split_thinking("<think>\nhm\n</think>\n\nYes.")
    assert (thought.thinking, thought.answer, thought.open) == ("hm", "Yes.", False)
    assert without_thinking("<think>a</think>b") == "b"


def test_a_tag_in_the_middle_is_text() -> None:
    text = "Write <think> to begin."
    assert split_thinking(text).answer == text


def test_an_open_block_has_no_answer_yet() -> None:
    assert split_thinking("<think>\nhm").open
    assert split_thinking("<thi").open


def test_a_block_that_only_ends_is_thinking_where_the_tag_stands_alone() -> None:
    assert split_thinking("hm\nwell\n</think>\n\nYes.") == ("hm\nwell", "Yes.", False)
    for text in ("It ends with </think> and goes on.", "```\n<think>\nhm\n</think>\n```", "hm\n</think"):
        assert split_thinking(text).answer == text


def test_the_template_may_have_opened_the_block() -> None:
    thought = split_thinking("hm</think>Yes.", starts_open="<think>")
    assert (thought.thinking, thought.answer) == ("hm", "Yes.")


PIECES = st.lists(st.sampled_from(["<think>", "</think>", "<", "/think>", "\n", "a", "é", " ", "think", "[THINK]", "[/THINK]"]), max_size=12)


@given(PIECES, st.booleans())
def test_piece_by_piece_equals_the_whole(pieces: list[str], opened: bool) -> None:
    start = THINKING_TAGS[0][0] if opened else ""
    stream = ThoughtStream(start)
    fed = [stream.feed(piece) for piece in pieces] + [stream.feed("", last=True)]
    thinking, answer = "".join(t for t, _ in fed), "".join(a for _, a in fed)
    whole = ThoughtStream(start)
    assert whole.feed("".join(pieces), last=True) == (thinking, answer)


@pytest.mark.parametrize(("opening", "closing"), THINKING_TAGS)
def test_no_part_of_a_tag_is_ever_shown(opening: str, closing: str) -> None:
    text = f"{opening}idea{closing}\n\nanswer"
    stream = ThoughtStream()
    fed = [stream.feed(letter) for letter in text] + [stream.feed("", last=True)]
    assert "".join(t for t, _ in fed) == "idea"
    assert "".join(a for _, a in fed) == "answer"
