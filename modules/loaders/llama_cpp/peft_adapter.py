"""A PEFT LoRA folder as llama.cpp needs it: which matrix of the model each pair of weights changes, and how strongly.

Knows the names and row orders of the architectures it was proved for, and refuses what a GGUF adapter cannot hold. Imports no torch and
follows no path that the folder names.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modules.core.errors import NotFound, UnsupportedFormat
from modules.loaders.adapter_config import (
    CONFIG,
    PREFIX,
    SIDE_A,
    SIDE_B,
    WEIGHTS,
    check_adapter_config,
    pair_scale,
)
from modules.loaders.folder_header import read_json, read_weight_header
from modules.loaders.gguf_header import GgufHeader

LAYER = re.compile(r"(?:model\.layers|transformer\.h)\.(0|[1-9][0-9]{0,3})\.((?:self_attn|attn|mlp)\.[a-z_]+)")
LINEARS: Mapping[str, str] = MappingProxyType({
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
})  # fmt: skip
GPT2_LINEARS: Mapping[str, str] = MappingProxyType({
    "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output", "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down",
})  # fmt: skip
# Architectures of GGUF files whose names and row orders the tests compare, and what their linear layers are called there
PROVED: Mapping[str, Mapping[str, str]] = MappingProxyType({
    "llama": LINEARS, "qwen2": LINEARS, "qwen3": LINEARS, "gemma3": LINEARS, "gpt2": GPT2_LINEARS,
})  # fmt: skip
PAIRS_SIDE_BY_SIDE = frozenset({"llama"})  # llama.cpp keeps their rotary pairs as neighbours, the folder in two halves
ATTENTION_ROWS: Mapping[str, str] = MappingProxyType({"attn_q": "attention.head_count", "attn_k": "attention.head_count_kv"})
CURE = "use it with its base model's safetensors folder and the transformers loader, or merge it into that"
# Key of adapter_config.json → what it means, where a GGUF adapter has no place for it
UNPLACED: Mapping[str, str] = MappingProxyType({
    "use_dora": "DoRA magnitudes", "use_qalora": "pooled inputs (QALoRA)", "lora_bias": "biases", "modules_to_save": "whole trained modules",
    "trainable_token_indices": "trained tokens", "target_parameters": "trained expert parameters", "layer_replication": "repeated layers",
    "alora_invocation_tokens": "words that switch it on", "arrow_config": "a router", "use_bdlora": "block-diagonal weights",
    "kasa_config": "KaSA weights", "monteclora_config": "MonteCLoRA weights", "velora_config": "VeLoRA weights",
})  # fmt: skip
FLOATS: Mapping[str, str] = MappingProxyType({"F32": "<f4", "F16": "<f2", "BF16": "<u2"})


@dataclass(frozen=True)
class BaseShape:
    """What an adapter must fit."""

    architecture: str
    layers: int
    shapes: Mapping[str, tuple[int, ...]]  # tensor name → lengths as GGUF has them: inputs first, then outputs
    metadata: Mapping[str, Any]

    def heads(self, key: str, layer: int) -> int:
        """Attention heads of a layer; files give one number or one for each layer."""
        value = self.metadata.get(f"{self.architecture}.{key}", self.metadata.get(f"{self.architecture}.attention.head_count", 0))
        if isinstance(value, tuple):
            value = value[layer] if layer < len(value) else 0
        return int(value) if isinstance(value, int) else 0


def base_shape(headers: Iterable[GgufHeader]) -> BaseShape:
    """The shape of a model in one or several files, the first one first."""
    first, *others = headers
    shapes = {tensor.name: tensor.shape for part in (first, *others) for tensor in part.tensors}
    return BaseShape(first.architecture, first.number("block_count"), MappingProxyType(shapes), first.metadata)


@dataclass(frozen=True)
class LoraPair:
    """The two weights that change one matrix of the model."""

    module: str  # as PEFT names it
    target: str  # as GGUF names it
    rank: int
    inputs: int
    outputs: int
    scale: float  # what PEFT multiplies the product by
    heads: int  # whose rows have to be put in llama.cpp's order; 0 where the order is the same


def stamp(folder: Path) -> int:
    """When a PEFT folder was last changed.

    Raises:
        NotFound: it is none.
    """
    files = folder / CONFIG, folder / WEIGHTS
    if not all(file.is_file() for file in files):
        raise NotFound(f"{folder.name} is not an adapter folder with {CONFIG} and {WEIGHTS}; refresh the list.")
    return max(file.stat().st_mtime_ns for file in files)


def read_pairs(folder: Path, base: BaseShape) -> tuple[LoraPair, ...]:
    """What a PEFT folder changes in a model; only headers are read.

    Raises:
        UnsupportedFormat: damaged, not plain LoRA, or not for this model; with what does not fit.
    """
    name = folder.name
    if base.architecture not in PROVED:
        raise UnsupportedFormat(
            f"The adapter {name} cannot be converted for {base.architecture} models, only for {', '.join(PROVED)}; {CURE}, or choose a GGUF adapter."
        )
    config = read_json(folder / CONFIG)
    _check_config(name, config)
    weights = read_weight_header(folder / WEIGHTS)
    modules = sorted({_module_of(name, key) for key in weights})
    if not modules:
        raise UnsupportedFormat(f"The adapter {name} holds no weights; finish its training or download it again.")
    return tuple(_pair(name, config, weights, module, base) for module in modules)


def _check_config(name: str, config: Mapping[str, Any]) -> None:
    check_adapter_config(name, config)
    unplaced = [what for key, what in UNPLACED.items() if config.get(key)]
    if config.get("bias", "none") != "none":
        unplaced.append("biases")
    if unplaced:
        raise UnsupportedFormat(f"The adapter {name} has {unplaced[0]}, which llama.cpp cannot apply; {CURE}.")


def _module_of(name: str, key: str) -> str:
    for side in (SIDE_A, SIDE_B):
        if key.startswith(PREFIX) and key.endswith(side):
            return key[len(PREFIX) : -len(side)]
    raise UnsupportedFormat(f"The adapter {name} holds {key[:100]}, which is no plain LoRA weight, so llama.cpp cannot apply it; {CURE}.")


def _pair(name: str, config: Mapping[str, Any], weights: Mapping[str, tuple[str, tuple[int, ...]]], module: str, base: BaseShape) -> LoraPair:
    target, heads = _target(name, module, base)
    wanted = base.shapes[f"{target}.weight"]
    sides = [weights.get(PREFIX + module + side) for side in (SIDE_A, SIDE_B)]
    kinds = [side[0] for side in sides if side]
    shapes = [side[1] for side in sides if side]
    if [len(shape) for shape in shapes] != [2, 2] or shapes[0][0] != shapes[1][1] or len(wanted) != 2:
        raise UnsupportedFormat(f"The adapter {name} is damaged: its two weights for {module} do not belong together; download it again.")
    if any(kind not in FLOATS for kind in kinds):
        raise UnsupportedFormat(f"The adapter {name} stores {module} as {' and '.join(kinds)[:40]}, not as F32, F16 or BF16; {CURE}.")
    (rank, inputs), (outputs, _) = shapes
    if (inputs, outputs) != wanted:
        raise UnsupportedFormat(
            f"The adapter {name} was made for another model: at {module} it has {inputs} × {outputs} where this one has "
            f"{wanted[0]} × {wanted[1]}; load its base model first."
        )
    return LoraPair(module, target, rank, inputs, outputs, pair_scale(name, config, module, rank, max(inputs, outputs)), heads)


def _target(name: str, module: str, base: BaseShape) -> tuple[str, int]:
    """The GGUF name of a module, and the heads whose rows change places."""
    match = LAYER.fullmatch(module)
    linear = PROVED[base.architecture].get(match[2]) if match else None
    if linear is None and module != "lm_head":
        raise UnsupportedFormat(f"The adapter {name} changes {module[:100]}, which Paddock cannot convert for llama.cpp; {CURE}.")
    layer = int(match[1]) if match else 0
    if linear is not None and layer >= base.layers:
        raise UnsupportedFormat(f"The adapter {name} changes layer {layer + 1} and this model has {base.layers} layers; load its base model first.")
    target = f"blk.{layer}.{linear}" if linear else "output"
    shape = base.shapes.get(f"{target}.weight")
    if shape is None:
        why = "shares with its embeddings" if linear is None else "does not have"
        raise UnsupportedFormat(f"The adapter {name} changes {module}, which this model {why}; {CURE}.")
    if base.architecture not in PAIRS_SIDE_BY_SIDE or linear is None or linear not in ATTENTION_ROWS:
        return target, 0
    heads = base.heads(ATTENTION_ROWS[linear], layer)
    if heads < 1 or shape[-1] % (2 * heads):
        raise UnsupportedFormat(f"The adapter {name} cannot be converted: this model has {heads} heads over {shape[-1]} rows at {module}; {CURE}.")
    return target, heads


class PeftWeights:
    """The numbers of a PEFT folder, one tensor at a time, as float32."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / WEIGHTS
        with self._path.open("rb") as file:
            length = struct.unpack("<Q", file.read(8))[0]
            self._table = json.loads(file.read(length))
        self._begin = 8 + length

    def read(self, pair: LoraPair) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """[rank, inputs] and [outputs, rank], the second scaled and in llama.cpp's row order.

        Raises:
            UnsupportedFormat: a value is not a number.
            ValueError: the file changed while being read (also KeyError).
        """
        first, second = self._tensor(pair.module + SIDE_A, pair.rank, pair.inputs), self._tensor(pair.module + SIDE_B, pair.outputs, pair.rank)
        with np.errstate(over="ignore", invalid="ignore"):
            second = second * np.float32(pair.scale)
        if not (np.isfinite(first).all() and np.isfinite(second).all()):
            raise UnsupportedFormat(
                f"The adapter {self._path.parent.name} is damaged: {pair.module} holds values that are not numbers; train or download it again."
            )
        if pair.heads:
            second = second.reshape(pair.heads, 2, -1, pair.rank).swapaxes(1, 2).reshape(second.shape)
        return first, np.ascontiguousarray(second)

    def _tensor(self, name: str, rows: int, columns: int) -> NDArray[np.float32]:
        row = self._table[PREFIX + name]
        values = np.fromfile(self._path, FLOATS[row["dtype"]], rows * columns, offset=self._begin + int(row["data_offsets"][0]))
        if row["dtype"] == "BF16":  # the upper half of a float32
            values = (values.astype(np.uint32) << 16).view(np.float32)
        return values.reshape(rows, columns).astype(np.float32)
