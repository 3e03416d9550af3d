"""Merged models: the logits of PEFT whatever was learned, and everything of the base beside the weights."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from modules.core.errors import UnsupportedFormat
from modules.loaders.fingerprint import fingerprint
from modules.loaders.model_info import read_info
from tests.tiny_models import make_model, write_tokenizer
from tests.weights.job import Job
from tests.weights.merging import WEIGHTS, merge

ATOL = 2e-5  # float32, logits of a few units
IDS = [list(range(5, 29)), list(range(100, 124))]


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


def write_base(folder: Path, kind: str = "llama", dtype: str = "float32", **settings: Any) -> Path:
    import torch

    model = make_model(kind, **settings)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.div_(3)  # logits of a few units, as a trained model has them
    write_tokenizer(folder)
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    return folder


def logits(model: Any) -> np.ndarray:
    import torch

    with torch.inference_mode():
        return model.eval()(input_ids=torch.tensor(IDS)).logits.float().numpy()


def load(folder: Path, dtype: str = "float32") -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)


def with_peft(base: Path, adapter: Path, scale: float = 1.0, rows: int = 0, dtype: str = "float32") -> np.ndarray:
    from peft import PeftModel
    from peft.tuners.lora.layer import LoraLayer

    model = load(base, dtype)
    if rows:
        model.resize_token_embeddings(rows, mean_resizing=False)
    adapted = PeftModel.from_pretrained(model, adapter)
    for module in adapted.modules():
        if isinstance(module, LoraLayer):
            module.set_scale("default", scale)
    return logits(adapted)


def learned(folder: Path, base: Path, rows: int = 0, **settings: Any) -> Path:
    """An adapter in which everything that can be learned has random values."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(3)
    model = load(base)
    if rows:
        model.resize_token_embeddings(rows, mean_resizing=False)
    config = LoraConfig(**{"r": 4, "lora_alpha": 8, "init_lora_weights": False, "task_type": "CAUSAL_LM", "target_modules": "all-linear"} | settings)
    adapted = get_peft_model(model, config)
    for name, parameter in adapted.named_parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn_like(parameter) * (0.03 if "lora_" in name else 0.1 * parameter.std().item() + 0.01)
    adapted.save_pretrained(folder, save_embedding_layers=False)
    return folder


TABLES = {"modules_to_save": ["embed_tokens", "lm_head"]}
LLAMA: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"use_rslora": True, "r": 8},
    "dora": {"use_dora": True},
    "patterns": {"rank_pattern": {"k_proj": 2}, "alpha_pattern": {"layers.0.self_attn.q_proj": 10}},
    "tables": TABLES,
    "head": {"target_modules": ["lm_head", "q_proj"]},
    "table pair": {"target_modules": ["embed_tokens", "q_proj"]},
    "norms": {"modules_to_save": ["norm"]},
    "tokens": {"trainable_token_indices": {"embed_tokens": [7, 3], "lm_head": [7, 3]}},
}


@pytest.mark.parametrize("kind", LLAMA)
def test_a_merged_model_has_the_logits_of_peft(tmp_path: Path, models: Path, kind: str) -> None:
    """Largest difference of a logit of all kinds: 3.3e-6, of logits up to 3."""
    base = write_base(tmp_path / "base")
    adapter = learned(tmp_path / "adapter", base, **LLAMA[kind])
    check(base, adapter, models)


def check(base: Path, adapter: Path, models: Path, rows: int = 0, atol: float = ATOL) -> Any:
    wanted = with_peft(base, adapter, rows=rows)
    merged = load(merge(adapter, base, models))
    assert np.abs(wanted[..., :320] - logits(load(base))[..., :320]).max() > 0.01, "the adapter does nothing"
    np.testing.assert_allclose(logits(merged), wanted, atol=atol, rtol=0)
    return merged


TIED: dict[str, dict[str, Any]] = {
    "tables, one": {**TABLES, "ensure_weight_tying": True},
    "tables, two": TABLES,
    "table alone": {"modules_to_save": ["embed_tokens"]},
    "table pair": {"target_modules": ["embed_tokens", "q_proj"]},
    "head": {"target_modules": ["lm_head", "q_proj"]},
    "tokens": {"trainable_token_indices": {"embed_tokens": [7, 3]}},
}


@pytest.mark.parametrize("kind", TIED)
def test_where_the_output_is_the_word_table(tmp_path: Path, models: Path, kind: str) -> None:
    base = write_base(tmp_path / "base", tie_word_embeddings=True)
    adapter = learned(tmp_path / "adapter", base, **TIED[kind])
    assert "lm_head.weight" not in load_file(base / "model.safetensors")
    merged = check(base, adapter, models)
    assert merged.config.tie_word_embeddings == (kind in ("tables, one", "tokens"))


@pytest.mark.parametrize("tied", [True, False])
def test_new_tokens_make_the_model_larger(tmp_path: Path, models: Path, tied: bool) -> None:
    base = write_base(tmp_path / "base", tie_word_embeddings=tied)
    indices = {"embed_tokens": [320, 321]} | ({} if tied else {"lm_head": [320, 321]})
    adapter = learned(tmp_path / "adapter", base, rows=322, trainable_token_indices=indices)
    (adapter / "tokenizer.json").write_text((base / "tokenizer.json").read_text().replace("}", "} ", 1))
    merged = check(base, adapter, models, rows=322)
    assert merged.config.vocab_size == 322
    assert (models / "base-merged" / "tokenizer.json").read_text() == (adapter / "tokenizer.json").read_text()


@pytest.mark.parametrize("settings", [{}, {"use_dora": True}, {"bias": "all"}, {"target_modules": ["c_attn"], "bias": "lora_only"}])
def test_gpt2_keeps_its_matrices_the_other_way_round(testdata: Path, tmp_path: Path, models: Path, settings: dict[str, Any]) -> None:
    """A real chat model. Largest difference of a logit: 5.3e-5, of logits up to 25, which float32 tells apart by 2e-6."""
    base = testdata / "models" / "tinytalk3m-chat-gpt2"
    check(base, learned(tmp_path / "adapter", base, **settings), models, atol=1e-4)


@pytest.mark.parametrize("kind", ["qwen3", "gemma3_text", "phi3", "gpt_neox", "mixtral", "opt", "bloom"])
def test_other_architectures(tmp_path: Path, models: Path, kind: str) -> None:
    base = write_base(tmp_path / "base", kind)
    settings = {"target_modules": ["q_proj", "o_proj"]} if kind == "mixtral" else {}  # its experts are not matrices of their own
    check(base, learned(tmp_path / "adapter", base, **settings), models)


@pytest.mark.parametrize("scale", [0.5, 0.0, -1.0])
@pytest.mark.parametrize("settings", [{}, {"use_dora": True, **TABLES}])
def test_the_scale_acts_as_in_chat(tmp_path: Path, models: Path, scale: float, settings: dict[str, Any]) -> None:
    base = write_base(tmp_path / "base")
    adapter = learned(tmp_path / "adapter", base, **settings)
    wanted = with_peft(base, adapter, scale)
    np.testing.assert_allclose(logits(load(merge(adapter, base, models, scale=scale))), wanted, atol=ATOL, rtol=0)


def test_pissa_saved_as_plain_lora(tmp_path: Path, models: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model

    base = write_base(tmp_path / "base")
    torch.manual_seed(0)
    adapted = get_peft_model(load(base), LoraConfig(r=4, lora_alpha=4, init_lora_weights="pissa_niter_4", target_modules=["q_proj", "up_proj"], task_type="CAUSAL_LM"))
    adapted.save_pretrained(tmp_path / "beginning")
    with pytest.raises(UnsupportedFormat, match="was saved as pissa_niter_4, which changes the base model"):
        merge(tmp_path / "beginning", base, models)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data += torch.randn_like(parameter) * 0.05
    wanted = logits(adapted)
    adapted.save_pretrained(tmp_path / "adapter", path_initial_model_for_weight_conversion=str(tmp_path / "beginning"))
    np.testing.assert_allclose(logits(load(merge(tmp_path / "adapter", base, models))), wanted, atol=5e-5, rtol=0)  # the conversion alone costs 1e-5


@pytest.mark.parametrize(("dtype", "limit"), [("float16", 2e-2), ("bfloat16", 2e-1)])
def test_the_base_keeps_its_type(tmp_path: Path, models: Path, dtype: str, limit: float) -> None:
    """The sum is rounded once; every weight is the nearest that the type has."""
    import torch
    from safetensors.torch import load_file as load_torch

    base = write_base(tmp_path / "base", dtype=dtype)
    adapter = learned(tmp_path / "adapter", base)
    merged = merge(adapter, base, models)
    before, after, pairs = (load_torch(path) for path in (base / "model.safetensors", merged / "model.safetensors", adapter / WEIGHTS))
    assert {tensor.dtype for tensor in after.values()} == {getattr(torch, dtype)}
    name = "model.layers.0.mlp.up_proj"
    first, second = (pairs[f"base_model.model.{name}.lora_{side}.weight"] for side in "AB")
    wanted = (before[f"{name}.weight"].float() + 2.0 * second @ first).to(getattr(torch, dtype))
    assert (after[f"{name}.weight"] != wanted).float().mean() < 1e-3  # a sum in another order may fall on the other side
    assert np.abs(logits(load(merged)) - with_peft(base, adapter)).max() < limit


def test_in_several_files_with_an_index_and_everything_beside(tmp_path: Path, models: Path) -> None:
    base = write_base(tmp_path / "base")
    (base / "chat_template.jinja").write_text("{{ messages }}")
    (base / "LICENSE").write_text("do as you like")
    (base / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    (base / "paddock.json").write_text("{}")
    (base / "pytorch_model.bin").write_bytes(b"code")
    adapter = learned(tmp_path / "adapter", base)
    job = Job(models)
    merged = merge(adapter, base, models, job, shard_bytes=60_000, scale=0.5)
    index = json.loads((merged / "model.safetensors.index.json").read_text())
    shards = sorted(merged.glob("*.safetensors"))
    assert len(shards) > 4
    assert set(index["weight_map"]) == set(load_file(base / "model.safetensors"))
    assert index["metadata"]["total_size"] == (base / "model.safetensors").stat().st_size - header_bytes(base / "model.safetensors")
    assert all(shard.stat().st_size - header_bytes(shard) <= 60_000 or len(load_file(shard)) == 1 for shard in shards)
    np.testing.assert_allclose(logits(load(merged)), with_peft(base, adapter, 0.5), atol=ATOL, rtol=0)
    assert {path.name for path in merged.iterdir() if path not in shards} == {
        "LICENSE", "README.md", "chat_template.jinja", "config.json", "generation_config.json", "merged.json", "model.safetensors.index.json", "tokenizer.json",
        "tokenizer_config.json",
    }  # fmt: skip
    info = read_info(merged, models)
    assert (info.problem, info.licence, info.template) == ("", "apache-2.0", "chat_template.jinja")
    note = json.loads((merged / "merged.json").read_text())
    assert note["base"] == {"name": "base", **fingerprint(base).model_dump()}
    assert (note["adapter"]["name"], note["scale"], set(note["files"])) == ("adapter", 0.5, {shard.name for shard in shards})
    assert note["files"][shards[0].name] == sha256(shards[0])
    assert job.said[-1][0] == job.said[-1][1]
    assert str(tmp_path) not in "".join(path.read_text() for path in merged.iterdir() if path not in shards)


def header_bytes(path: Path) -> int:
    return 8 + int.from_bytes(path.read_bytes()[:8], "little")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
