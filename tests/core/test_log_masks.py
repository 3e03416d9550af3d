"""Lines of a log: keys become three dots wherever they come from, everything else stays."""

from __future__ import annotations

import logging

import pytest

from modules.core.log_masks import MaskedFormatter, masked, without_query


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("token hf_abcDEF123456 refused", "token hf_… refused"),
        ("Authorization: Bearer abc.def-123", "Authorization: Bearer …"),
        ("{'authorization': 'Basic dXNlcjpwdw=='}", "{'authorization': 'Basic …'}"),
        ("x-api-key=0123456789&a=b", "x-api-key=…&a=b"),
        ("sk-proj-0123456789abcdef", "sk-…"),
        ("password: hunter22, user: me", "password: …, user: me"),
        ("bearer 0123456789", "bearer …"),
        ("12 tokens: 5 new; risk-free task-list, half_way", "12 tokens: 5 new; risk-free task-list, half_way"),
        ("the key of a dictionary: value", "the key of a dictionary: value"),
    ],
)
def test_what_looks_like_a_secret_is_masked(text: str, shown: str) -> None:
    assert masked(text) == shown


def test_a_traceback_is_masked_too() -> None:
    try:
        raise ValueError("Bearer abcdefghijkl")
    except ValueError:
        import sys

        record = logging.LogRecord("a", logging.ERROR, "f", 1, "it failed", (), sys.exc_info())
    text = MaskedFormatter("%(message)s").format(record)
    assert "Traceback" in text and "abcdefghijkl" not in text


def test_a_line_about_a_request_has_no_query() -> None:
    record = logging.LogRecord("uvicorn.access", logging.INFO, "f", 1, '%s - "%s %s HTTP/%s" %d', ("::1", "GET", "/ui/conversations?search=secret", "1.1", 200), None)
    assert without_query(record)
    assert record.getMessage() == '::1 - "GET /ui/conversations HTTP/1.1" 200'
