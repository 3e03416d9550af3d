"""Whether a LoRA adapter fits a GGUF model, said from the headers of both: nothing is loaded, and native code is not needed.

Knows what llama.cpp can apply; for PEFT folders `peft_adapter` does.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

from modules.core.errors import NotFound, UnsupportedFormat
from modules.loaders.gguf_header import TENSOR_TYPES, GgufHeader, Tensor, read_gguf_header
from modules.loaders.llama_cpp.peft_adapter import BaseShape, base_shape, read_pairs
from modules.loaders.model_info import gguf_parts

LAYER = re.compile(r"blk\.([0-9]{1,6})\.")
WHOLE_NUMBERS = frozenset({"I8", "I16", "I32", "I64", "F64"})  # llama.cpp ends the process when it multiplies by these
EMBEDDING = "token_embd.weight"  # looked up, not multiplied: its first weight lies the other way round


def adapter_check(model: Path) -> Callable[[Path], None]:
    """A function that refuses adapters which do not fit a GGUF model, with a sentence; the model's header is read once.

    Raises:
        UnsupportedFormat: the model itself cannot be read.
    """
    base = base_shape(read_gguf_header(part) for part in gguf_parts(model))

    def check(adapter: Path) -> None:
        if adapter.is_dir():
            read_pairs(adapter, base)
        elif adapter.is_file():
            check_adapter(adapter.name, read_gguf_header(adapter), base)
        else:
            raise NotFound(f"There is no adapter {adapter.name}; refresh the list.")

    return check


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
