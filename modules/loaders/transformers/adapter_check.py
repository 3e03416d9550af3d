"""Whether a PEFT adapter fits a model folder, said from the headers of both before anything is loaded. Imports no torch.

Names of weights in files are not always those of modules in the running network, so only what is certain is refused here; the loaded
network is asked again before an adapter is put on it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from modules.core.errors import NotFound, UnsupportedFormat
from modules.loaders.adapter_config import (
    CONFIG,
    PREFIX,
    SIDE_A,
    SIDE_B,
    WEIGHTS,
    check_adapter_config,
    learned_tokens,
)
from modules.loaders.folder_header import (
    FolderHeader,
    read_folder_header,
    read_json,
    read_weight_header,
    weight_files,
)

LAYER = re.compile(r"\.(?:layers|h|blocks?)\.([0-9]{1,6})\.")
FLOATS = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"})  # packed types have other shapes than their layers
TRANSPOSED = frozenset({"gpt2", "openai-gpt", "imagegpt"})  # keep their linear weights as inputs × outputs

EXPERTS, TEXT_PART = ".experts.", "language_model"

Shapes = Mapping[str, tuple[str, tuple[int, ...]]]


def adapter_check(model: Path) -> Callable[[Path], None]:
    """A function that refuses adapters which do not fit a model folder, with a sentence; the folder's headers are read once.

    Raises:
        UnsupportedFormat: the model itself cannot be read.
    """
    header = read_folder_header(model)
    shapes: Shapes = {name: row for file in weight_files(model) for name, row in read_weight_header(file).items()}

    def check(adapter: Path) -> None:
        if adapter.is_file():
            raise UnsupportedFormat(
                f"{adapter.name} is a GGUF adapter, and this model is a safetensors folder; choose the adapter's PEFT folder, or load a GGUF version of "
                "the model."
            )
        if not (adapter / CONFIG).is_file() or not (adapter / WEIGHTS).is_file():
            raise NotFound(f"{adapter.name} is not an adapter folder with {CONFIG} and {WEIGHTS}; refresh the list.")
        config = read_json(adapter / CONFIG)
        check_adapter_config(adapter.name, config)
        if max(learned_tokens(config), default=-1) >= _vocabulary(header):
            raise UnsupportedFormat(f"{adapter.name} adds tokens that this model's tokenizer does not know; merge it into its base model and load the result.")
        _check_weights(adapter.name, read_weight_header(adapter / WEIGHTS), header, shapes)

    return check


def _vocabulary(header: FolderHeader) -> int:
    """Ids that the tokenizer of a model folder gives; the model may have rows for more."""
    file = header.path / "tokenizer.json"
    read = read_json(file) if file.is_file() else {}
    inner = read.get("model")
    known = inner.get("vocab") if isinstance(inner, dict) else None
    ids = list(known.values()) if isinstance(known, dict) else list(range(len(known))) if isinstance(known, list) else []
    ids += [row.get("id") for row in read.get("added_tokens") or () if isinstance(row, dict)]
    return max((token_id for token_id in ids if isinstance(token_id, int)), default=header.number("vocab_size") - 1) + 1


def _check_weights(name: str, weights: Shapes, header: FolderHeader, shapes: Shapes) -> None:
    layers = header.number("num_hidden_layers", "n_layer", "num_layers", "n_layers")
    modules = sorted({key[len(PREFIX) : -len(SIDE_A)] for key in weights if key.startswith(PREFIX) and key.endswith(SIDE_A)})
    known = 0
    for module in modules:
        layer = LAYER.search(f".{module}.")
        if layer and layers and int(layer[1]) >= layers:
            raise UnsupportedFormat(f"{name} changes layer {int(layer[1]) + 1} and this model has {layers} layers; choose the adapter's base model.")
        first, second = weights[PREFIX + module + SIDE_A][1], weights.get(PREFIX + module + SIDE_B, ("", ()))[1]
        if len(first) != 2 or len(second) != 2 or first[0] != second[1]:
            raise UnsupportedFormat(f"{name} is damaged: its two weights for {module[:100]} do not belong together; download it again.")
        wanted = _linear_shape(module, header, shapes)
        known += wanted is not None
        if wanted is not None and wanted != (first[1], second[0]):
            raise UnsupportedFormat(
                f"{name} was made for another model: at {module[:100]} it has {first[1]} × {second[0]} where this one has {wanted[0]} × {wanted[1]}; "
                "choose the adapter's base model."
            )
    modules = [module for module in modules if EXPERTS not in f".{module}."]  # files have each expert's weights apart
    if modules and not known and "quantization_config" not in header.config:
        raise UnsupportedFormat(f"{name} changes {modules[0][:100]} and the like, which this model does not have; choose the adapter's base model.")


def _linear_shape(module: str, header: FolderHeader, shapes: Shapes) -> tuple[int, int] | None:
    """Inputs and outputs of a linear layer as its file has them; None where that cannot be said."""
    dtype, shape = shapes.get(stored_name(f"{module}.weight", shapes), ("", ()))
    if dtype not in FLOATS or len(shape) != 2:
        return None
    return (shape[0], shape[1]) if is_transposed(module, header.config) else (shape[1], shape[0])


def stored_name(name: str, shapes: Collection[str]) -> str:
    """What a weight of the running network is called in its files, which may leave out the outermost names; empty if it is not there.

    Files of models that see are often older than the order of names in the network, whose text part is `model.language_model`.
    """
    parts = name.split(".")
    names = [".".join(parts[start:]) for start in range(len(parts) - 1)]
    if TEXT_PART in parts:
        inner = ".".join(parts[parts.index(TEXT_PART) + 1 :])
        names += [f"{TEXT_PART}.model.{inner}", f"model.{inner}"]
    elif parts[0] == "lm_head":
        names.append(f"{TEXT_PART}.{name}")
    return next((found for found in names if found in shapes), "")


def is_transposed(module: str, config: Mapping[str, Any]) -> bool:
    """Whether a linear layer is stored as inputs × outputs."""
    return config.get("model_type") in TRANSPOSED and not module.endswith("lm_head")
