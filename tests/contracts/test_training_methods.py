"""Every way to learn on every kind of model: the loss falls, and what is saved gives the same logits to plain PEFT, to our loader, and merged.

Differences are the largest of all logits, which here go to about 5: at most 1e-5 read back, 2e-5 merged.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from modules.core.model import Adapter
from modules.loaders.transformers.adapters import AdapterSet
from modules.training.base_model import layer_names, load_base
from modules.training.options import TrainingOptions
from tests.adapter_steps import difference, learn, logits, plain
from tests.tiny_models import write_folder

READ_BACK, MERGED, SHORT_NUMBERS = 1e-5, 2e-5, 0.15
TIED = {"tie_word_embeddings": True}
MODELS: dict[str, dict[str, Any]] = {
    "llama": {}, "qwen3": TIED, "gpt_neox": {}, "gpt2": TIED, "gemma3_text": TIED, "phi3": {}, "mistral": {}, "qwen3_moe": {},
}  # fmt: skip
METHODS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"rslora": True, "dropout": 0.1},
    "dora": {"dora": True},
    "pissa": {"pissa": True},
    "pissa, rslora, dora": {"pissa": True, "rslora": True, "dora": True},
    "lora+": {"lora_plus_ratio": 8},
    "tables": {"train_embeddings": True},
    "tokens": {"new_tokens": ("<|wild|>", "zorgle")},
}
THOROUGH = ("llama", "gpt2", "gemma3_text")  # rotated, transposed, with scaled tables; the others are asked what could differ in them
ELSEWHERE = ("lora", "pissa, rslora, dora", "tables", "tokens")
PAIRS = [(kind, method) for kind in MODELS for method in METHODS if kind in THOROUGH or method in ELSEWHERE]
QUANTIZED: dict[str, dict[str, Any]] = {
    "4bit": {"precision": "4bit", "gradient_checkpointing": True},
    "4bit dora": {"precision": "4bit", "dora": True},
    "4bit tables": {"precision": "4bit", "train_embeddings": True},
    "8bit": {"precision": "8bit"},
    "8bit tokens": {"precision": "8bit", "new_tokens": ("zorgle",)},
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("models")
    return {kind: write_folder(base / kind, kind, **settings) for kind, settings in MODELS.items()}


@pytest.mark.parametrize(("kind", "method"), PAIRS)
def test_a_method_learns_and_is_read_back_and_merged(models: dict[str, Path], tmp_path: Path, kind: str, method: str) -> None:
    from peft import PeftModel

    learned = learn(models[kind], tmp_path / "initial", **METHODS[method])
    assert learned.losses[-1] < learned.losses[0] - 0.3
    learned.model.eval()
    folder, wanted = learned.save(tmp_path / "adapter"), learned.logits
    rows = learned.model.get_input_embeddings().weight.shape[0]

    ours = plain(models[kind], rows)
    before = logits(ours, learned.ids)
    assert difference(before, wanted) > 0.5  # else nothing was learned, and all below would hold
    adapters = AdapterSet(ours)
    adapters.apply([Adapter(path=str(folder))])
    assert difference(logits(ours, learned.ids), wanted) <= READ_BACK
    adapters.apply([])
    assert difference(logits(ours, learned.ids), before) == 0

    theirs = PeftModel.from_pretrained(plain(models[kind], rows), str(folder)).eval()
    assert difference(logits(theirs, learned.ids), wanted) <= READ_BACK
    assert difference(logits(theirs.merge_and_unload(), learned.ids), wanted) <= MERGED


@pytest.mark.parametrize("method", QUANTIZED)
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_quantized_base_learns_and_is_merged_after_dequantizing(models: dict[str, Path], tmp_path: Path, kind: str, method: str) -> None:
    import torch
    from peft import PeftModel

    learned = learn(models[kind], tmp_path / "initial", **QUANTIZED[method])
    assert learned.losses[-1] < learned.losses[0] - 0.3
    folder, wanted = learned.save(tmp_path / "adapter"), learned.logits
    rows = learned.model.get_input_embeddings().weight.shape[0]

    def again() -> Any:
        model = load_base(models[kind], TrainingOptions(precision=learned.options.precision))
        if rows > model.get_input_embeddings().weight.shape[0]:
            model.resize_token_embeddings(rows, mean_resizing=False)
        return model

    read = PeftModel.from_pretrained(again(), str(folder)).train()
    assert difference(logits(read, learned.ids), wanted) <= READ_BACK
    merged = PeftModel.from_pretrained(again().dequantize(dtype=torch.float32), str(folder)).merge_and_unload()
    assert difference(logits(merged, learned.ids), wanted) <= MERGED


@pytest.mark.parametrize("method", ["lora", "tables", "pissa"])
def test_short_numbers_differ_by_their_rounding_alone(models: dict[str, Path], tmp_path: Path, method: str) -> None:
    """Bfloat16 has three digits: read back exactly where it is added, and within rounding where it is put into the weights."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    learned = learn(models["llama"], tmp_path / "initial", precision="bfloat16", **METHODS[method])
    assert learned.losses[-1] < learned.losses[0] - 0.3
    base = AutoModelForCausalLM.from_pretrained(models["llama"], dtype=torch.bfloat16)
    read = PeftModel.from_pretrained(base, str(learned.save(tmp_path / "adapter")))
    found = difference(logits(read, learned.ids), learned.logits)
    assert found <= (READ_BACK if method == "lora" else SHORT_NUMBERS)
    assert difference(logits(read.merge_and_unload(), learned.ids), learned.logits) <= SHORT_NUMBERS


@pytest.mark.parametrize("kind", MODELS)
def test_checkpointing_gives_the_same_losses(models: dict[str, Path], tmp_path: Path, kind: str) -> None:
    whole = learn(models[kind], tmp_path / "first", steps=2)
    twice = learn(models[kind], tmp_path / "second", steps=2, gradient_checkpointing=True)
    assert twice.losses == pytest.approx(whole.losses, abs=1e-5)


@pytest.mark.parametrize("kind", MODELS)
def test_the_layers_that_are_named_before_are_those_adapted(models: dict[str, Path], tmp_path: Path, kind: str) -> None:
    learned = learn(models[kind], tmp_path / "initial", steps=1)
    adapted = {name.split(".lora_A")[0].rpartition(".")[2] for name, _ in learned.model.named_parameters() if ".lora_A." in name}
    assert set(layer_names(models[kind])) == adapted


@pytest.mark.parametrize("kind", ["qwen3_moe", "mixtral", "gpt_oss"])
def test_experts_can_be_adapted_by_name(tmp_path: Path, kind: str) -> None:
    from peft import PeftModel

    folder = write_folder(tmp_path / kind, kind)
    learned = learn(folder, tmp_path / "initial", target_all=False, target_modules=("q_proj", "experts.gate_up_proj", "experts.down_proj"))
    assert learned.losses[-1] < learned.losses[0] - 0.3
    assert any(".experts." in name for name, parameter in learned.model.named_parameters() if parameter.requires_grad)
    saved, wanted = learned.save(tmp_path / "adapter"), learned.logits
    ours = plain(folder)
    AdapterSet(ours).apply([Adapter(path=str(saved))])
    assert difference(logits(ours, learned.ids), wanted) <= READ_BACK
    merged = PeftModel.from_pretrained(plain(folder), str(saved)).merge_and_unload()
    assert difference(logits(merged, learned.ids), wanted) <= MERGED


def test_a_real_chat_model_learns_too(testdata: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    folder = testdata / "models" / "tinytalk3m-chat-gpt2"
    learned = learn(folder, tmp_path / "initial", steps=6, dora=True, learning_rate=3e-3)
    assert learned.losses[-1] < learned.losses[0] - 0.3
    saved, wanted = learned.save(tmp_path / "adapter"), learned.logits
    read = PeftModel.from_pretrained(plain(folder), str(saved))
    scale = float(wanted.abs().max())  # its logits go to 20
    assert difference(logits(read, learned.ids), wanted) <= READ_BACK * scale
    assert difference(logits(read.merge_and_unload(), learned.ids), wanted) <= MERGED * scale


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
