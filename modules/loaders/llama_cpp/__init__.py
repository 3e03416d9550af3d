"""The llama.cpp loader: GGUF files through the low-level C API of llama-cpp-python. Importing this package imports no native code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from modules.core.model import LoadedModel, LoadOptions
from modules.loaders.llama_cpp.options import LlamaCppOptions
from modules.loaders.spec import LoaderSpec, Progress

MAGIC = b"GGUF"


def _accepts(path: Path) -> bool:
    """Files of that ending; one without any, as Ollama keeps them, tells it by its first bytes."""
    if path.suffix or not path.is_file():
        return path.suffix.lower() == ".gguf" and path.is_file()
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def _load(path: Path, options: LoadOptions, progress: Progress, measured: Mapping[str, Any] | None = None) -> LoadedModel:
    from modules.loaders.llama_cpp.c_api import memory_given_back
    from modules.loaders.llama_cpp.loader import load
    from modules.loaders.llama_cpp.thread_notes import ThreadNotes

    notes = None if measured is None else ThreadNotes(measured)
    with memory_given_back():
        return load(path, LlamaCppOptions.model_validate(options.model_dump()), progress, known=notes)


def _adapter_check(model: Path) -> Callable[[Path], None]:
    from modules.loaders.llama_cpp.adapter_check import adapter_check

    return adapter_check(model)


LLAMA_CPP = LoaderSpec(
    name="llama.cpp",
    title="llama.cpp (GGUF)",
    requires=("llama-cpp-python", "numpy"),
    options=LlamaCppOptions,
    accepts=_accepts,
    load=_load,
    load_measured=_load,
    adapter_check=_adapter_check,
    capabilities=frozenset({"batch", "lora", "gpu", "kv_quantize", "embed"}),
)
