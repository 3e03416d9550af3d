"""LoRA adapters on a model that llama.cpp loaded: GGUF files as they are, PEFT folders converted first.

Everything that can be said about fitting is said from headers, before native code reads the file. Knows nothing of slots: what they
hold was computed with the adapters of that time.
"""

from __future__ import annotations

import ctypes
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modules.core.errors import AppError, NotFound, OutOfMemory, UnsupportedFormat
from modules.core.model import Adapter, in_use
from modules.loaders.gguf_header import TENSOR_TYPES, GgufHeader, Tensor, read_gguf_header
from modules.loaders.llama_cpp.adapter_file import converted
from modules.loaders.llama_cpp.c_api import NativeLog, library
from modules.loaders.llama_cpp.peft_adapter import BaseShape, stamp
from modules.loaders.llama_cpp.runner import LlamaCppRunner
from modules.loaders.machine import available_bytes, size_text

LAYER = re.compile(r"blk\.([0-9]{1,6})\.")
WHOLE_NUMBERS = frozenset({"I8", "I16", "I32", "I64", "F64"})  # llama.cpp ends the process when it multiplies by these
EMBEDDING = "token_embd.weight"  # looked up, not multiplied: its first weight lies the other way round


class AdapterSet:
    """The adapters of one model; each is read once and kept until the model is freed."""

    def __init__(self, model: int, runner: LlamaCppRunner, log: NativeLog, base: BaseShape) -> None:
        self._model = model
        self._runner = runner
        self._log = log
        self._base = base
        self._loaded: dict[tuple[str, int], int] = {}

    def apply(self, adapters: Sequence[Adapter]) -> None:
        """Put exactly these adapters into use. One that was read before is not read again, also for another scale.

        Raises:
            NotFound: no such file or folder.
            UnsupportedFormat: not an adapter for this model; nothing has changed then.
            OutOfMemory: it does not fit into memory.
        """
        chosen = [(self._pointer(Path(adapter.path)), adapter.scale) for adapter in in_use(adapters)]
        if not self._runner.set_adapters(chosen):
            raise AppError("llama.cpp refused this combination of adapters; apply them one at a time.")

    def _pointer(self, path: Path) -> int:
        if not path.exists():
            raise NotFound(f"There is no adapter {path.name}; refresh the list.")
        key = (str(path), stamp(path) if path.is_dir() else path.stat().st_mtime_ns)
        if key not in self._loaded:
            if path.is_dir():
                with converted(path, self._base) as file:
                    self._loaded[key] = self._read(file, path.name)
            else:
                self._loaded[key] = self._read(path, path.name)
        return self._loaded[key]

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


def check_adapter(name: str, header: GgufHeader, base: BaseShape) -> None:
    """Whether a GGUF adapter fits a model.

    Raises:
        UnsupportedFormat: it does not, with the first thing that does not fit.
    """
    if header.kind != "adapter" or header.metadata.get("adapter.type") != "lora":
        raise UnsupportedFormat(f"{name} is not a LoRA adapter but a GGUF {header.kind}; choose another file.")
    if header.architecture != base.architecture:
        raise UnsupportedFormat(
            f"{name} was made for {header.architecture} models and this one is {base.architecture}; choose the adapter's base model."
        )
    alpha = header.metadata.get("adapter.lora.alpha", 0.0)
    if not isinstance(alpha, float) or not math.isfinite(alpha):
        raise UnsupportedFormat(f"{name} is damaged: its alpha is {str(alpha)[:40]}; download it again.")
    if "adapter.alora.invocation_tokens" in header.metadata:
        raise UnsupportedFormat(f"{name} acts only after certain words (aLoRA), which Paddock does not do; choose a plain LoRA adapter.")
    sides: dict[str, dict[str, Tensor]] = {}
    for tensor in header.tensors:
        target, _, side = tensor.name.rpartition(".lora_")
        if target and side in ("a", "b"):
            sides.setdefault(target, {})[side] = tensor
    for target, pair in sides.items():
        _check_pair(name, target, pair, base)


def _check_pair(name: str, target: str, pair: dict[str, Tensor], base: BaseShape) -> None:
    layer = LAYER.match(target)
    if layer and int(layer[1]) >= base.layers:
        raise UnsupportedFormat(f"{name} changes layer {int(layer[1]) + 1} and this model has {base.layers} layers; choose the adapter's base model.")
    if target not in base.shapes:
        raise UnsupportedFormat(f"{name} changes {target[:80]}, which this model does not have; choose the adapter's base model.")
    if len(pair) != 2:
        raise UnsupportedFormat(f"{name} is damaged: {target} has only one of its two weights; download it again.")
    kinds = [TENSOR_TYPES.get(tensor.type_id, ("", 0, 0))[0] for tensor in pair.values()]
    if any(not kind or kind in WHOLE_NUMBERS for kind in kinds):
        raise UnsupportedFormat(f"{name} stores {target} in a form that llama.cpp cannot multiply by; convert it to F16 again.")
    model, first, second = (_four(shape) for shape in (base.shapes[target], pair["a"].shape, pair["b"].shape))
    if target == EMBEDDING:
        rank, inputs, other, outputs = first[0], first[1], second[0], second[1]
        wanted = model[1], model[0]
    else:
        rank, inputs, other, outputs = first[1], first[0], second[0], second[1]
        wanted = model[0], model[1]
    if (inputs, outputs) != wanted or first[2:] != model[2:] or second[2:] != model[2:]:
        raise UnsupportedFormat(
            f"{name} was made for another model: at {target} it has {inputs} × {outputs} where this one has {wanted[0]} × {wanted[1]}; "
            "choose the adapter's base model."
        )
    if rank != other or rank > max(wanted):
        raise UnsupportedFormat(f"{name} is damaged: the weights for {target} have ranks {rank} and {other}; download it again.")


def _four(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape, 1, 1, 1, 1)[:4]
