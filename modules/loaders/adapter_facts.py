"""Small facts about an adapter's files: which parts of a model it changes, and a word that changes whenever the files do.

Reads headers and file times only; whether an adapter fits a model is the loaders' business.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from modules.core.errors import Conflict, NotFound
from modules.core.model import Adapter
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


class KnownVersions:
    """Which adapters, in which version of their files, a model has read: they can be used again when the files are gone or others."""

    def __init__(self) -> None:
        self._keys: dict[tuple[str, str], tuple[str, int]] = {}

    def key(self, adapter: Adapter) -> tuple[str, int] | None:
        """By what the loader keeps this adapter; None for one that it has not read, or that names no version."""
        return self._keys.get((adapter.path, adapter.version)) if adapter.version else None

    def add(self, adapter: Adapter, key: tuple[str, int]) -> None:
        """Remember one that was read."""
        if adapter.version:
            self._keys[adapter.path, adapter.version] = key

    def forget(self, key: tuple[str, int]) -> None:
        """What the loader no longer keeps must be read again."""
        self._keys = {version: kept for version, kept in self._keys.items() if kept != key}

    @staticmethod
    def check(adapter: Adapter) -> None:
        """See that the files are of the version that was asked for.

        Raises:
            Conflict: they were replaced since.
            NotFound: they were removed just now.
        """
        path = Path(adapter.path)
        try:
            is_same = not adapter.version or files_version(path) == adapter.version
        except OSError:
            raise NotFound(f"The adapter {path.name} was removed just now; refresh the list.") from None
        if not is_same:
            raise Conflict(f"The files of the adapter {path.name} were replaced since this was asked for; send it again.")
