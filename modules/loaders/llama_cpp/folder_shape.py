"""What a GGUF file of a safetensors folder would look like to an adapter: names, lengths and heads, read from the folder's headers.

For converting an adapter where there is no GGUF file of its base yet. Knows the architectures that `peft_adapter` proves.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from modules.core.errors import UnsupportedFormat
from modules.loaders.folder_header import read_folder_header, read_weight_header, weight_files
from modules.loaders.llama_cpp.peft_adapter import LAYER, PROVED, BaseShape

# model_type of config.json → architecture of the GGUF files made from such a folder
ARCHITECTURES: Mapping[str, str] = MappingProxyType({
    "llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "gemma3_text": "gemma3", "gpt2": "gpt2",
})  # fmt: skip
FLOATS = frozenset({"F64", "F32", "F16", "BF16"})  # packed types have other lengths than their layers


def folder_shape(folder: Path) -> BaseShape:
    """What an adapter of a folder must fit, as its GGUF file would have it.

    Raises:
        UnsupportedFormat: the folder is damaged, or of an architecture whose GGUF names are not known here.
    """
    header = read_folder_header(folder)
    model_type = str(header.config.get("model_type", ""))
    architecture = ARCHITECTURES.get(model_type)
    if architecture is None:
        raise UnsupportedFormat(
            f"Adapters of {model_type[:40] or 'unnamed'} models cannot be converted, only of {', '.join(ARCHITECTURES)}; merge the adapter into {folder.name} instead."
        )
    is_tied = header.field("tie_word_embeddings") is True  # the output is then no matrix of its own
    shapes: dict[str, tuple[int, ...]] = {}
    for file in weight_files(folder):
        for name, (dtype, shape) in read_weight_header(file).items():
            target = _target(architecture, name)
            if target and not (is_tied and target == "output.weight") and dtype in FLOATS and len(shape) == 2:
                shapes[target] = shape if architecture == "gpt2" and target.startswith("blk.") else shape[::-1]  # GPT-2 keeps inputs × outputs
    heads = header.number("num_attention_heads", "n_head")
    numbers: dict[str, Any] = {
        f"{architecture}.attention.head_count": heads,
        f"{architecture}.attention.head_count_kv": header.number("num_key_value_heads") or heads,
    }
    return BaseShape(architecture, header.number("num_hidden_layers", "n_layer"), MappingProxyType(shapes), MappingProxyType(numbers))


def _target(architecture: str, name: str) -> str:
    """The GGUF name of a weight that an adapter can change; empty for others. Files may leave out the outermost name."""
    module = name.removesuffix(".weight")
    if module == "lm_head":
        return "output.weight"
    outer = "transformer." if architecture == "gpt2" else "model."
    match = LAYER.fullmatch(module if module.startswith(outer) else outer + module)
    linear = PROVED[architecture].get(match[2]) if match else None
    return f"blk.{match[1]}.{linear}.weight" if match and linear else ""
