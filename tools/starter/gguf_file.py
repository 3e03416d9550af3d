"""Write a Llama safetensors folder with our kind of tokenizer as one GGUF file.

Knows the Llama tensor names, the rotation order llama.cpp wants and the SentencePiece-style vocabulary fields. Refuses
what it does not know: other architectures, scaled rotary positions, other tokenizers.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np
from safetensors.numpy import load_file

Kind = Literal["f32", "f16", "q8_0"]
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_KINDS: Mapping[Kind, tuple[gguf.LlamaFileType, gguf.GGMLQuantizationType]] = {
    "f32": (gguf.LlamaFileType.ALL_F32, gguf.GGMLQuantizationType.F32),
    "f16": (gguf.LlamaFileType.MOSTLY_F16, gguf.GGMLQuantizationType.F16),
    "q8_0": (gguf.LlamaFileType.MOSTLY_Q8_0, gguf.GGMLQuantizationType.Q8_0),
}
_NAMES = (
    (re.compile(r"^model\.embed_tokens\.weight$"), "token_embd.weight"),
    (re.compile(r"^model\.norm\.weight$"), "output_norm.weight"),
    (re.compile(r"^lm_head\.weight$"), "output.weight"),
    (re.compile(r"^model\.layers\.(\d+)\.input_layernorm\.weight$"), r"blk.\1.attn_norm.weight"),
    (re.compile(r"^model\.layers\.(\d+)\.post_attention_layernorm\.weight$"), r"blk.\1.ffn_norm.weight"),
    (re.compile(r"^model\.layers\.(\d+)\.self_attn\.([qkv])_proj\.weight$"), r"blk.\1.attn_\2.weight"),
    (re.compile(r"^model\.layers\.(\d+)\.self_attn\.o_proj\.weight$"), r"blk.\1.attn_output.weight"),
    (re.compile(r"^model\.layers\.(\d+)\.mlp\.(gate|up|down)_proj\.weight$"), r"blk.\1.ffn_\2.weight"),
)


def write_gguf(folder: Path, out: Path, kind: Kind) -> None:
    """Write the model in ``folder`` to ``out``; matrices as ``kind``, norms as F32.

    Raises:
        ValueError: when the folder holds something this writer does not know.
    """
    config = _read(folder / "config.json")
    if config.get("model_type") != "llama":
        raise ValueError(f"model_type is {config.get('model_type')!r}; only 'llama' can be written here")
    file_type, matrix_type = _KINDS[kind]
    writer = gguf.GGUFWriter(out, "llama")
    writer.add_file_type(file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _add_shape(writer, config)
    _add_tokenizer(writer, folder, config)
    for name, values in sorted(load_file(folder / "model.safetensors").items()):
        if name == "lm_head.weight" and config["tie_word_embeddings"]:
            continue
        rotated = _rotate(name, values.astype(np.float32), config)
        wanted = matrix_type if values.ndim > 1 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(_gguf_name(name), gguf.quants.quantize(rotated, wanted), raw_dtype=wanted)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _gguf_name(name: str) -> str:
    for pattern, replacement in _NAMES:
        if pattern.match(name):
            return pattern.sub(replacement, name)
    raise ValueError(f"tensor {name} has no place in a Llama GGUF file")


def _rotate(name: str, values: np.ndarray, config: dict[str, Any]) -> np.ndarray:
    """Reorder query and key rows: llama.cpp rotates neighbouring pairs, transformers rotates halves."""
    if name.endswith("q_proj.weight"):
        heads = config["num_attention_heads"]
    elif name.endswith("k_proj.weight"):
        heads = config["num_key_value_heads"]
    else:
        return values
    rows, columns = values.shape
    return values.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _add_shape(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    rope = config.get("rope_parameters") or {"rope_theta": config.get("rope_theta", 10000.0)}
    if rope.get("rope_type", "default") != "default":
        raise ValueError(f"rotary positions of type {rope['rope_type']!r} cannot be written here")
    head_dim = config["head_dim"]
    writer.add_name("Paddock Starter")
    writer.add_description("Tiny demo model of Paddock: small talk and questions about using Paddock.")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(float(rope["rope_theta"]))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])


def _add_tokenizer(writer: gguf.GGUFWriter, folder: Path, config: dict[str, Any]) -> None:
    described, settings = _read(folder / "tokenizer.json"), _read(folder / "tokenizer_config.json")
    model = described["model"]
    if model["type"] != "BPE" or not model["byte_fallback"]:
        raise ValueError("only a BPE tokenizer with byte fallback can be written here")
    control = {added["id"]: added["content"] for added in described["added_tokens"] if added["special"]}
    tokens = [token for token, _ in sorted(model["vocab"].items(), key=lambda item: item[1])]
    if len(tokens) != config["vocab_size"]:
        raise ValueError(f"{len(tokens)} tokens but vocab_size {config['vocab_size']}; they must be equal")
    ids = {token: number for number, token in enumerate(tokens)}
    types = [_token_type(token, number in control) for number, token in enumerate(tokens)]
    types[ids[settings["unk_token"]]] = gguf.TokenType.UNKNOWN
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(number) for number in range(len(tokens))])
    writer.add_token_types(types)
    writer.add_bos_token_id(ids[settings["bos_token"]])
    writer.add_eos_token_id(ids[settings["eos_token"]])
    writer.add_eot_token_id(ids[settings["eos_token"]])
    writer.add_unk_token_id(ids[settings["unk_token"]])
    writer.add_pad_token_id(ids[settings["pad_token"]])
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template((folder / "chat_template.jinja").read_text(encoding="utf-8").rstrip("\n"))


def _token_type(token: str, control: bool) -> gguf.TokenType:
    if control:
        return gguf.TokenType.CONTROL
    return gguf.TokenType.BYTE if _BYTE.fullmatch(token) else gguf.TokenType.NORMAL
