"""LoRA adapters on a model that llama.cpp loaded: GGUF files as they are, PEFT folders converted first.

Everything that can be said about fitting is said from headers, before native code reads the file. Knows nothing of slots: what they
hold was computed with the adapters of that time.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from modules.core.errors import AppError, NotFound, OutOfMemory, UnsupportedFormat
from modules.core.model import Adapter, in_use
from modules.loaders.adapter_facts import KnownVersions
from modules.loaders.gguf_header import read_gguf_header
from modules.loaders.llama_cpp.adapter_check import check_adapter
from modules.loaders.llama_cpp.adapter_file import converted
from modules.loaders.llama_cpp.c_api import NativeLog, library
from modules.loaders.llama_cpp.peft_adapter import BaseShape, stamp
from modules.loaders.llama_cpp.runner import LlamaCppRunner
from modules.loaders.machine import available_bytes, size_text


class AdapterSet:
    """The adapters of one model; each is read once and kept until the model is freed."""

    def __init__(self, model: int, runner: LlamaCppRunner, log: NativeLog, base: BaseShape) -> None:
        self._model = model
        self._runner = runner
        self._log = log
        self._base = base
        self._loaded: dict[tuple[str, int], int] = {}
        self._known = KnownVersions()

    def apply(self, adapters: Sequence[Adapter]) -> None:
        """Put exactly these adapters into use. One that was read before is not read again, also for another scale.

        Raises:
            NotFound: no such file or folder.
            Conflict: its files are of another version than was asked for.
            UnsupportedFormat: not an adapter for this model; nothing has changed then.
            OutOfMemory: it does not fit into memory.
        """
        chosen = [(self._loaded[self._key(adapter)], adapter.scale) for adapter in in_use(adapters)]
        if not self._runner.set_adapters(chosen):
            raise AppError("llama.cpp refused this combination of adapters; apply them one at a time.")

    def _key(self, adapter: Adapter) -> tuple[str, int]:
        """By what this adapter is loaded; one that was read before is found without a look at the disk, where it may be gone."""
        key = self._known.key(adapter)
        if key is None:
            path = Path(adapter.path)
            if not path.exists():
                raise NotFound(f"There is no adapter {path.name}; refresh the list.")
            key = (str(path), stamp(path) if path.is_dir() else path.stat().st_mtime_ns)
            self._known.check(adapter)
            if key not in self._loaded:
                with converted(path, self._base) if path.is_dir() else nullcontext(path) as file:
                    self._loaded[key] = self._read(file, path.name)
            self._known.add(adapter, key)
        return key

    def _read(self, path: Path, name: str) -> int:
        header = read_gguf_header(path)
        check_adapter(name, header, self._base)
        if header.size_bytes > (free := available_bytes()):
            raise OutOfMemory(f"The adapter {name} needs {size_text(header.size_bytes)} of memory and {size_text(free)} is free; unload a model.")
        self._log.listen()
        try:
            pointer: Any = library().llama_adapter_lora_init(self._model, str(path).encode())
        finally:
            self._log.silence()
        if not pointer:
            raise UnsupportedFormat(f"{name} does not fit this model: {self._log.errors() or 'llama.cpp gave no reason'}.")
        return int(ctypes.cast(pointer, ctypes.c_void_p).value or 0)
