"""An adapter begins the same way every time, resumes exactly, is saved plainly, goes on from another one, and says what it cannot be."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from modules.core.errors import AppError, InvalidRequest, UnsupportedFormat
from modules.core.model import Adapter
from modules.loaders.transformers.adapters import AdapterSet
from modules.training import adapter
from modules.training.base_model import load_base
from modules.training.fingerprint import fingerprint
from modules.training.options import TrainingOptions
from tests.adapter_steps import attached, difference, learn, logits, optimizer_of, plain, step
from tests.tiny_models import write_folder

KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "dora": {"dora": True},
    "pissa": {"pissa": True},
    "tables": {"train_embeddings": True},
    "tokens": {"new_tokens": ("<|wild|>",)},
    "4bit": {"precision": "4bit"},
    "8bit": {"precision": "8bit"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("base") / "llama", "llama")


def settings_of(folder: Path) -> dict[str, Any]:
    settings: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    return settings


# ---- begin and resume ----------------------------------------------------------------------------------------------------


def test_the_seed_decides_the_beginning(folder: Path, tmp_path: Path) -> None:
    import torch

    options = TrainingOptions(rank=4, seed=7)
    first = adapter.weights(attached(folder, options, tmp_path))
    torch.manual_seed(123)
    torch.rand(5)
    again = adapter.weights(attached(folder, options, tmp_path))
    other = adapter.weights(attached(folder, options.model_copy(update={"seed": 8}), tmp_path))
    assert list(first) == list(again)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first if "lora_A" in name)


def test_attaching_leaves_the_random_numbers_of_the_run_alone(folder: Path, tmp_path: Path) -> None:
    import torch

    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    model = load_base(folder, TrainingOptions())
    adapter.attach(model, TrainingOptions(rank=4, pissa=True), initial=tmp_path)
    assert torch.equal(torch.rand(3), wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_was_killed_goes_on_bit_for_bit(folder: Path, tmp_path: Path, kind: str) -> None:
    import torch

    straight = learn(folder, tmp_path / "run", steps=0, **KINDS[kind])
    optimizer = optimizer_of(straight.model, straight.options)
    for _ in range(2):
        step(straight.model, optimizer, straight.ids)
    kept = {name: tensor.clone() for name, tensor in adapter.weights(straight.model).items()}
    states = copy.deepcopy(optimizer.state_dict())
    losses = [step(straight.model, optimizer, straight.ids) for _ in range(2)]

    resumed = learn(folder, tmp_path / "run", steps=0, **KINDS[kind])  # another process would load and attach like this
    adapter.put_weights(resumed.model, kept)
    optimizer = optimizer_of(resumed.model, resumed.options)
    optimizer.load_state_dict(states)
    assert [step(resumed.model, optimizer, resumed.ids) for _ in range(2)] == losses
    ours, theirs = adapter.weights(straight.model), adapter.weights(resumed.model)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert torch.equal(straight.logits, resumed.logits)


def test_pissa_begins_where_the_model_is(folder: Path, tmp_path: Path) -> None:
    """Its main directions are in the adapter and no longer in the base, so that together nothing has changed."""
    learned = learn(folder, tmp_path / "initial", steps=0, pissa=True)
    wanted = logits(plain(folder), learned.ids)
    assert difference(learned.logits, wanted) < 2e-5
    with learned.model.disable_adapter():
        assert difference(learned.logits, wanted) > 0.5
    first = next(tensor for name, tensor in adapter.weights(learned.model).items() if "lora_B" in name)
    assert first.abs().max() > 0.01


def test_pissa_of_wide_layers_takes_the_main_directions(tmp_path: Path) -> None:
    """Beyond a width they are found by projections: as much of the weights as an exact decomposition would take out."""
    import torch

    wide = write_folder(tmp_path / "wide", "llama", hidden_size=640, intermediate_size=640, num_hidden_layers=1)
    weight = plain(wide).model.layers[0].mlp.up_proj.weight.detach()
    model = attached(wide, TrainingOptions(rank=8, pissa=True, target_all=False, target_modules=("up_proj",)), tmp_path / "initial")
    rest = model.base_model.model.model.layers[0].mlp.up_proj.get_base_layer().weight.detach()
    sizes = torch.linalg.svdvals(weight)
    least = (sizes[8:] ** 2).sum().sqrt()
    assert float(rest.norm()) == pytest.approx(float(least), rel=1e-3)


def test_weights_of_another_adapter_are_not_put(folder: Path, tmp_path: Path) -> None:
    kept = adapter.weights(attached(folder, TrainingOptions(rank=4), tmp_path))
    other = attached(folder, TrainingOptions(rank=8), tmp_path)
    with pytest.raises(UnsupportedFormat, match="belongs to another adapter: 28 weights differ"):
        adapter.put_weights(other, kept)
    with pytest.raises(UnsupportedFormat, match="belongs to another adapter"):
        adapter.put_weights(other, {})


@pytest.mark.parametrize("kind", KINDS)
def test_switching_off_and_on_changes_nothing(folder: Path, tmp_path: Path, kind: str) -> None:
    learned = learn(folder, tmp_path / "initial", steps=1, **KINDS[kind])
    before, wanted = set(adapter.weights(learned.model)), learned.logits
    with learned.model.disable_adapter():
        assert difference(learned.logits, wanted) > 0
    assert set(adapter.weights(learned.model)) == before
    assert difference(learned.logits, wanted) == 0


def test_divided_weights_are_whole_in_a_checkpoint(folder: Path, tmp_path: Path) -> None:
    """FSDP2 holds parts of each weight; one process is enough to go through it."""
    import torch
    import torch.distributed as distributed
    from torch.distributed.fsdp import fully_shard

    whole = adapter.weights(attached(folder, TrainingOptions(rank=4), tmp_path))
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        model = attached(folder, TrainingOptions(rank=4, sharding="fsdp2"), tmp_path)
        fully_shard(model)
        assert all(hasattr(parameter, "device_mesh") for parameter in model.parameters())
        found = adapter.weights(model)
        assert all(torch.equal(found[name], whole[name]) for name in whole)
        adapter.put_weights(model, {name: tensor + 1 for name, tensor in whole.items()})
        assert all(torch.equal(adapter.weights(model)[name], whole[name] + 1) for name in whole)
        adapter.save(model, TrainingOptions(rank=4), tmp_path / "saved", initial=tmp_path)
    finally:
        distributed.destroy_process_group()
    assert (tmp_path / "saved" / "adapter_model.safetensors").stat().st_size > 4 * sum(tensor.numel() for tensor in whole.values())


# ---- the optimizer's groups ----------------------------------------------------------------------------------------------


def test_lora_plus_gives_second_matrices_another_rate(folder: Path, tmp_path: Path) -> None:
    options = TrainingOptions(rank=4, dora=True, learning_rate=1e-3, lora_plus_ratio=16, weight_decay=0.1)
    model = attached(folder, options, tmp_path)
    places = {id(parameter): (group["lr"], group["weight_decay"]) for group in adapter.parameter_groups(model, options) for parameter in group["params"]}
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert len(places) == len(trained)
    for name, parameter in trained.items():
        wanted = (1.6e-2, 0.1) if "lora_B" in name else (1e-3, 0.0 if "magnitude" in name else 0.1)
        assert places[id(parameter)] == pytest.approx(wanted)


def test_without_it_there_is_one_group(folder: Path, tmp_path: Path) -> None:
    options = TrainingOptions(rank=4)
    groups = adapter.parameter_groups(attached(folder, options, tmp_path), options)
    assert [(group["lr"], group["weight_decay"]) for group in groups] == [(options.learning_rate, 0)]


# ---- saved ---------------------------------------------------------------------------------------------------------------


def test_what_is_saved_names_the_base_and_no_place(folder: Path, tmp_path: Path) -> None:
    learned = learn(folder, tmp_path / "initial", steps=1)
    saved = tmp_path / "saved"
    adapter.save(learned.model, learned.options, saved, initial=learned.initial, base_name="org/llama")
    settings = settings_of(saved)
    assert settings["base_model_name_or_path"] == "org/llama"
    assert str(tmp_path) not in json.dumps(settings)
    assert str(folder.parent) not in json.dumps(settings)
    assert settings["target_modules"] == sorted(settings["target_modules"])
    assert (settings["r"], settings["lora_alpha"], settings["inference_mode"], settings["init_lora_weights"]) == (4, 8, True, True)
    assert sorted(file.name for file in saved.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    assert settings_of(learned.save(tmp_path / "unnamed"))["base_model_name_or_path"] == "llama"
    adapter.save(learned.model, learned.options, tmp_path / "again", initial=learned.initial, base_name="org/llama")
    for file in saved.iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()


@pytest.mark.parametrize(("rslora", "alpha"), [(False, 16), (True, 8 * 2**0.5)])
def test_pissa_is_saved_as_plain_lora_of_twice_the_rank(folder: Path, tmp_path: Path, rslora: bool, alpha: float) -> None:
    from safetensors.torch import load_file

    learned = learn(folder, tmp_path / "initial", steps=2, pissa=True, rslora=rslora)
    saved = learned.save(tmp_path / "saved")
    settings = settings_of(saved)
    assert (settings["r"], settings["init_lora_weights"]) == (8, True)
    assert settings["lora_alpha"] == pytest.approx(alpha)
    assert {min(tensor.shape) for tensor in load_file(saved / "adapter_model.safetensors").values()} == {8}
    learned.save(tmp_path / "twice")  # saving changes nothing in the model
    assert (tmp_path / "twice" / "adapter_model.safetensors").read_bytes() == (saved / "adapter_model.safetensors").read_bytes()


def test_an_adapter_of_a_quantized_base_serves_the_unquantized_one(tmp_path: Path) -> None:
    """GPT-2's layers are turned round when they are quantized, and the adapter goes on the others all the same."""
    folder = write_folder(tmp_path / "gpt2", "gpt2")
    learned = learn(folder, tmp_path / "initial", steps=12, precision="8bit")
    ours = plain(folder)
    before = ours(input_ids=learned.ids, labels=learned.ids).loss.item()
    AdapterSet(ours).apply([Adapter(path=str(learned.save(tmp_path / "saved")))])
    assert ours(input_ids=learned.ids, labels=learned.ids).loss.item() < before - 2


# ---- going on from an adapter --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["lora", "dora", "tables", "tokens"])
def test_it_goes_on_where_another_ended(folder: Path, tmp_path: Path, kind: str) -> None:
    first = learn(folder, tmp_path / "first", **KINDS[kind])
    saved = first.save(tmp_path / "saved")
    second = learn(folder, tmp_path / "second", continue_from=saved, **KINDS[kind])
    assert difference(learn(folder, tmp_path / "third", steps=0, continue_from=saved, **KINDS[kind]).logits, first.logits) == 0
    assert second.losses[0] < first.losses[-1]
    assert second.losses[-1] < second.losses[0]


def test_a_pissa_goes_on_as_the_plain_lora_that_it_became(folder: Path, tmp_path: Path) -> None:
    first = learn(folder, tmp_path / "first", pissa=True)
    saved = first.save(tmp_path / "saved")
    second = learn(folder, tmp_path / "second", steps=0, continue_from=saved, rank=8, alpha=16)
    assert difference(second.logits, first.logits) <= 1e-5
    with pytest.raises(InvalidRequest, match="pissa begins an adapter anew and cannot continue one"):
        learn(folder, tmp_path / "third", continue_from=saved, rank=8, alpha=16, pissa=True)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"rank": 8}, r"saved has rank 4 \(not 8\); set the same"),
        ({"alpha": 4, "rslora": True}, r"has alpha 8 \(not 4.0\), rslora False \(not True\)"),
        ({"target_all": False, "target_modules": ("q_proj",)}, "adapt different weights: 24 differ"),
        ({"train_embeddings": True}, "adapt different weights: 2 differ"),
    ],
)
def test_another_kind_of_adapter_is_not_gone_on_with(folder: Path, tmp_path: Path, options: dict[str, Any], sentence: str) -> None:
    saved = learn(folder, tmp_path / "first", steps=1).save(tmp_path / "saved")
    with pytest.raises(InvalidRequest, match=sentence):
        learn(folder, tmp_path / "second", continue_from=saved, **options)


def test_another_base_of_the_same_shapes_is_refused(folder: Path, tmp_path: Path) -> None:
    saved = learn(folder, tmp_path / "first", steps=1).save(tmp_path / "saved")
    other = write_folder(tmp_path / "other", "llama", seed=5)
    learn(other, tmp_path / "unknown", steps=0, continue_from=saved)  # no card says what it was trained on
    (saved / "training.json").write_text(json.dumps({"base_fingerprint": fingerprint(folder).model_dump()}), encoding="utf-8")
    learn(folder, tmp_path / "same", steps=0, continue_from=saved)
    with pytest.raises(InvalidRequest, match="saved was trained on another base model: other differs in its weights. Choose the model it was trained on"):
        learn(other, tmp_path / "second", continue_from=saved)


def test_a_damaged_adapter_is_not_gone_on_with(folder: Path, tmp_path: Path) -> None:
    saved = learn(folder, tmp_path / "first", steps=1).save(tmp_path / "saved")
    cut = shutil.copytree(saved, tmp_path / "cut")
    (cut / "adapter_model.safetensors").write_bytes((saved / "adapter_model.safetensors").read_bytes()[:-100])
    strange = shutil.copytree(saved, tmp_path / "strange")
    (strange / "adapter_config.json").write_text(json.dumps(settings_of(saved) | {"peft_type": "IA3"}), encoding="utf-8")
    for broken, sentence in ((cut, "weights of the adapter cut cannot be read"), (strange, "is of type IA3"), (tmp_path / "gone", "cannot be read")):
        with pytest.raises(AppError, match=sentence):
            learn(folder, tmp_path / "second", continue_from=broken)
