"""Memory that training holds: of the graphics card where there is one, or else of this process."""

from __future__ import annotations

import os
import sys

from modules.loaders.machine import peak_bytes, resident_bytes


def used_bytes() -> int:
    """What is held now; on a graphics card the most of the last step counts, since that is what must fit."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resident_bytes()


def most_bytes() -> int:
    """The most that was held so far."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return int(torch.cuda.max_memory_reserved())
    return peak_bytes(os.getpid())
