"""Model folders of any size that mean nothing: a llama or qwen2 with random weights and a vocabulary of numbered words, to measure this machine with.

Loads transformers to write them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class RandomFolder:
    """The sizes of a model to be made up."""

    layers: int
    width: int
    inner: int
    heads: int
    kv_heads: int
    vocabulary: int
    context_length: int
    architecture: str = "llama"  # or qwen2
    tied: bool = False  # the output is the embedding
    stored: str = "float32"  # the type of the numbers in the file


def write_random_folder(path: Path, model: RandomFolder) -> Path:
    """Write configuration, weights and tokenizer."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        model.architecture, vocab_size=model.vocabulary, hidden_size=model.width, intermediate_size=model.inner, num_hidden_layers=model.layers,
        num_attention_heads=model.heads, num_key_value_heads=model.kv_heads, max_position_embeddings=model.context_length, bos_token_id=0, eos_token_id=1,
        tie_word_embeddings=model.tied,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).to(getattr(torch, model.stored)).save_pretrained(path)
    words = {f"w{number}": number for number in range(model.vocabulary)}
    Tokenizer(models.WordLevel(words, unk_token="w2")).save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}), encoding="utf-8")
    return path
