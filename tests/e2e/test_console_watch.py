"""What the watch over the page's console takes for an error, and what comes of leaving a page."""

from __future__ import annotations

import pytest

from tests.e2e.console_watch import ConsoleWatch

LEFT = "console: AbortError: signal is aborted without reason\n    at close (http://localhost/assets/index.js:4:1384)"
CUT = "console: Unexpected error Connection errored out.  (http://localhost/assets/index.js)"
REAL = "console: TypeError: x is undefined (http://localhost/assets/chat.js)"


@pytest.mark.parametrize(("seen", "left"), [([LEFT, CUT], []), ([LEFT, CUT, REAL], [REAL]), ([CUT], [CUT]), ([REAL], [REAL])])
def test_an_event_cut_by_leaving_is_no_error_and_everything_else_is(seen: list[str], left: list[str]) -> None:
    watch = ConsoleWatch("localhost:1")
    watch.complaints += seen
    assert watch.unexpected() == left


def test_what_a_test_allows_is_left_out() -> None:
    watch = ConsoleWatch("localhost:1")
    watch.complaints += [CUT, REAL]
    watch.allow("Connection errored out")
    assert watch.unexpected() == [REAL]
