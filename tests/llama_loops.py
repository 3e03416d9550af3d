"""What the installed llama.cpp was compiled with (installer/headers), by what stands in its library. Imports nothing of it."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from modules.loaders.machine import has_tiles

PROCESSOR = Path("/proc/cpuinfo").read_text("ascii") if Path("/proc/cpuinfo").is_file() else ""
WITH_PRODUCTS = re.compile(rb"paddock loops v[0-9a-f]+(?: NO_BARRIER)?(?: NO_HEADS)?;")


def has_products() -> bool:
    """Whether there are products of ours, for this processor, and llama.cpp has none of its own with tiles."""
    found = importlib.util.find_spec("llama_cpp")
    if found is None or found.origin is None or has_tiles() or "avx2" not in PROCESSOR:
        return False
    return any(WITH_PRODUCTS.search(file.read_bytes()) for file in (Path(found.origin).parent / "lib").glob("*ggml-cpu*"))


def takes_four_bits() -> bool:
    """Whether Q4_0, Q4_K, IQ4_NL and MXFP4 are among them, in the order of their file."""
    return has_products() and "avx512f" not in PROCESSOR
