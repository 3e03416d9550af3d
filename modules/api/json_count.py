"""How much a body of JSON consists of, counted while it arrives: many small values cost far more time than as many bytes of text.

Knows where strings begin and end and no other grammar: what is no JSON is refused by who reads it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MOST_GROUPS = 20_000  # lists and objects
MOST_VALUES = 100_000  # of all kinds
MOST_VALUES_WITH_IDS = 1_200_000  # where token ids are sent, which are read fast
WITH_IDS = frozenset({"/v1/completions", "/v1/embeddings", "/v1/internal/decode"})
API_PREFIXES = ("/v1/", "/api/")
PAGE_PREFIX = "/ui/"
WHOLE_CONVERSATION = "/ui/conversations/import"  # as long as it has to be
# Replaced by nothing, and not by what they begin and end with: that takes this Python five times as long where strings are short
STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*"', re.DOTALL)
TO_THE_OPEN_ONE = re.compile(rb'[^"]*+(?:"[^"\\]*+(?:\\.[^"\\]*+)*"[^"]*+)*', re.DOTALL)  # the last string may end in what has not come yet


@dataclass(frozen=True)
class JsonLimits:
    """How much a body may consist of."""

    groups: int = MOST_GROUPS
    values: int = MOST_VALUES


def limits_of(path: str, content_type: str) -> JsonLimits | None:
    """The limits of a body at an address; None where nobody reads JSON. Programs may call theirs what they like."""
    if path.startswith(API_PREFIXES) or (path.startswith(PAGE_PREFIX) and "json" in content_type.lower() and path != WHOLE_CONVERSATION):
        return JsonLimits(values=MOST_VALUES_WITH_IDS) if path in WITH_IDS else JsonLimits()
    return None


class JsonCount:
    """Counts lists, objects and values in the pieces of a body."""

    def __init__(self) -> None:
        self.groups = self.values = 0
        self._open = b""  # how the string began in which the last piece ended
        self._wide = False

    def add(self, piece: bytes) -> None:
        """Count one more piece."""
        rest = self._open + piece
        self._wide = self._wide or b"\0" in piece  # UTF-16 or 32: quotes and backslashes are no longer neighbours, so what is in strings counts too
        if not self._wide:
            begun = TO_THE_OPEN_ONE.sub(b"", rest, count=1)
            rest = STRING.sub(b"", rest[: len(rest) - len(begun)])
            self._open = b"" if not begun else b'"\\' if (len(begun) - len(begun.rstrip(b"\\"))) % 2 else b'"'
        groups = rest.count(b"[") + rest.count(b"{")
        self.groups += groups
        self.values += groups + rest.count(b",")

    def beyond(self, limits: JsonLimits) -> str:
        """What there is too much of, in a sentence; empty where all is within its limits."""
        if self.groups > limits.groups:
            return (
                f"The request consists of {self.groups:,} lists and objects or more, and at most {limits.groups:,} are accepted. "
                "Put pieces of text that follow each other together, or leave the oldest messages out."
            )
        if self.values > limits.values:
            return f"The request consists of {self.values:,} values or more, and at most {limits.values:,} are accepted. Send fewer at a time."
        return ""
