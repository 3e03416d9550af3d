"""Fitting: the oldest turns go, whole, only as many as needed, with few renderings."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modules.core.errors import ContextOverflow
from modules.core.messages import Message
from modules.prompts.fitting import character_limit, fit_chat, room_tokens, without_hopeless


def said(roles: str, length: int = 10) -> tuple[Message, ...]:
    """A letter a message; a capital one is pinned."""
    names = {"s": "system", "u": "user", "a": "assistant", "t": "tool", "d": "developer"}
    return tuple(
        Message.model_validate({"role": names[role.lower()], "content": f"{i:0{length}}", "pinned": role.isupper()}) for i, role in enumerate(roles)
    )


class Counter:
    """One token a character; remembers what it was asked."""

    def __init__(self, refuse_above: int = 10**9) -> None:
        self.asked: list[tuple[Message, ...]] = []
        self.refuse_above = refuse_above

    def __call__(self, messages: tuple[Message, ...]) -> list[int]:
        self.asked.append(messages)
        ids = [ord(letter) for message in messages for letter in message.content]
        if len(ids) > self.refuse_above:
            raise ContextOverflow("too much text")
        return ids


def kept(counter: Counter, token_ids: list[int]) -> list[int]:
    text = "".join(map(chr, token_ids))
    return [int(text[i : i + 10]) for i in range(0, len(text), 10)]


@pytest.mark.parametrize(
    ("roles", "limit", "expected"),
    [
        ("suaua", 50, [0, 1, 2, 3, 4]),
        ("suaua", 49, [0, 3, 4]),
        ("suauau", 40, [0, 3, 4, 5]),
        ("suauau", 39, [0, 5]),
        ("auau", 35, [1, 2, 3]),  # a greeting goes first
        ("uatatau", 69, [6]),  # tools belong to their question
        ("sduauau", 40, [0, 1, 6]),
        ("uasuau", 39, [2, 5]),  # a system message in the middle stays
        ("uuu", 25, [1, 2]),
        ("uaua", 20, [2, 3]),  # a reply that is continued stays with its question
        ("sUauauau", 60, [0, 1, 2, 5, 6, 7]),  # what is pinned stays, with its reply
        ("suAuauau", 49, [0, 1, 2, 7]),  # or with its question
        ("Auauau", 35, [0, 5]),  # a greeting too
        ("uaUAuau", 50, [2, 3, 4, 5, 6]),
        ("uaUsAuau", 40, [2, 3, 4, 7]),  # turns keep their order
    ],
)
def test_what_stays(roles: str, limit: int, expected: list[int]) -> None:
    counter = Counter()
    fitted = fit_chat(said(roles), count=counter, limit_tokens=limit)
    assert kept(counter, fitted.token_ids) == expected
    assert fitted.dropped == len(roles) - len(expected)


@pytest.mark.parametrize(("roles", "limit", "got"), [("sua", 20, 30), ("suau", 19, 20), ("u", 9, 10), ("sa", 19, 20), ("s", 1, 10)])
def test_nothing_more_may_go(roles: str, limit: int, got: int) -> None:
    with pytest.raises(ContextOverflow) as caught:
        fit_chat(said(roles), count=Counter(), limit_tokens=limit)
    assert f"needs {got} tokens, and there is room for {limit}." in caught.value.message
    assert (caught.value.details["limit"], caught.value.details["got"]) == (limit, got)


def test_refusing_drops_nothing() -> None:
    counter = Counter()
    with pytest.raises(ContextOverflow, match="needs 50 tokens, and there is room for 49"):
        fit_chat(said("suaua"), count=counter, limit_tokens=49, policy="refuse")
    assert len(counter.asked) == 1


def test_too_much_that_is_pinned_says_so() -> None:
    with pytest.raises(ContextOverflow, match=r"the pinned messages before it, needs 40 tokens, and there is room for 39\. Unpin some"):
        fit_chat(said("sUauau"), count=Counter(), limit_tokens=39)


def test_the_room_keeps_space_for_the_reply() -> None:
    assert room_tokens(1024, None) == 768
    assert room_tokens(1024, 100) == 924
    assert room_tokens(100_000, 4_000) == 100_000 - 512
    assert room_tokens(1024, None, "refuse") == 1023


def test_a_text_too_long_to_count_is_shortened_too() -> None:
    counter = Counter(refuse_above=100)
    fitted = fit_chat(said("ua" * 50 + "u"), count=counter, limit_tokens=1000)
    assert len(kept(counter, fitted.token_ids)) == 9
    with pytest.raises(ContextOverflow, match="more text than can be rendered"):
        fit_chat(said("u", 101), count=Counter(refuse_above=100), limit_tokens=1000)


@settings(deadline=None)
@given(st.text("suaUA", max_size=40), st.integers(1, 30), st.integers(1, 300))
def test_what_surely_has_no_room_is_not_rendered_and_nothing_else_is_left_out(roles: str, length: int, limit: int) -> None:
    messages, limit_characters = said(roles + "u", length), 200
    plain, quick, cut = (Counter(refuse_above=limit_characters) for _ in range(3))
    shortened = without_hopeless(messages, limit_characters)
    found = []
    for counter, asked, more in ((plain, messages, None), (quick, messages, limit_characters), (cut, shortened, limit_characters)):
        try:
            found.append(fit_chat(asked, count=counter, limit_tokens=limit, limit_characters=more).token_ids)
        except ContextOverflow as error:
            found.append([len(error.message)])
    assert found[0] == found[1] == found[2]
    assert all(sum(len(message.content) for message in proposed) <= limit_characters for proposed in quick.asked + cut.asked)
    assert len(quick.asked) <= len(plain.asked)


def test_how_long_it_is_is_told_where_nothing_may_go() -> None:
    with pytest.raises(ContextOverflow, match="needs 50 tokens"):
        fit_chat(said("suaua"), count=Counter(), limit_tokens=49, limit_characters=30, policy="refuse")


def test_spaces_around_a_content_do_not_count() -> None:
    padded = (Message(role="user", content="a" + " " * 90), *said("au"))
    assert without_hopeless(padded, 21) == padded
    assert without_hopeless(padded, 20) == padded[2:]
    assert (character_limit(10), character_limit(1000)) == (4096, 16_000)


@settings(deadline=None)
@given(st.integers(0, 400), st.booleans(), st.integers(10, 4100))
def test_as_few_as_possible_with_few_renderings(turns: int, system: bool, limit: int) -> None:
    messages = said("s" * system + "ua" * turns + "u")
    counter = Counter()
    fixed = 10 * (1 + system)
    if limit < fixed:
        with pytest.raises(ContextOverflow):
            fit_chat(messages, count=counter, limit_tokens=limit)
        return
    fitted = fit_chat(messages, count=counter, limit_tokens=limit)
    assert len(fitted.token_ids) == min(10 * len(messages), fixed + (limit - fixed) // 20 * 20)
    assert fitted.dropped == len(messages) - len(fitted.token_ids) // 10
    assert len(counter.asked) <= 3 + math.log2(turns + 1)
