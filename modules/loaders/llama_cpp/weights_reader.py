"""Reading a model's weights with llama.cpp: which device and which memory they go to, and the right sentence where it refuses."""

from __future__ import annotations

import ctypes
from importlib import metadata
from types import MappingProxyType
from typing import Any

from modules.core.errors import LoadFailed, OutOfMemory, UnsupportedFormat
from modules.loaders.llama_cpp.c_api import NativeLog, kept_in_memory, library
from modules.loaders.llama_cpp.huge_pages import NewMemory, use_huge_pages
from modules.loaders.llama_cpp.options import LlamaCppOptions
from modules.loaders.llama_cpp.wide_weights import Weights
from modules.loaders.spec import Progress

SPLIT_MODES = MappingProxyType({"none": 0, "layer": 1, "row": 2, "tensor": 3})  # llama.h
MEMORY_WORDS = ("out of memory", "failed to allocate", "unable to allocate", "cudamalloc failed", "vk::device::allocatememory")


def read_weights(weights: Weights, options: LlamaCppOptions, progress: Progress, log: NativeLog, *, mapped: bool) -> int:
    """A model of llama.cpp's with its weights, mapped or in memory of its own, there in large pages.

    Raises:
        LoadFailed: llama.cpp refused it; as `refusal` says.
    """
    new = NewMemory()

    def report(share: float, _user_data: Any) -> bool:
        new.ask()  # it has its memory now, and nothing stands there yet
        progress("Reading weights", float(share))
        return True

    binding = library()
    params = binding.llama_model_default_params()
    params.n_gpu_layers = options.gpu_layers
    params.main_gpu = options.main_gpu
    params.load_mode = {
        (True, True): binding.LLAMA_LOAD_MODE_MMAP_MLOCK,
        (True, False): binding.LLAMA_LOAD_MODE_MMAP,
        (False, True): binding.LLAMA_LOAD_MODE_MLOCK,
        (False, False): binding.LLAMA_LOAD_MODE_NONE,
    }[mapped and not weights.wide, options.mlock]
    params.split_mode = SPLIT_MODES[options.split_mode]
    kept = kept_in_memory(options.kept_patterns)  # lives until the load is over
    if kept is not None:
        params.tensor_buft_overrides = ctypes.cast(kept, ctypes.c_void_p)
    shares = (ctypes.c_float * max(int(binding.llama_max_devices()), 16))(*options.split)
    if options.split:
        params.tensor_split = shares
    callback = binding.llama_progress_callback(report)  # lives until the load is over
    params.progress_callback = callback
    with weights.file(progress) as path:
        model = binding.llama_model_load_from_file(str(path).encode(), params)
    if not model:
        raise refusal(weights.stored.path.name, log)
    use_huge_pages()
    return int(model)


def refusal(name: str, log: NativeLog, options: LlamaCppOptions | None = None) -> LoadFailed:
    """The right error for what llama.cpp wrote before it gave up."""
    reason = log.errors() or "it gave no reason"
    lower = reason.lower()
    if any(word in lower for word in MEMORY_WORDS):
        return OutOfMemory(f"{name} does not fit into memory ({reason}); choose a smaller context, quantization or number of gpu_layers.")
    if "unknown model architecture" in lower or "unknown pre-tokenizer" in lower:
        version = metadata.version("llama-cpp-python")
        return UnsupportedFormat(f"The llama.cpp of llama-cpp-python {version} does not know {name} ({reason}); choose another model or update Paddock.")
    if options is not None and options.kv_type != "f16":
        return LoadFailed(f"{name} cannot have a {options.kv_type} cache ({reason}); set kv_type to f16.")
    if options is not None:
        return LoadFailed(f"llama.cpp could not make a context for {name}: {reason}. Try a smaller context or other options.")
    return UnsupportedFormat(f"llama.cpp could not load {name}: {reason}. Download it again or choose another model.")
