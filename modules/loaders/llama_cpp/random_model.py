"""GGUF models of any size that mean nothing: a truthful header, a made-up vocabulary, random weights.

Such a model takes the time and the memory that its size says, so this machine can be measured with it. Weights of zero would not do: attention over
numbers that are not takes a fifth longer. Knows the file format through the gguf package; loads nothing.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

EPSILON = 1e-5
BYTE_TOKENS = 256
SUPER_BLOCK = 256  # numbers of a row that K types take together
CHUNK_BLOCKS = 1 << 16
LOGIT_SPREAD = 2.0  # standard deviation: flat enough that sampling has as much to choose from as in a real text
QUERY_SPREAD = 4.0
FALLBACKS: Mapping[str, str] = MappingProxyType({"Q4_K": "Q5_0", "Q6_K": "Q8_0"})  # what llama.cpp takes for rows that are no multiple of a super-block
SPREADS: Mapping[str, float] = MappingProxyType({  # of random blocks of scale 1
    "F16": 1.0, "F32": 1.0, "Q8_0": 74.0, "IQ4_NL": 67.4, "IQ4_XS": 1245.0, "MXFP4": 5.9, "Q3_K": 43.3, "Q4_0": 4.6, "Q5_0": 9.2, "Q4_K": 300.0, "Q5_K": 636.0, "Q6_K": 1360.0,
})  # fmt: skip
MIDDLE_POWER = 128  # the exponent of MXFP4 that stands for a scale of one


@dataclass(frozen=True, slots=True)
class RandomModel:
    """The sizes of a model to be made up."""

    layers: int
    width: int
    inner: int
    heads: int
    kv_heads: int
    vocabulary: int
    context_length: int = 8192
    head_width: int = 64
    quantization: str = "F16"  # a name of the gguf package, or Q4_K_M: a mixture of types, as llama.cpp makes it
    merges: bool = False  # a vocabulary of the byte-pair kind, as large ones are
    architecture: str = "llama"  # or qwen2 or qwen3, whose output is their embedding
    as_shared: bool = False  # as files that people share: what makes the scores of the words keeps more bits than 4-bit layers
    tied: bool = False  # a llama whose output is its embedding
    experts: int = 0  # in place of one feed-forward part, each of the inner size; only for a llama
    experts_used: int = 2  # for a token

    @property
    def one_matrix(self) -> bool:
        """Whether what makes the scores of the words is their embedding."""
        return self.tied or self.architecture != "llama"

    def kind_of(self, name: str, columns: int = SUPER_BLOCK) -> str:
        """The type of a matrix with rows of so many numbers, as llama.cpp chooses it when it quantizes."""
        if name.endswith("ffn_gate_inp"):
            return "F32"
        makes_scores = name == ("token_embd" if self.one_matrix else "output")
        if self.quantization == "Q4_K_M":
            kind = "Q6_K" if makes_scores or self._keeps_more_bits(name) else "Q4_K"
            return kind if columns % SUPER_BLOCK == 0 else FALLBACKS[kind]
        if not (self.as_shared and makes_scores and self.quantization.startswith("Q4")):
            return self.quantization
        return "Q6_K" if self.width % SUPER_BLOCK == 0 else "Q8_0"

    def _keeps_more_bits(self, name: str) -> bool:
        """Whether Q4_K_M takes six bits: values and ends of layers at both ends of the model, and of every third between."""
        if not name.endswith(("attn_v", "ffn_down", "ffn_down_exps")):
            return False
        layer, eighth = int(name.split(".")[1]), self.layers // 8
        return layer < eighth or layer >= 7 * self.layers // 8 or (layer - eighth) % 3 == 2

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name → shape of every tensor, rows first."""
        width, inner, queries, keys = self.width, self.inner, self.heads * self.head_width, self.kv_heads * self.head_width
        shapes: dict[str, tuple[int, ...]] = {"token_embd": (self.vocabulary, width), "output_norm": (width,)}
        if not self.one_matrix:
            shapes["output"] = (self.vocabulary, width)
        layer: dict[str, tuple[int, ...]] = {
            "attn_norm": (width,), "ffn_norm": (width,), "attn_q": (queries, width), "attn_k": (keys, width), "attn_v": (keys, width),
            "attn_output": (width, queries),
        }  # fmt: skip
        parts = {"ffn_gate": (inner, width), "ffn_up": (inner, width), "ffn_down": (width, inner)}
        layer |= {f"{name}_exps": (self.experts, *shape) for name, shape in parts.items()} | {"ffn_gate_inp": (self.experts, width)} if self.experts else parts
        if self.architecture == "qwen3":
            layer |= {"attn_q_norm": (self.head_width,), "attn_k_norm": (self.head_width,)}
        if self.architecture == "qwen2":
            layer |= {"attn_q.bias": (queries,), "attn_k.bias": (keys,), "attn_v.bias": (keys,)}
        return shapes | {f"blk.{number}.{name}": shape for number in range(self.layers) for name, shape in layer.items()}


def write_random_gguf(path: Path, model: RandomModel) -> Path:
    """Write the file."""
    import gguf

    writer = gguf.GGUFWriter(path, model.architecture)
    writer.add_context_length(model.context_length)
    writer.add_embedding_length(model.width)
    writer.add_block_count(model.layers)
    writer.add_feed_forward_length(model.inner)
    writer.add_head_count(model.heads)
    writer.add_head_count_kv(model.kv_heads)
    writer.add_key_length(model.head_width)
    writer.add_value_length(model.head_width)
    writer.add_layer_norm_rms_eps(EPSILON)
    writer.add_rope_dimension_count(model.head_width)
    if model.experts:
        writer.add_expert_count(model.experts)
        writer.add_expert_used_count(model.experts_used)
    _add_vocabulary(writer, model)
    places, end = {}, 0
    for name, shape in model.shapes().items():
        kind = gguf.GGMLQuantizationType.F32 if len(shape) == 1 else gguf.GGMLQuantizationType[model.kind_of(name, shape[-1])]
        numbers, size = gguf.GGML_QUANT_SIZES[kind]
        row_bytes = shape[-1] // numbers * size
        count = row_bytes * math.prod(shape[:-1])
        stored: Any = shape if kind in (gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16) else (*shape[:-1], row_bytes)
        writer.add_tensor_info(name if name.endswith(".bias") else f"{name}.weight", stored, _number_type(kind), count, raw_dtype=kind)
        places[name] = (end, count, kind)
        end += gguf.GGUFWriter.ggml_pad(count, writer.data_alignment)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    start = gguf.GGUFWriter.ggml_pad(path.stat().st_size, writer.data_alignment)
    os.truncate(path, start + end)
    with path.open("r+b") as file:
        for name, (place, count, kind) in places.items():
            file.seek(start + place)
            for piece in _ones(count) if name.endswith("norm") else _random(kind, count, _spread(name, model) / SPREADS[kind.name]):
                file.write(piece)
    return path


def _spread(name: str, model: RandomModel) -> float:
    """Standard deviation of the numbers of a tensor, so that what comes out is of size one; queries are larger, so that attention is as sharp as in use."""
    if name == "token_embd":
        return LOGIT_SPREAD / model.width**0.5 if model.one_matrix else 1.0  # each layer begins with a norm, so its size matters to the scores alone
    inputs = {"ffn_down": model.inner, "ffn_down_exps": model.inner, "attn_output": model.heads * model.head_width}.get(name.rpartition(".")[2], model.width)
    return {"output": LOGIT_SPREAD}.get(name, QUERY_SPREAD if name.endswith("attn_q") else 1.0) / inputs**0.5


def _number_type(kind: Any) -> Any:
    import numpy as np

    return np.dtype({"F32": np.float32, "F16": np.float16}.get(kind.name, np.uint8))


def _add_vocabulary(writer: Any, model: RandomModel) -> None:
    """Bytes and numbered words; with merges one for each word, as real vocabularies of that kind have."""
    import gguf

    words = [f"{'Ġ' if model.merges else '▁'}w{number:x}" for number in range(model.vocabulary - BYTE_TOKENS - 3)]
    normal, control, byte = gguf.TokenType.NORMAL, gguf.TokenType.CONTROL, gguf.TokenType.BYTE
    if model.merges:
        letters = [chr(0x100 + number) if not chr(number).isprintable() or number in (32, 173) else chr(number) for number in range(BYTE_TOKENS)]
        tokens, types = ["<s>", "</s>", "<pad>", *letters, *words], [control] * 3 + [normal] * (BYTE_TOKENS + len(words))
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("qwen2")
        writer.add_token_merges([f"{word[:-1]} {word[-1]}" for word in words])
    else:
        tokens = ["<unk>", "<s>", "</s>", *(f"<0x{number:02X}>" for number in range(BYTE_TOKENS)), *words]
        types = [control] * 3 + [byte] * BYTE_TOKENS + [normal] * len(words)
        writer.add_tokenizer_model("llama")
        writer.add_token_scores([-float(number) for number in range(len(tokens))])
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_bos_token_id(0 if model.merges else 1)
    writer.add_eos_token_id(1 if model.merges else 2)


def _ones(count: int) -> Iterator[bytes]:
    import numpy as np

    yield np.ones(count // 4, np.float32).tobytes()


def _random(kind: Any, count: int, scale: float) -> Iterator[bytes]:
    """So many bytes of a type, in pieces."""
    import gguf
    import numpy as np

    size = gguf.GGML_QUANT_SIZES[kind][1]
    chance, left = np.random.default_rng(0), count // size
    while left:
        blocks = min(left, CHUNK_BLOCKS)
        if kind.name in ("F32", "F16"):
            yield (scale * chance.standard_normal(blocks, np.float32)).astype(_number_type(kind)).tobytes()
        else:
            raw = chance.integers(0, 256, (blocks, size), np.uint8)
            if kind.name == "MXFP4":
                raw[:, 0] = MIDDLE_POWER + round(math.log2(scale))
            for place in _scale_places(kind.name, size):
                raw[:, place : place + 2] = np.frombuffer(np.float16(scale).tobytes(), np.uint8)
            yield raw.tobytes()
        left -= blocks


def _scale_places(name: str, size: int) -> tuple[int, ...]:
    """Where the 16-bit floats of a block stand: random ones would be infinite now and then."""
    return {"MXFP4": (), "Q3_K": (size - 2,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (size - 2,)}.get(name, (0,))
