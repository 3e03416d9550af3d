"""Tiny models made from a seed: safetensors folders, GGUF files of the same weights, LoRA adapters in both formats.

The trained ones have learned a few sentences by heart, so that their greedy choices have wide margins and rounding cannot flip them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np

TEXT = (
    "The little fox found a red ball under the old tree. She took the ball home and gave it to her brother. "
    "A bird sang in the morning and the rain came in the evening. We bake bread from flour, water, salt and time. "
    "My hat is green and your coat is blue, so we walk to the market together. Ünïcödé wörds like naïve café count too."
)
PATTERN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
VOCAB = 320
CONTEXT = 256
BASE = {
    "vocab_size": VOCAB, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": CONTEXT, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 0,
    "tie_word_embeddings": False,
}  # fmt: skip
# Architecture → config class and what it needs beside or instead of BASE; None takes a field away
WINDOW = {"head_dim": 32, "sliding_window": 16}
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {}),
    "qwen2": ("Qwen2Config", {}),
    "qwen3": ("Qwen3Config", {"head_dim": 32}),
    "qwen3_moe": ("Qwen3MoeConfig", {"head_dim": 32, **EXPERTS}),
    "mistral": ("MistralConfig", WINDOW),
    "mixtral": ("MixtralConfig", EXPERTS),
    "phi3": ("Phi3Config", {"sliding_window": 16}),
    "gemma3_text": ("Gemma3TextConfig", {**WINDOW, "layer_types": ["sliding_attention", "full_attention"], "query_pre_attn_scalar": 32}),
    "gpt_oss": ("GptOssConfig", {**WINDOW, **EXPERTS}),
    "gpt2": ("GPT2Config", {"n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": CONTEXT} | dict.fromkeys(
        ("hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings"))),
    "gpt_neox": ("GPTNeoXConfig", {}),
    "opt": ("OPTConfig", {"ffn_dim": 128, "word_embed_proj_dim": 64}),
    "gpt_neo": ("GPTNeoConfig", {
        "num_layers": 2, "num_heads": 2, "attention_types": [[["global", "local"], 1]], "window_size": 16,
        "num_hidden_layers": None, "num_attention_heads": None}),
    "bloom": ("BloomConfig", {"n_layer": 2, "n_head": 2}),
    "mamba": ("MambaConfig", {"state_size": 8}),
    "lfm2": ("Lfm2Config", {"layer_types": ["conv", "full_attention"]}),
    "gemma2": ("Gemma2Config", {"head_dim": 16, "sliding_window": 16}),
    "cohere2": ("Cohere2Config", {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]}),
    "mamba2": ("Mamba2Config", {"state_size": 8, "num_heads": 8, "head_dim": 16, "expand": 2, "n_groups": 1, "chunk_size": 16} | dict.fromkeys(
        ("num_attention_heads", "num_key_value_heads", "intermediate_size"))),
    "falcon_h1": ("FalconH1Config", {
        "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_chunk_size": 16}),
    "qwen3_next": ("Qwen3NextConfig", {
        **EXPERTS, "head_dim": 16, "layer_types": ["linear_attention", "full_attention"], "linear_num_key_heads": 2, "linear_num_value_heads": 2,
        "linear_key_head_dim": 8, "linear_value_head_dim": 8, "shared_expert_intermediate_size": 32}),
}  # fmt: skip


def tiny_config(kind: str, **overrides: Any) -> Any:
    """The config of a tiny model of an architecture."""
    import transformers

    name, own = KINDS[kind]
    values = BASE | own | overrides
    return getattr(transformers, name)(**{key: value for key, value in values.items() if value is not None})


def write_tokenizer(folder: Path) -> None:
    """A byte-level BPE tokenizer with Qwen's word pattern, trained on `TEXT`."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PATTERN), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([TEXT], trainer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": SPECIAL[0], "eos_token": SPECIAL[2], "pad_token": SPECIAL[0],
        "chat_template": TEMPLATE,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def make_model(kind: str = "llama", seed: int = 0, **overrides: Any) -> Any:
    """A random model whose weights are float16 numbers held in float32."""
    import torch
    import transformers

    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(tiny_config(kind, **overrides)).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.mul_(6)  # wider margins between the choices
    round_weights(model)
    return model


def round_weights(model: Any) -> None:
    """Make every weight exactly a float16 number, so that all files of a model hold the same ones."""
    for parameter in model.parameters():
        parameter.data = parameter.data.half().float()


def train(model: Any, folder: Path, steps: int = 140) -> None:
    """Let a model learn `TEXT` by heart."""
    import torch
    from tokenizers import Tokenizer

    torch.manual_seed(0)
    ids = torch.tensor(Tokenizer.from_file(str(folder / "tokenizer.json")).encode(TEXT).ids)
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, total_steps=steps)
    model.train()
    for _ in range(steps):
        starts = torch.randint(0, len(ids) - 48, (6,))
        batch = torch.stack([ids[start : start + 48] for start in starts])
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.eval()
    round_weights(model)


def write_folder(folder: Path, kind: str = "llama", seed: int = 0, *, trained: bool = False, **overrides: Any) -> Path:
    """A model folder with float16 weights, tokenizer and chat template."""
    model = make_model(kind, seed, **overrides)
    write_tokenizer(folder)
    if trained:
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.data.div_(6)
        train(model, folder)
    model.half().save_pretrained(folder)
    return folder


def write_adapter(folder: Path, base: Path, seed: int = 1, rank: int = 4, alpha: int = 16, **settings: Any) -> Path:
    """A PEFT adapter with random weights on all linear layers of a model folder."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = LoraConfig(r=rank, lora_alpha=alpha, init_lora_weights=False, task_type="CAUSAL_LM", **{"target_modules": "all-linear"} | settings)
    adapted = get_peft_model(model, config)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data = (torch.randn_like(parameter) * 0.1).half().float()
    adapted.save_pretrained(folder)
    return folder


def _permuted(weights: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp keeps rotary pairs side by side; transformers in two halves."""
    return weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:]).swapaxes(1, 2).reshape(weights.shape)


def _layer_names(config: dict[str, Any]) -> dict[str, tuple[str, int]]:
    """Name in the folder → name in the GGUF file and the heads to permute by."""
    names = {"model.embed_tokens": ("token_embd", 0), "model.norm": ("output_norm", 0), "lm_head": ("output", 0)}
    heads, kv_heads = (config["num_attention_heads"], config["num_key_value_heads"]) if config["model_type"] in ("llama", "mistral") else (0, 0)
    parts = (
        ("input_layernorm", "attn_norm", 0), ("post_attention_layernorm", "ffn_norm", 0), ("self_attn.q_proj", "attn_q", heads),
        ("self_attn.k_proj", "attn_k", kv_heads), ("self_attn.v_proj", "attn_v", 0), ("self_attn.o_proj", "attn_output", 0),
        ("mlp.gate_proj", "ffn_gate", 0), ("mlp.up_proj", "ffn_up", 0), ("mlp.down_proj", "ffn_down", 0),
    )  # fmt: skip
    if config["model_type"] in ("qwen3", "gemma3_text"):
        parts = (*parts, ("self_attn.q_norm", "attn_q_norm", 0), ("self_attn.k_norm", "attn_k_norm", 0))
    if config["model_type"] == "gemma3_text":
        parts = (
            *(part for part in parts if part[0] != "post_attention_layernorm"), ("post_attention_layernorm", "post_attention_norm", 0),
            ("pre_feedforward_layernorm", "ffn_norm", 0), ("post_feedforward_layernorm", "post_ffw_norm", 0),
        )  # fmt: skip
    for layer in range(config["num_hidden_layers"]):
        names |= {f"model.layers.{layer}.{ours}": (f"blk.{layer}.{theirs}", heads) for ours, theirs, heads in parts}
    return names


def write_vocabulary(writer: gguf.GGUFWriter, folder: Path) -> None:
    """Put the tokenizer of a folder into a GGUF file."""
    data = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = {index: token for token, index in data["model"]["vocab"].items()}
    special = {row["id"]: row["content"] for row in data["added_tokens"]}
    count = max(*vocabulary, *special) + 1
    tokens = [special.get(index) or vocabulary[index] for index in range(count)]
    tokens += [f"[PAD{index}]" for index in range(count, VOCAB)]
    kinds = [gguf.TokenType.CONTROL if index in special else gguf.TokenType.NORMAL for index in range(count)]
    kinds += [gguf.TokenType.UNUSED] * (VOCAB - count)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in data["model"]["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)


def finish_gguf(writer: gguf.GGUFWriter) -> None:
    """Write all that was added."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_gguf(path: Path, folder: Path, rope_sections: tuple[int, ...] = ()) -> Path:
    """The GGUF file (f16) of a llama, mistral, qwen2, qwen3 or gemma3_text folder; with sections of its rotary dimensions qwen2 becomes qwen2vl."""
    from safetensors.numpy import load_file

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    windowed = config["model_type"] == "gemma3_text"
    writer = gguf.GGUFWriter(path, "gemma3" if windowed else "qwen2vl" if rope_sections else config["model_type"].replace("mistral", "llama"))
    if rope_sections:
        writer.add_rope_dimension_sections(rope_sections)
    if windowed or config["model_type"] == "qwen3":
        writer.add_key_length(config["head_dim"])
        writer.add_value_length(config["head_dim"])
    if windowed:
        writer.add_sliding_window(config["sliding_window"])
    writer.add_name("tiny")
    writer.add_license("mit")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(1_000_000.0 if windowed else 10_000.0)
    writer.add_rope_dimension_count(config["hidden_size"] // config["num_attention_heads"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    write_vocabulary(writer, folder)
    names = _layer_names(config)
    for name, weights in load_file(folder / "model.safetensors").items():
        module, _, suffix = name.rpartition(".")
        target, heads = names[module]
        plain = weights.astype(np.float32 if weights.ndim == 1 else np.float16)
        if windowed and weights.ndim == 1:
            plain += 1  # its norms scale by one more than the weight
        writer.add_tensor(f"{target}.{suffix}", np.ascontiguousarray(_permuted(plain, heads) if heads else plain))
    finish_gguf(writer)
    return path


def write_window_gguf(base: Path) -> Path:
    """A GGUF file with random weights whose layers see 16 tokens back; as llama.cpp has it, every sixth sees everything."""
    path, folder = base / "tiny-window.gguf", base / "tiny-window"
    if not path.exists():
        layers = ["sliding_attention"] * 5 + ["full_attention"]
        write_gguf(path, write_folder(folder, "gemma3_text", num_hidden_layers=len(layers), layer_types=layers))
    return path


def write_gguf_adapter(path: Path, adapter: Path, base: Path) -> Path:
    """The GGUF form of a PEFT adapter."""
    from safetensors.numpy import load_file

    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    settings = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    writer = gguf.GGUFWriter(path, config["model_type"])
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(settings["lora_alpha"]))
    names = _layer_names(config)
    for name, weights in load_file(adapter / "adapter_model.safetensors").items():
        module, _, side = name.removeprefix("base_model.model.").removesuffix(".weight").rpartition(".")
        target, heads = names[module]
        values = _permuted(weights, heads) if heads and side == "lora_B" else weights
        writer.add_tensor(f"{target}.weight.{side.lower()}", np.ascontiguousarray(values.astype(np.float32)))
    finish_gguf(writer)
    return path


@dataclass(frozen=True)
class TinyFiles:
    """One trained llama in every form, and random weights elsewhere."""

    models: Path
    loras: Path

    @property
    def folder(self) -> Path:
        return self.models / "tiny"

    @property
    def gguf(self) -> Path:
        return self.models / "tiny.gguf"

    @property
    def adapter(self) -> Path:
        return self.loras / "first"

    @property
    def second_adapter(self) -> Path:
        return self.loras / "second"

    @property
    def gguf_adapter(self) -> Path:
        return self.loras / "first.gguf"


def tiny_files(base: Path) -> TinyFiles:
    """Make the files below a folder, once: a session of tests hands in its own folder and shares them."""
    files = TinyFiles(base / "tiny-files" / "models", base / "tiny-files" / "loras")
    if not files.gguf_adapter.is_file():
        write_folder(files.folder, trained=True)
        write_gguf(files.gguf, files.folder)
        write_adapter(files.adapter, files.folder)
        write_adapter(files.second_adapter, files.folder, seed=2, rank=2)
        write_gguf_adapter(files.gguf_adapter, files.adapter, files.folder)
    return files
