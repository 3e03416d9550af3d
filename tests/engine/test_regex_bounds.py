"""Regular expressions: what says nothing is left out, what would take native code too long is refused by its size."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modules.core.errors import InvalidRequest
from modules.engine.regex_bounds import bounded_regex


@pytest.mark.parametrize(("given", "kept"), [
    ("^a+?b{2,3}?$", "a+b{2,3}"), (r"a\$", r"a\$"), (r"a\\$", r"a\\"), ("^$", ""), ("[]^a]+", "[]^a]+"), (r"[^\]+?]*?x", r"[^\]+?]*x"),
    ("(?:a|b)*?c", "(?:a|b)*c"), ("(?i)abc", "(?i)abc"), ("[[:alpha:]]+", "[[:alpha:]]+"), (r"\p{L}{3}\x{41}", r"\p{L}{3}\x{41}"), ("a++b*+", "a+b*"), ("a{,5}?", "a{,5}"),
])  # fmt: skip
def test_anchors_at_the_ends_and_lazy_marks_are_left_out(given: str, kept: str) -> None:
    assert bounded_regex(given) == kept


@pytest.mark.parametrize(("regex", "words"), [
    ("(" * 65 + ")" * 65, "more than 64 groups"), ("a{20001}", "too large"), ("(a{150}){150}", "too large"), ("((ab){100}c){100}d{100}", "too large"),
    ("a{99999999999999999999}", "too large"), ("a{5,30000}", "too large"), ("x" * 20_001, "too large"), ("(([ab]{30})?){700}", "too large"),
])  # fmt: skip
def test_what_is_too_large_is_refused(regex: str, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words) as refused:
        bounded_regex(regex)
    assert refused.value.details["field"] == "regex"


@pytest.mark.parametrize("regex", ["(" * 64 + "a" + ")" * 64, "a{20000}", "(a{100}){199}", "((a*)*)*", "x" * 8_000, ")))", "|||", "a|{3}"])
def test_what_is_not_is_kept(regex: str) -> None:
    assert bounded_regex(regex) == regex


@given(st.from_regex(re.compile(r"[ab]{1,3}([*+?]|\{1,3\})?"), fullmatch=True), st.sampled_from(["", "a", "ab", "aabb", "bbb"]))
def test_the_same_texts_fit(regex: str, text: str) -> None:
    assert bool(re.fullmatch(f"^{regex}$", text)) == bool(re.fullmatch(bounded_regex(f"^{regex}$"), text))


@given(st.text(alphabet=r"ab\[](){}|*+?^$,09", max_size=40))
def test_any_text_is_read_to_its_end(text: str) -> None:
    """Letters are never lost: what is left out is anchors, and marks behind repeats."""
    assert [letter for letter in bounded_regex(text) if letter in "ab09|()"] == [letter for letter in text if letter in "ab09|()"]
