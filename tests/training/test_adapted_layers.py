"""Which layers, experts, tables and tokens an adapter changes, by name or all; and what a loaded model then takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from modules.core.errors import InvalidRequest, UnsupportedFormat
from modules.core.model import Adapter
from modules.loaders.transformers.adapter_check import adapter_check
from modules.loaders.transformers.adapters import AdapterSet
from modules.training import adapter
from modules.training.options import TrainingOptions
from tests.adapter_steps import attached, difference, learn, logits, plain
from tests.tiny_models import write_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("base") / "llama", "llama")


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("base") / "tied", "llama", tie_word_embeddings=True)


def settings_of(folder: Path) -> dict[str, Any]:
    settings: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    return settings


# ---- what is adapted -----------------------------------------------------------------------------------------------------


def adapted(model: Any) -> set[str]:
    return {name.split(".lora_A")[0].removeprefix("base_model.model.") for name, _ in model.named_parameters() if ".lora_A." in name}


@pytest.mark.parametrize(
    ("named", "wanted"),
    [
        (("q_proj", "down_proj"), {f"model.layers.{layer}.{part}" for layer in (0, 1) for part in ("self_attn.q_proj", "mlp.down_proj")}),
        (("mlp.up_proj",), {"model.layers.0.mlp.up_proj", "model.layers.1.mlp.up_proj"}),
        (("layers.1.self_attn.o_proj",), {"model.layers.1.self_attn.o_proj"}),
        (("lm_head",), {"lm_head"}),
    ],
)
def test_layers_by_the_end_of_their_names(folder: Path, tmp_path: Path, named: tuple[str, ...], wanted: set[str]) -> None:
    learned = learn(folder, tmp_path / "initial", target_all=False, target_modules=named)
    assert adapted(learned.model) == wanted
    ours = plain(folder)
    AdapterSet(ours).apply([Adapter(path=str(learned.save(tmp_path / "saved")))])
    assert difference(logits(ours, learned.ids), learned.logits) <= 1e-5


def test_a_name_that_stands_for_nothing(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="No layer of this model is called c_attn; it has down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"):
        attached(folder, TrainingOptions(target_all=False, target_modules=("q_proj", "c_attn")), tmp_path)
    with pytest.raises(InvalidRequest, match="No layer of this model is called proj;"):  # part of a name is no name
        attached(folder, TrainingOptions(target_all=False, target_modules=("proj",)), tmp_path)


def test_a_tied_output_is_learned_as_a_table_or_not_at_all(tied: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="lm_head shares its weights with the word table, .* turn on train_embeddings instead"):
        attached(tied, TrainingOptions(target_all=False, target_modules=("lm_head",)), tmp_path)
    model = attached(tied, TrainingOptions(rank=4, train_embeddings=True), tmp_path)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_weights_that_kernels_read_directly_are_left(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "mamba", "mamba")
    learned = learn(folder, tmp_path / "initial")
    assert {name.rpartition(".")[2] for name in adapted(learned.model)} == {"in_proj", "x_proj", "dt_proj"}
    assert learned.losses[-1] < learned.losses[0]


def test_experts_take_plain_lora_only(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "moe", "qwen3_moe")
    for more in ({"dora": True}, {"pissa": True}, {"dropout": 0.1}):
        with pytest.raises(InvalidRequest, match="weights of experts are learned by plain LoRA alone"):
            attached(folder, TrainingOptions(target_all=False, target_modules=("gate_up_proj",), **more), tmp_path / "initial")
    learned = learn(folder, tmp_path / "initial", steps=1, target_all=False, target_modules=("gate_up_proj",))
    adapter_check(folder)(learned.save(tmp_path / "saved"))  # experts alone are enough
    with pytest.raises(InvalidRequest, match="it has experts.down_proj, experts.gate_up_proj, k_proj"):
        attached(folder, TrainingOptions(target_all=False, target_modules=("up_proj",)), tmp_path / "initial")


def test_eyes_are_not_adapted(tmp_path: Path) -> None:
    """Of a model that sees, what reads text is adapted, though its vision tower has layers of the same names."""
    from peft import PeftModel
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration, SiglipVisionConfig

    from tests.tiny_models import tiny_config, write_tokenizer

    eyes = SiglipVisionConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14)
    config = Gemma3Config(
        text_config=tiny_config("gemma3_text").to_dict(), vision_config=eyes.to_dict(), mm_tokens_per_image=1, image_token_index=5,
        boi_token_index=6, eoi_token_index=7,
    )  # fmt: skip
    folder = tmp_path / "gemma3"
    Gemma3ForConditionalGeneration(config).save_pretrained(folder)
    write_tokenizer(folder)
    learned = learn(folder, tmp_path / "initial")
    assert adapted(learned.model)
    assert not any("vision" in name for name in adapter.weights(learned.model))
    assert learned.losses[-1] < learned.losses[0]
    learned.model.eval()
    adapter_check(folder)(learned.save(tmp_path / "saved"))
    read = PeftModel.from_pretrained(plain(folder), str(learned.save(tmp_path / "saved"))).eval()
    assert difference(logits(read, learned.ids), learned.logits) <= 1e-5


# ---- what cannot go together ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"pissa": True, "precision": "4bit"}, "pissa takes its beginning out of the base weights, which 8 and 4 bits cannot hold exactly; turn pissa off"),
        ({"dora": True, "precision": "8bit"}, "dora on a model held in 8 bits needs a graphics card; set precision to 4bit or auto"),
    ],
)
def test_options_that_exclude_each_other(folder: Path, tmp_path: Path, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidRequest, match=sentence):
        attached(folder, TrainingOptions(**options), tmp_path)


# ---- tokens and tables ---------------------------------------------------------------------------------------------------


def test_new_tokens_begin_in_the_middle_and_bring_their_tokenizer(folder: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    table = plain(folder).get_input_embeddings().weight.detach()
    learned = learn(folder, tmp_path / "initial", steps=0, new_tokens=("<|wild|>", "zorgle"))
    rows = learned.model.get_input_embeddings().weight.detach()
    assert rows.shape[0] == table.shape[0] + 2
    assert difference(rows[-2:], table.mean(0).expand(2, -1)) < 1e-6
    saved = learned.save(tmp_path / "saved")
    ids = AutoTokenizer.from_pretrained(saved)("hat <|wild|> zorgle", add_special_tokens=False)["input_ids"]
    assert {len(table), len(table) + 1} <= set(ids)
    assert set(settings_of(saved)["trainable_token_indices"]) == {"embed_tokens", "lm_head"}


def test_a_token_that_is_there_is_learned_in_place(folder: Path, tmp_path: Path) -> None:
    learned = learn(folder, tmp_path / "initial", new_tokens=("<|im_start|>",))
    ours = plain(folder)
    assert learned.model.get_input_embeddings().weight.shape == ours.get_input_embeddings().weight.shape
    AdapterSet(ours).apply([Adapter(path=str(learned.save(tmp_path / "saved")))])
    assert difference(logits(ours, learned.ids), learned.logits) <= 1e-5


@pytest.mark.parametrize("more", [{}, {"train_embeddings": True}])
def test_a_loaded_model_takes_no_tokens_it_has_no_row_for(folder: Path, tmp_path: Path, more: dict[str, Any]) -> None:
    learned = learn(folder, tmp_path / "initial", steps=1, new_tokens=("zorgle",), **more)
    saved = learned.save(tmp_path / "saved")
    ours = plain(folder)
    before = logits(ours, learned.ids % 300)
    adapters = AdapterSet(ours)
    with pytest.raises(UnsupportedFormat, match="saved adds tokens to the vocabulary .*; merge it into its base model and load the result"):
        adapters.apply([Adapter(path=str(saved))])
    assert difference(logits(ours, learned.ids % 300), before) == 0


def test_rows_to_spare_make_no_token_known(tmp_path: Path) -> None:
    """A word table may have more rows than the tokenizer has tokens; a new one learned there is still in pieces for a loaded model."""
    folder = write_folder(tmp_path / "spare", "llama", vocab_size=352)
    learned = learn(folder, tmp_path / "initial", steps=1, new_tokens=("zorgle",))
    assert learned.model.get_input_embeddings().weight.shape[0] == 352
    assert settings_of(learned.save(tmp_path / "saved"))["trainable_token_indices"]["embed_tokens"][0] < 352
    with pytest.raises(UnsupportedFormat, match="saved adds tokens that this model's tokenizer does not know; merge it"):
        adapter_check(folder)(tmp_path / "saved")
    adapter_check(folder)(learn(folder, tmp_path / "initial", steps=1, new_tokens=("<|im_end|>",)).save(tmp_path / "known"))


def test_one_adapter_with_a_table_at_a_time(folder: Path, tmp_path: Path) -> None:
    first = learn(folder, tmp_path / "first", steps=1, train_embeddings=True).save(tmp_path / "one")
    second = learn(folder, tmp_path / "second", steps=2, train_embeddings=True).save(tmp_path / "two")
    third = learn(folder, tmp_path / "third", steps=2).save(tmp_path / "three")
    adapters = AdapterSet(plain(folder))
    with pytest.raises(UnsupportedFormat, match="one and two both bring a word table of their own"):
        adapters.apply([Adapter(path=str(first)), Adapter(path=str(second))])
    adapters.apply([Adapter(path=str(first)), Adapter(path=str(third))])
    with pytest.raises(UnsupportedFormat, match="one and two both"):
        adapters.apply([Adapter(path=str(second)), Adapter(path=str(first))])
    adapters.apply([Adapter(path=str(second))])
