from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modules.engine.stopping import StopChecker


def reference(text: str, stops: tuple[str, ...]) -> tuple[str, str | None]:
    """Character by character: cut where the first stop string is completed; of those ending there, the longest."""
    for end in range(1, len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            longest = max(ending, key=len)
            return text[: end - len(longest)], longest
    return text, None


def run(pieces: list[str], stops: tuple[str, ...]) -> tuple[str, str | None, list[str]]:
    checker = StopChecker(stops)
    shown = []
    for piece in pieces:
        text, stop = checker.feed(piece)
        shown.append(text)
        if stop is not None:
            return "".join(shown), stop, shown
    shown.append(checker.flush())
    return "".join(shown), None, shown


alphabet = st.text("ab\n", max_size=12)
stop_sets = st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=4).map(tuple)


@given(st.lists(alphabet, max_size=8), stop_sets)
def test_any_split_gives_the_reference(pieces, stops):
    text, stop, shown = run(pieces, stops)
    assert (text, stop) == reference("".join(pieces), stops)
    # what was shown at any time is a prefix of the final text: nothing is ever taken back
    seen = ""
    for part in shown:
        seen += part
        assert text.startswith(seen)


@given(st.text("ab", max_size=20), stop_sets.filter(bool))
def test_nothing_more_than_needed_is_held_back(text, stops):
    checker = StopChecker(stops)
    seen = ""
    for character in text:
        shown, stop = checker.feed(character)
        if stop is not None:
            return
        seen += shown
    held = checker.flush()
    assert held == "" or any(stop.startswith(held) and stop != held for stop in stops)


def test_the_longest_of_those_that_end_together_wins():
    assert run(["x\nUser:"], ("User:", "\nUser:"))[:2] == ("x", "\nUser:")


def test_without_stop_strings_text_passes_through():
    checker = StopChecker(())
    assert checker.feed("anything") == ("anything", None)
    assert checker.flush() == ""


@pytest.mark.parametrize("stops", [("",), ("", "b")])
def test_an_empty_stop_string_stops_nothing(stops):
    assert StopChecker(stops).feed("a") == ("a", None)
