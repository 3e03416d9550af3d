"""Files that the models area shows: an adapter with real effect, a model that is broken."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file


def write_adapter(folder: Path, base_model: Path, rank: int = 4) -> None:
    """A PEFT adapter for a Llama folder: weights drawn once, strong enough to change every reply."""
    config = json.loads((base_model / "config.json").read_text(encoding="utf-8"))
    draw = np.random.default_rng(7)
    weights = {}
    for layer in range(config["num_hidden_layers"]):
        name = f"base_model.model.model.layers.{layer}.mlp.up_proj.lora_"
        weights[f"{name}A.weight"] = draw.normal(0, 0.4, (rank, config["hidden_size"])).astype(np.float32)
        weights[f"{name}B.weight"] = draw.normal(0, 0.4, (config["intermediate_size"], rank)).astype(np.float32)
    folder.mkdir(parents=True)
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    about = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base_model.name, "r": rank, "lora_alpha": rank,
             "target_modules": ["up_proj"], "lora_dropout": 0.0, "bias": "none", "fan_in_fan_out": False, "inference_mode": True}  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(about), encoding="utf-8")


def write_broken_model(file: Path, whole: Path) -> None:
    """The first half of a GGUF file, as an interrupted download leaves it."""
    content = whole.read_bytes()
    file.write_bytes(content[: len(content) // 2])
