"""JSON as bytes for every answer: half a character pair, which JSON can say and UTF-8 cannot, becomes a question mark."""

from __future__ import annotations

import json
from typing import Any

from fastapi.responses import JSONResponse

ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def json_bytes(content: Any) -> bytes:
    """One line of JSON."""
    return ENCODER.encode(content).encode("utf-8", "replace")


class JsonAnswer(JSONResponse):
    """A whole answer."""

    def render(self, content: Any) -> bytes:
        """Its body."""
        return json_bytes(content)
