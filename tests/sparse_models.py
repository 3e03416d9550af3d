"""GGUF files of any size that take no room on the disk: a truthful header over the starter model's vocabulary, and weights that are all zero.

Such a model takes the time and the memory that its size says, and writes random tokens.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import gguf

HEAD_WIDTH = 64
F16_BYTES = 2
F32_BYTES = 4


def _copy_vocabulary(writer: gguf.GGUFWriter, source: gguf.GGUFReader) -> int:
    """Copy every tokenizer field; the size of the vocabulary."""
    count = 0
    for name, field in source.fields.items():
        if name.startswith("tokenizer."):
            value: Any = field.contents()
            kind, *inner = field.types
            writer.add_key_value(name, value, kind, sub_type=inner[-1] if inner else None)
            count = len(value) if name == gguf.Keys.Tokenizer.LIST else count
    return count


def _shapes(layers: int, width: int, inner: int, vocabulary: int) -> dict[str, tuple[int, ...]]:
    """Name → shape of every tensor of a llama."""
    shapes: dict[str, tuple[int, ...]] = {"token_embd": (vocabulary, width), "output_norm": (width,)}
    square, norm = (width, width), (width,)
    for layer in range(layers):
        parts = {"attn_norm": norm, "ffn_norm": norm, "attn_q": square, "attn_k": square, "attn_v": square, "attn_output": square}
        parts |= {"ffn_gate": (inner, width), "ffn_up": (inner, width), "ffn_down": (width, inner)}
        shapes |= {f"blk.{layer}.{part}": shape for part, shape in parts.items()}
    return shapes


def write_sparse_gguf(path: Path, starter: Path, *, layers: int, width: int, context_length: int) -> Path:
    """A llama of that many layers and that width (float16) with the vocabulary and the chat template of the starter model."""
    inner = 3 * width
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(context_length)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(width // HEAD_WIDTH)
    writer.add_head_count_kv(width // HEAD_WIDTH)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HEAD_WIDTH)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    size_bytes = 0
    for name, shape in _shapes(layers, width, inner, _copy_vocabulary(writer, gguf.GGUFReader(starter))).items():
        plain = len(shape) == 1
        count_bytes = (F32_BYTES if plain else F16_BYTES) * shape[0] * (1 if plain else shape[1])
        kind = gguf.GGMLQuantizationType.F32 if plain else gguf.GGMLQuantizationType.F16
        writer.add_tensor_info(f"{name}.weight", shape, "float32" if plain else "float16", count_bytes, raw_dtype=kind)
        size_bytes += gguf.GGUFWriter.ggml_pad(count_bytes, writer.data_alignment)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    start = gguf.GGUFWriter.ggml_pad(path.stat().st_size, writer.data_alignment)
    os.truncate(path, start + size_bytes)
    return path
