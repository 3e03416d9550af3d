"""Whether a folder sees is decided by its kind and its files; where it cannot, it is loaded for text and says why."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from modules.core.errors import AppError
from modules.core.model import Adapter, ImageToken, Row
from modules.loaders.transformers import eyes
from modules.loaders.transformers.seeing_runner import SeeingRunner
from tests.loaders.test_seeing_runner import load_folder
from tests.tiny_image_text import image_text_folder
from tests.tiny_models import write_folder
from tests.tiny_vision import picture


@pytest.fixture
def folder(request: pytest.FixtureRequest, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of a family's folder, LLaVA's if a test names none."""
    family = getattr(request, "param", "llava")
    made = image_text_folder(tmp_path_factory.getbasetemp() / f"seeing-{family}", family)
    return Path(shutil.copytree(made, tmp_path / family))


def change(folder: Path, name: str, **values: Any) -> None:
    file = folder / name
    known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    file.write_text(json.dumps({key: value for key, value in (known | values).items() if value is not None}), encoding="utf-8")


def blind_note(folder: Path) -> str:
    """The only note of a folder that writes and does not see."""
    model = load_folder(folder)
    assert model.vision is None
    assert len(model.runner.forward([Row(0, 0, [5, 6, 7])])) == 1
    model.runner.close()
    (note,) = model.notes
    assert note.startswith("The model was loaded without seeing images: ")
    return note


def tokens_of(model: Any, file: bytes) -> int:
    return sum(isinstance(token, ImageToken) for token in model.vision.image_ids(file))


def test_a_folder_without_the_files_for_images_writes(folder: Path) -> None:
    (folder / "preprocessor_config.json").unlink()
    (folder / "processor_config.json").unlink()
    assert "no preprocessor_config.json" in blind_note(folder)


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is not None, reason="the package that is missing here is installed")
@pytest.mark.parametrize("folder", ["lfm2_vl"], indirect=True)
def test_a_processor_that_wants_a_package_is_named(folder: Path) -> None:
    model = load_folder(folder)
    assert model.vision is None and "not installed (torchvision); choose a GGUF version" in model.notes[-1]
    assert len(model.runner.forward([Row(0, 0, [5, 6, 7])])) == 1
    model.runner.close()


@pytest.mark.parametrize("folder", ["mistral3"], indirect=True)
def test_rows_of_an_image_end_with_their_marks(folder: Path) -> None:
    """As Mistral writes them: a mark behind each row, and another one behind the last."""
    model = load_folder(folder)
    vision: Any = model.vision
    words = {name: model.tokenizer.encode(name, add_special=False, parse_special=True)[0] for name in ("[IMG_BREAK]", "[IMG_END]")}
    ids = vision.image_ids(picture(1, (84, 56)))
    assert [-1 if isinstance(token, ImageToken) else token for token in ids] == [-1, -1, -1, words["[IMG_BREAK]"], -1, -1, -1, words["[IMG_END]"]]
    model.runner.close()


@pytest.mark.parametrize(
    "values",
    [{"size": {"shortest_edge": 60_000_000}}, {"crop_size": {"height": 9000, "width": 28}}, {"size": {"shortest_edge": 28, "longest_edge": 1 << 40}, "merge_size": 2}, {"max_patches": 5000}],
)
def test_absurd_sizes_are_refused_before_an_image_is_made(folder: Path, values: dict[str, Any]) -> None:
    change(folder, "preprocessor_config.json", **values)
    assert "and the limit is" in blind_note(folder)


def test_code_in_a_folder_is_not_run(folder: Path, tmp_path: Path) -> None:
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: pass\n", encoding="utf-8")
    foreign = {"auto_map": {"AutoImageProcessor": "own.Own", "AutoProcessor": "own.Own"}}
    change(folder, "preprocessor_config.json", **foreign)
    change(folder, "processor_config.json", audio_tokenizer={"audio_tokenizer_class": "own.Own", "audio_tokenizer_name_or_path": "elsewhere"}, **foreign)
    for kind in ("CLIPImageProcessor", "OwnImageProcessor"):  # where the library has none of that name it takes the one of the architecture
        change(folder, "preprocessor_config.json", image_processor_type=kind)
        model = load_folder(folder)
        assert tokens_of(model, picture(1)) == 16
        model.runner.close()
    assert not (tmp_path / "ran").exists()


def test_older_folders_of_llava_say_the_patch_in_the_config_only(folder: Path) -> None:
    (folder / "processor_config.json").unlink()
    model = load_folder(folder)
    assert tokens_of(model, picture(1)) == 16
    model.vision.look(model.vision.image_ids(picture(1)))  # type: ignore[union-attr]
    model.runner.close()


def test_a_processor_of_another_model_is_named_at_the_first_image(folder: Path) -> None:
    change(folder, "processor_config.json", patch_size=14)
    model = load_folder(folder)
    assert model.vision is not None
    with pytest.raises(AppError, match="reads 16 places at an image that has 4"):
        model.vision.look(model.vision.image_ids(picture(1)))
    model.runner.close()


@pytest.mark.parametrize("folder", ["gemma3"], indirect=True)
def test_a_kind_that_was_never_tried_is_compared_with_the_library(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eyes, "TRIED", frozenset())
    model = load_folder(folder)
    assert model.vision is not None and not model.notes
    assert model.runner.truncate(0, 0) == 0
    model.runner.close()
    monkeypatch.setattr(SeeingRunner, "_together", lambda self, helds, where, length: where[:, None, :, None] < 0)  # as if they did not see each other
    assert "does not read those of its architecture (gemma3)" in blind_note(folder)


@pytest.mark.parametrize("folder", ["qwen2_vl"], indirect=True)
def test_an_image_is_made_smaller_until_its_tokens_are_few_enough(folder: Path) -> None:
    model = load_folder(folder)
    assert tokens_of(model, picture(1, (400, 400))) == 16
    model.runner.close()
    small = load_folder(folder, image_tokens=6)
    assert 1 <= tokens_of(small, picture(1, (400, 400))) <= 6
    small.runner.close()


def test_an_adapter_that_reaches_into_the_tower_changes_what_is_seen(folder: Path, tmp_path: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageTextToText

    torch.manual_seed(0)
    base = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    adapted: Any = get_peft_model(base, LoraConfig(r=4, lora_alpha=64, init_lora_weights=False, task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj", "linear_1"]))
    adapted.save_pretrained(str(tmp_path / "lora"))
    model = load_folder(folder)
    vision: Any = model.vision
    assert model.set_adapters is not None
    ids = [7, 3, *vision.image_ids(picture(1)), 4, 5]

    def logits() -> Any:
        model.runner.truncate(0, 0)
        return torch.as_tensor(model.runner.forward([Row(0, 0, ids)])[0]).clone()

    plain = logits()
    model.set_adapters([Adapter(path=str(tmp_path / "lora"))])
    changed = logits()
    torch.testing.assert_close(changed, vision.plain_logits(picture(1), (7, 3), (4, 5)), rtol=0, atol=2e-3)
    assert (changed - plain).abs().max() > 0.05
    model.set_adapters([])
    torch.testing.assert_close(logits(), plain, rtol=0, atol=1e-5)
    assert model.embedder is not None
    assert model.embedder.embed([model.embedder.encode("The fox"), model.embedder.encode("A bird sang")], "mean").shape == (2, 64)
    model.runner.close()


@pytest.mark.parametrize("folder", ["qwen3_5"], indirect=True)
def test_a_kind_whose_texts_have_a_class_of_their_own_reads_texts_as_before(folder: Path) -> None:
    """Adapters trained on that class would not fit the other: what is loaded does not change by files for images."""
    model = load_folder(folder)
    assert model.vision is None and "does not read those of its architecture (qwen3_5)" in model.notes[-1]
    assert not any("visual" in name for name, _ in model.runner._network.model.named_parameters())  # type: ignore[attr-defined]
    assert len(model.runner.forward([Row(0, 0, [5, 6, 7])])) == 1
    model.runner.close()


def test_a_model_of_text_has_no_eyes_and_no_note(tmp_path: Path) -> None:
    model = load_folder(write_folder(tmp_path / "text"))
    assert model.vision is None and not model.notes
    model.runner.close()
