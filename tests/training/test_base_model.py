"""What can be a base model and how it is held; each thing that cannot is refused with its cure."""

from __future__ import annotations

import json
import math
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from modules.core.errors import (
    AppError,
    InvalidRequest,
    MissingRequirement,
    NotFound,
    OutOfMemory,
    UnsupportedFormat,
)
from modules.training.base_model import base_header, compute_dtype, layer_names, load_base
from modules.training.options import TrainingOptions
from tests.adapter_steps import difference, learn, logits, optimizer_of, step, token_ids
from tests.tiny_models import TinyFiles, write_folder

PLAIN = TrainingOptions()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("base") / "llama", "llama")


def changed(folder: Path, place: Path, **config: Any) -> Path:
    """A copy whose config.json has other values."""
    copy = shutil.copytree(folder, place)
    known = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    (copy / "config.json").write_text(json.dumps(known | config), encoding="utf-8")
    return copy


def test_it_is_frozen_whole_numbers_in_training_mode(folder: Path) -> None:
    import torch

    model = load_base(folder, PLAIN)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert model.training
    assert model.config.use_cache is False
    assert compute_dtype(TrainingOptions(precision="4bit")) is (torch.bfloat16 if torch.cuda.is_available() else torch.float32)


def test_its_own_dropout_is_off(tmp_path: Path) -> None:
    """GPT-2 leaves out a tenth by itself; while learning only what the options say is left out."""
    folder = write_folder(tmp_path / "gpt2", "gpt2")
    assert json.loads((folder / "config.json").read_text(encoding="utf-8"))["resid_pdrop"] > 0
    model = load_base(folder, PLAIN)
    assert difference(logits(model, token_ids()), logits(model, token_ids())) == 0
    learned = learn(folder, tmp_path / "initial", dropout=0.5)
    assert difference(learned.logits, learned.logits) > 0


@pytest.mark.parametrize(("precision", "bits"), [("8bit", 8), ("4bit", 4)])
def test_it_is_quantized_as_it_is_read(folder: Path, precision: Any, bits: int) -> None:
    model = load_base(folder, TrainingOptions(precision=precision))
    stored = model.model.layers[0].mlp.up_proj.weight
    assert stored.numel() * stored.element_size() * 8 == 64 * 128 * bits
    assert difference(logits(model, token_ids()), logits(load_base(folder, PLAIN), token_ids())) < 3
    if precision == "4bit":
        assert model.config.quantization_config.bnb_4bit_use_double_quant
        assert model.config.quantization_config.bnb_4bit_quant_type == "nf4"


@pytest.mark.parametrize("precision", ["4bit", "8bit"])
def test_a_look_changes_no_step_that_follows(folder: Path, tmp_path: Path, precision: Any) -> None:
    """Some processors repack 4-bit weights for good at the first pass without gradients, and no gradient goes through them afterwards."""
    straight, looked = (learn(folder, tmp_path / name, steps=1, precision=precision) for name in ("first", "second"))
    looked.model.eval()
    assert looked.logits.isfinite().all()
    looked.model.train()
    for learned in (straight, looked):
        optimizer = optimizer_of(learned.model, learned.options)
        step(learned.model, optimizer, learned.ids)
        learned.model(input_ids=learned.ids, labels=learned.ids, use_cache=False).loss.backward()
    ours, theirs = (dict(learned.model.named_parameters()) for learned in (straight, looked))
    for name, parameter in ours.items():
        if parameter.requires_grad:
            assert parameter.grad.abs().sum() > 0
            assert difference(parameter.grad, theirs[name].grad) == 0


def test_checkpointing_is_switched_on(folder: Path) -> None:
    assert load_base(folder, TrainingOptions(gradient_checkpointing=True)).is_gradient_checkpointing
    assert not load_base(folder, PLAIN).is_gradient_checkpointing


def test_a_model_that_is_stored_quantized_stays_so(folder: Path, tmp_path: Path) -> None:
    stored = tmp_path / "stored"
    model = load_base(folder, TrainingOptions(precision="4bit"))
    wanted = logits(model, token_ids())
    model.save_pretrained(stored)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / name, stored)
    assert difference(logits(load_base(stored, PLAIN), token_ids()), wanted) < 1e-4
    learned = learn(stored, tmp_path / "initial")
    assert learned.losses[-1] < learned.losses[0] - 0.3
    with pytest.raises(InvalidRequest, match="stored as bitsandbytes 4-bit nf4 and cannot be held as float32; set precision to auto"):
        load_base(stored, TrainingOptions(precision="float32"))
    with pytest.raises(InvalidRequest, match="cannot be divided among devices"):
        load_base(stored, TrainingOptions(sharding="fsdp2"))


def test_layers_are_named_without_loading_anything(folder: Path) -> None:
    assert layer_names(folder) == ("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj")
    code = (
        "import sys; from pathlib import Path; from modules.training.base_model import layer_names\n"
        "layer_names(Path(sys.argv[1])); sys.exit(bool({'torch', 'transformers', 'peft'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code, str(folder)], check=False).returncode == 0


def test_a_gguf_is_no_base(tiny: TinyFiles, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedFormat, match="is a GGUF file, and training needs the safetensors folder of this model"):
        load_base(tiny.gguf, PLAIN)
    shutil.copy(tiny.gguf, tmp_path)
    with pytest.raises(UnsupportedFormat, match="holds GGUF files, and training needs the safetensors folder"):
        load_base(tmp_path, PLAIN)


def test_an_adapter_is_no_base(tiny: TinyFiles) -> None:
    with pytest.raises(UnsupportedFormat, match="is an adapter, not a model; choose its base model"):
        load_base(tiny.adapter, PLAIN)


def test_a_model_with_an_adapter_in_it_is_refused(folder: Path, tiny: TinyFiles, tmp_path: Path) -> None:
    mixed = shutil.copytree(folder, tmp_path / "mixed")
    shutil.copy(tiny.adapter / "adapter_config.json", mixed)
    with pytest.raises(UnsupportedFormat, match="holds a model and a LoRA adapter"):
        load_base(mixed, PLAIN)


def test_a_folder_that_went_away(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="The base model gone is not there any more"):
        load_base(tmp_path / "gone", PLAIN)


def test_an_architecture_that_nobody_knows(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedFormat, match="does not know the architecture “zorgle”"):
        load_base(changed(folder, tmp_path / "new", model_type="zorgle"), PLAIN)


def test_no_code_of_a_folder_is_run(folder: Path, tmp_path: Path) -> None:
    copy = changed(folder, tmp_path / "code", auto_map={"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"})
    (copy / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')", encoding="utf-8")
    assert load_base(copy, PLAIN).config.model_type == "llama"
    assert not (tmp_path / "ran").exists()


def test_weights_that_lack_a_tensor(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedFormat, match=r"lack \d+ tensors that its config.json calls for"):
        load_base(changed(folder, tmp_path / "short", num_hidden_layers=3), PLAIN)


def test_a_model_that_does_not_continue_text(tmp_path: Path) -> None:
    from transformers import ViTConfig, ViTModel

    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    ViTModel(ViTConfig(**small)).save_pretrained(tmp_path / "vit")
    with pytest.raises(UnsupportedFormat, match="is not a model that continues text; choose another base model"):
        load_base(tmp_path / "vit", PLAIN)


def test_what_does_not_fit_is_refused_before_it_is_read(folder: Path, tmp_path: Path) -> None:
    """A model of 2 TB by its header; the file has holes and takes no room."""
    huge = shutil.copytree(folder, tmp_path / "huge")
    rows = 1 << 39
    head = json.dumps({"lm_head.weight": {"dtype": "F16", "shape": [rows, 2], "data_offsets": [0, rows * 4]}}).encode()
    head += b" " * (-len(head) % 8)
    with (huge / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(head)) + head)
        file.truncate(8 + len(head) + rows * 4)
    assert math.isclose(base_header(huge).parameters, 2 * rows)
    with pytest.raises(OutOfMemory, match=r"huge in float32 needs about 4398.0 GB of memory and .* is free; choose precision 4bit or a smaller model"):
        load_base(huge, PLAIN)


def test_quantizing_needs_its_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(MissingRequirement, match="Precision 4bit needs the package bitsandbytes"):
        load_base(folder, TrainingOptions(precision="4bit"))


def test_divided_weights_are_not_quantized(folder: Path) -> None:
    with pytest.raises(AppError, match="cannot be divided among devices; set sharding to none, or precision to bfloat16"):
        load_base(folder, TrainingOptions(precision="4bit", sharding="fsdp2"))
