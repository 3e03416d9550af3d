"""What a stream tells while its request waits for a slot: comments, which clients of server-sent events pass over, so that none takes silence for a dead server.

Source: WHATWG HTML, section "Server-sent events": a line that begins with a colon is ignored.
"""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modules.services.generation import ClientGeneration

COMMENT_S = 5.0  # between two comments of one stream


async def waiting_comments(generation: ClientGeneration) -> AsyncIterator[bytes]:
    """A comment with the place now and then, until the request has its slot or has ended."""
    told_s = -COMMENT_S
    while await generation.waits(COMMENT_S):
        if generation.place is not None and time.monotonic() - told_s >= COMMENT_S:
            told_s = time.monotonic()
            yield f": {waiting_words(generation.place, generation.expected_s)}\n\n".encode()


def waiting_words(place: int, expected_s: float | None) -> str:
    """Where somebody waits: "waiting, place 3, about 40 s"."""
    return f"waiting, place {place}" + ("" if expected_s is None else f", about {math.ceil(expected_s)} s")
