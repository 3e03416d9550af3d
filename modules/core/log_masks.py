"""What a log must not hold: keys that libraries or addresses bring along, and what people search for. Knows no library but `logging`."""

from __future__ import annotations

import logging
import re

SECRET = re.compile(
    r"\b(hf_|sk-|gsk_|xai-|ghp_)[A-Za-z0-9_-]{6,}"  # by how keys begin
    r"|(\b(?:authorization|x-api-key|api[_-]?key|token|password)\b[\"']?\s*[:=]\s*[\"']?(?:bearer\s+|basic\s+)?)[^\s\"',&;]{4,}"  # by what stands before them
    r"|(\bbearer\s+)[A-Za-z0-9._~+/=-]{8,}",
    re.IGNORECASE,
)
ACCESS_ARGUMENTS = 5  # of a line about a request: client, method, address, version of HTTP, status


def masked(text: str) -> str:
    """A text in which what looks like a secret is three dots."""
    return SECRET.sub(lambda found: f"{found[1] or found[2] or found[3]}…", text)


class MaskedFormatter(logging.Formatter):
    """Masks whole lines, tracebacks too."""

    def format(self, record: logging.LogRecord) -> str:
        """A line without secrets."""
        return masked(super().format(record))


def without_query(record: logging.LogRecord) -> bool:
    """A filter for lines about requests: what stands behind a question mark is a person's, or a key that does not belong there."""
    if isinstance(record.args, tuple) and len(record.args) == ACCESS_ARGUMENTS:
        client, method, address, *rest = record.args
        record.args = (client, method, str(address).partition("?")[0], *rest)
    return True
