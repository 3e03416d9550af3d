"""Regular expressions: what says nothing is left out, what would take native code too long is refused by its size, and what cannot be followed by its name."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modules.core.errors import InvalidRequest
from modules.engine.regex_bounds import bounded_regex, split_ahead


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


@pytest.mark.parametrize(("regex", "words"), [
    ("(?=a)b", "look-around"), ("a(?!b)", "look-around"), ("(?<=a)b", "look-around"), ("(?<!a)b", "look-around"), (r"\bfoo\b", "look-around"), (r"(a)\1", "refers back"),
    (r"(?P<x>a)\k<x>", "refers back"),
])  # fmt: skip
def test_what_looks_around_or_back_is_refused_with_a_sentence(regex: str, words: str) -> None:
    with pytest.raises(InvalidRequest, match=rf"{words}.*while a text is written\. Write .*\.$"):
        bounded_regex(regex)


@pytest.mark.parametrize("regex", [r"\(?=a", r"[(?=]b", r"(?<name>a)(?:b)(?i:c)", r"\\b", r"[\b]"])
def test_what_only_seems_to_look_around_is_kept(regex: str) -> None:
    assert bounded_regex(regex) == regex


@pytest.mark.parametrize(("regex", "parts"), [
    (r"^(?=.*[a-z])(?=.*\d).{8,}$", [r"^.*[a-z]", r"^.*\d", "^.{8,}$"]), (r"^(?=a|[)]\))b", [r"^(?:a|[)]\))", "^b"]), ("^(?=(a|b)c)(d|e)$", ["^(a|b)c", "^(d|e)$"]),
    ("(?=a)b", []), ("^a(?=b)", []), ("^(?=a)b|c", []), ("^(?!a)b", []), ("^(?=a", []), ("^abc$", []), ("", []),
])  # fmt: skip
def test_what_is_looked_ahead_for_at_the_beginning_becomes_an_expression_of_its_own(regex: str, parts: list[str]) -> None:
    assert split_ahead(regex) == parts


def test_only_so_many_looks_ahead_become_expressions() -> None:
    assert len(split_ahead("^" + "(?=a)" * 32 + "b")) == 33
    with pytest.raises(InvalidRequest, match="look-around"):
        bounded_regex(split_ahead("^" + "(?=a)" * 33 + "b")[-1])


@given(st.text(alphabet=r"ac\[](){}|*+?^$,0", max_size=40))
def test_any_text_is_read_to_its_end(text: str) -> None:
    """Letters are never lost: what is left out is anchors, and marks behind repeats."""
    assert [letter for letter in bounded_regex(text) if letter in "ac0|()"] == [letter for letter in text if letter in "ac0|()"]
