"""A tiny random BERT as sentence-transformers lays it out, and the same weights as a GGUF file. Both in float32, so that all must agree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np

WORDS = ("a", "lora", "is", "small", "file", "model", "the", "what", "changes", "weather", "rains", "today", "un", "##able", "##s", "##er", ".", "?", "it")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
TOKENS = tuple(dict.fromkeys((*SPECIAL, *WORDS, *"abcdefghijklmnopqrstuvwxyz", *(f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"))))
POSITIONS = 64

WIDTH, INNER, LAYERS = 32, 64, 2
CONFIG = {
    "model_type": "bert", "architectures": ["BertModel"], "vocab_size": len(TOKENS), "hidden_size": WIDTH, "num_hidden_layers": LAYERS,
    "num_attention_heads": 2, "intermediate_size": INNER, "max_position_embeddings": POSITIONS, "type_vocab_size": 2, "pad_token_id": 0,
    "layer_norm_eps": 1e-12, "hidden_act": "gelu",
}  # fmt: skip


def _weights() -> dict[str, np.ndarray]:
    """Random numbers under the names of transformers; biases and norms too, so that nothing can be left out unseen."""
    rng = np.random.default_rng(5)
    tables = {"word": len(TOKENS), "position": POSITIONS, "token_type": 2}
    shapes = {f"embeddings.{name}_embeddings": (rows, WIDTH) for name, rows in tables.items()} | {"embeddings.LayerNorm": (WIDTH,)}
    for layer in range(LAYERS):
        linear = {f"attention.self.{name}": (WIDTH, WIDTH) for name in ("query", "key", "value")} | {
            "attention.output.dense": (WIDTH, WIDTH), "intermediate.dense": (INNER, WIDTH), "output.dense": (WIDTH, INNER),
            "attention.output.LayerNorm": (WIDTH,), "output.LayerNorm": (WIDTH,),
        }  # fmt: skip
        shapes |= {f"encoder.layer.{layer}.{name}": shape for name, shape in linear.items()}
    weights = {}
    for name, shape in shapes.items():
        weights[f"{name}.weight"] = rng.normal(0, 0.25, shape) + (1 if len(shape) == 1 else 0)
        if "_embeddings" not in name:
            weights[f"{name}.bias"] = rng.normal(0, 0.2, shape[:1])
    return {name: value.astype(np.float32) for name, value in weights.items()}


def write_bert(folder: Path, *, pooling: str = "mean", normalize: bool = True, dense: bool = False) -> Path:
    """The folder, with modules.json and 1_Pooling."""
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    folder.mkdir(parents=True)
    _write_json(folder / "config.json", CONFIG)
    save_file(_weights(), folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer = Tokenizer(models.WordPiece({token: place for place, token in enumerate(TOKENS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    _write_json(folder / "tokenizer_config.json", settings)
    parts = ["Transformer", "Pooling", *(["Dense"] if dense else []), *(["Normalize"] if normalize else [])]
    names = [{"idx": place, "path": "" if not place else f"{place}_{part}", "type": f"sentence_transformers.models.{part}"} for place, part in enumerate(parts)]
    _write_json(folder / "modules.json", names)
    modes = {f"pooling_mode_{name}": name.startswith(pooling) for name in ("cls_token", "mean_tokens", "max_tokens", "lasttoken")}
    _write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 32, **modes})
    return folder


def _write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def bert_vector(folder: Path, text: str, pooling: str, normalize: bool) -> np.ndarray:
    """What transformers itself makes of one text."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(folder, dtype=torch.float32).eval(), AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        states = model(**tokenizer(text, return_tensors="pt", return_token_type_ids=False)).last_hidden_state[0]
    vector = {"mean": states.mean(0), "cls": states[0], "last": states[-1]}[pooling]
    return (vector / vector.norm() if normalize else vector).numpy()


def write_bert_gguf(path: Path, folder: Path, pooling: gguf.PoolingType = gguf.PoolingType.MEAN) -> Path:
    """The GGUF file of such a folder."""
    from safetensors.numpy import load_file

    writer = gguf.GGUFWriter(path, "bert")
    writer.add_name("tiny bert")
    writer.add_context_length(CONFIG["max_position_embeddings"])
    writer.add_embedding_length(CONFIG["hidden_size"])
    writer.add_feed_forward_length(CONFIG["intermediate_size"])
    writer.add_block_count(CONFIG["num_hidden_layers"])
    writer.add_head_count(CONFIG["num_attention_heads"])
    writer.add_layer_norm_eps(CONFIG["layer_norm_eps"])
    writer.add_causal_attention(False)
    writer.add_pooling_type(pooling)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_type_count(CONFIG["type_vocab_size"])
    words = [token if token in SPECIAL else token[2:] if token.startswith("##") else f"▁{token}" for token in TOKENS]
    writer.add_token_list(words)
    writer.add_token_types([gguf.TokenType.CONTROL if token in SPECIAL else gguf.TokenType.NORMAL for token in TOKENS])
    for add, token in (
        (writer.add_bos_token_id, "[CLS]"), (writer.add_eos_token_id, "[SEP]"), (writer.add_sep_token_id, "[SEP]"), (writer.add_unk_token_id, "[UNK]"),
        (writer.add_pad_token_id, "[PAD]"), (writer.add_mask_token_id, "[MASK]"),
    ):  # fmt: skip
        add(TOKENS.index(token))
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.BERT, CONFIG["num_hidden_layers"])
    for name, weights in load_file(folder / "model.safetensors").items():
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight", ".bias")), np.ascontiguousarray(weights.astype(np.float32)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
