"""Small facts about an adapter's files: which parts of a model it changes, and a word that changes whenever the files do.

Reads headers and file times only; whether an adapter fits a model is the loaders' business.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from modules.loaders.folder_header import read_weight_header
from modules.loaders.gguf_header import read_gguf_header

WEIGHTS = "adapter_model.safetensors"
PEFT_PART = re.compile(r"([A-Za-z0-9_]{1,60})\.lora_(?:A|embedding_A)\b")
GGUF_PART = re.compile(r"(?:blk\.[0-9]+\.)?(.{1,60})\.weight\.lora_a")


def targets(path: Path) -> tuple[str, ...]:
    """Names of the kinds of weights that an adapter changes, as its own file calls them.

    Raises:
        UnsupportedFormat: damaged.
    """
    if path.is_dir():
        found = (PEFT_PART.search(name) for name in read_weight_header(path / WEIGHTS))
    else:
        found = (GGUF_PART.fullmatch(tensor.name) for tensor in read_gguf_header(path).tensors)
    return tuple(sorted({match[1] for match in found if match}))


def files_version(path: Path) -> str:
    """A word for the present contents of a file, or of the files of a folder."""
    files = sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]
    states = [(file.name, state.st_mtime_ns, state.st_size) for file in files for state in (file.stat(),)]
    return hashlib.sha256(repr(states).encode()).hexdigest()[:16]
