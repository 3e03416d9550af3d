"""Lore: which entries join, in which order, and what the budget leaves out."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modules.prompts.lorebook import TOKEN_BUDGET_LIMIT, Lore, read_lorebook


def entry(keys: list[str], content: str, **more: Any) -> dict[str, Any]:
    return {"keys": keys, "content": content, "enabled": True, "insertion_order": 0, "extensions": {}, **more}


def lore(said: str | list[str], *entries: dict[str, Any], **book: Any) -> Lore:
    return read_lorebook({"entries": list(entries), **book}).lore([said] if isinstance(said, str) else said, len)


def after(said: str | list[str], *entries: dict[str, Any], **book: Any) -> tuple[str, ...]:
    return lore(said, *entries, **book).after


@pytest.mark.parametrize(
    ("said", "key", "fires"),
    [
        ("the Cat sleeps", "cat", True), ("a category", "cat", False), ("cat", "cat", True), ("concat", "cat", False), ("cat's", "cat", True),
        ("an old map of it", "old map", True), ("その犬は", "犬", True), ("C++ code", "C++", True), ("nothing", "cat", False), ("STRASSE", "straße", True),
    ],
)  # fmt: skip
def test_a_key_is_found_as_a_word(said: str, key: str, fires: bool) -> None:
    assert after(said, entry([key], "lore")) == (("lore",) if fires else ())


def test_entries_that_are_off_or_cannot_be_tried_never_join() -> None:
    said = "cat"
    assert after(said, entry(["cat"], "off", enabled=False)) == ()
    assert after(said, entry(["(a+)+$", "cat"], "pattern", use_regex=True)) == ()
    assert after(said, entry([], "no key"), entry(["cat"], "")) == ()


def test_case_second_keys_and_constant_entries() -> None:
    assert after("cat", entry(["Cat"], "x", case_sensitive=True)) == ()
    second = entry(["cat"], "x", selective=True, secondary_keys=["milk"])
    assert after("cat", second) == ()
    assert after("cat and milk", second) == ("x",)
    assert after("cat", {**second, "selective": False}) == ("x",)
    assert after("silence", entry([], "always", constant=True)) == ("always",)


def test_only_the_last_messages_are_looked_at() -> None:
    said = ["cat", "one", "two"]
    assert after(said, entry(["cat"], "x"), scan_depth=2) == ()
    assert after(said, entry(["cat"], "x"), scan_depth=3) == ("x",)


def test_order_place_and_budget() -> None:
    entries = (
        entry(["a"], "third", insertion_order=30, priority=1), entry(["a"], "first", insertion_order=10, priority=3),
        entry(["a"], "before", insertion_order=20, position="before_char", priority=2),
    )  # fmt: skip
    assert lore("a", *entries, token_budget=100) == Lore(("before",), ("first", "third"), 0)
    assert lore("a", *entries, token_budget=11) == Lore(("before",), ("first",), 1)
    assert lore("a", *entries, token_budget=6) == Lore((), ("first",), 2)
    assert read_lorebook({"token_budget": 10**30}).token_budget < TOKEN_BUDGET_LIMIT


def test_lore_calls_for_more_lore_only_where_the_book_says_so() -> None:
    entries = (entry(["cat"], "The cat drinks milk."), entry(["milk"], "Milk is white."), entry(["white"], "White is a colour."))
    assert after("cat", *entries) == ("The cat drinks milk.",)
    assert len(after("cat", *entries, recursive_scanning=True)) == 3


def test_lines_for_other_programs_are_left_out_of_the_content() -> None:
    assert after("cat", entry(["cat"], "@@depth 3\n@@role system\nWhiskers.")) == ("Whiskers.",)


@pytest.mark.parametrize("book", [None, [], "x", 3, {"entries": 5}, {"entries": [None, 1, {"keys": 3, "content": []}]}, {"scan_depth": "x", "token_budget": -1}])
def test_a_book_of_another_kind_is_an_empty_one(book: Any) -> None:
    assert read_lorebook(book).lore(["anything"], len) == Lore()


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
    st.sampled_from(["entries", "keys", "content", "enabled", "insertion_order", "priority", "secondary_keys", "scan_depth", "token_budget", "position"]), inner, max_size=5), max_leaves=20))  # fmt: skip
def test_nothing_in_a_card_makes_lore_fail(book: Any) -> None:
    read_lorebook(book).lore(["a b c"], len)
