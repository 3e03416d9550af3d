"""What the model list says: from headers, broken ones with a sentence, nothing heavy imported."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from modules.core.errors import MissingRequirement, NotFound, UnsupportedFormat
from modules.loaders.folder_header import read_folder_template, safe_config
from modules.loaders.model_info import ModelFolder, list_adapters, list_models
from modules.loaders.registry import LOADERS, find_loader
from modules.loaders.spec import LoaderSpec
from tests.loaders.test_gguf_header import write
from tests.tiny_image_text import image_text_folder
from tests.tiny_models import TinyFiles


@pytest.fixture
def models(tmp_path: Path, tiny: TinyFiles) -> Path:
    """A model folder with one good model of each format."""
    folder = tmp_path / "models"
    shutil.copytree(tiny.folder, folder / "tiny")
    shutil.copy(tiny.gguf, folder / "tiny" / "tiny-F16.gguf")
    return folder


def problem(models: Path, name: str) -> str:
    info = ModelFolder(models, models).find(name)
    return info.problem


@pytest.mark.parametrize(
    ("line", "licence"),
    [("license: same as Paddock", "same as Paddock"), ('licence: "apache-2.0"  # yes', "apache-2.0"), ("license:\n- mit", ""), ("license: ", ""), ("lang: en", "")],
)
def test_the_licence_of_a_folder_is_read_as_a_whole(models: Path, line: str, licence: str) -> None:
    (models / "tiny" / "README.md").write_text(f"---\n{line}\n---\n# Tiny\n")
    assert list_models(models)[0].licence == licence


def test_both_formats_in_one_folder_are_two_models(models: Path) -> None:
    (models / "tiny" / "README.md").write_text("---\nlicense: mit\n---\n# Tiny\n")
    folder, file = list_models(models)
    assert (folder.name, folder.format, folder.architecture, folder.quantization) == ("tiny", "safetensors", "LlamaForCausalLM", "F16")
    assert (file.name, file.format, file.architecture, file.quantization) == ("tiny/tiny-F16.gguf", "gguf", "llama", "F16")
    assert folder.parameters == file.parameters > 100_000
    assert folder.size_bytes == (models / "tiny" / "model.safetensors").stat().st_size
    for info in (folder, file):
        assert (info.context_length, info.layers, info.vocab_size, info.licence, info.problem) == (256, 2, 320, "mit", "")
    assert folder.template == "tokenizer_config.json"
    assert file.template == "GGUF metadata"


def test_the_list_is_read_once_and_again_when_a_file_changes(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = ModelFolder(models, models)
    first = folder.models()
    with monkeypatch.context() as patch:
        patch.setattr("modules.loaders.model_info.read_info", lambda *_: pytest.fail("read again"))
        assert folder.models() == first
        assert folder.find("tiny") == first[0]
    path = models / "tiny" / "tiny-F16.gguf"
    path.write_bytes(path.read_bytes()[:5000])
    assert "cut short" in folder.find("tiny/tiny-F16.gguf").problem
    path.unlink()
    assert len(folder.models()) == 1
    with pytest.raises(NotFound, match="no model"):
        folder.find("tiny/tiny-F16.gguf")
    with pytest.raises(NotFound):
        folder.find("../../etc/passwd")


def test_parts_are_one_model(models: Path, tiny: TinyFiles) -> None:
    for number in (1, 2, 3):
        shutil.copy(tiny.gguf, models / f"big-0000{number}-of-00003.gguf")
    info = ModelFolder(models, models).find("big-00001-of-00003.gguf")
    assert info.size_bytes == 3 * tiny.gguf.stat().st_size
    assert len(list_models(models)) == 3
    folder = ModelFolder(models, models)
    (models / "big-00002-of-00003.gguf").unlink()
    assert "part 2 is missing" in folder.find(info.name).problem
    shutil.copy(tiny.gguf, models / "big-00002-of-00003.gguf")
    assert not folder.find(info.name).problem


def test_projectors_matrices_and_adapters_are_no_models(models: Path, tiny: TinyFiles) -> None:
    write(models / "mmproj-F16.gguf", "clip")
    write(models / "imatrix.gguf", general__type="imatrix")
    shutil.copy(tiny.gguf_adapter, models / "lora.gguf")
    shutil.copytree(tiny.adapter, models / "peft")
    names = {info.name: info.problem for info in list_models(models)}
    assert set(names) == {"tiny", "tiny/tiny-F16.gguf", "peft"}
    assert "move it to loras/" in names["peft"]


def test_depth_hidden_files_and_nothing_at_all(models: Path, tmp_path: Path, tiny: TinyFiles) -> None:
    for place in ("a/b", "a/b/c", ".hidden"):
        (models / place).mkdir(parents=True)
        shutil.copy(tiny.gguf, models / place / "m.gguf")
    names = [info.name for info in list_models(models)]
    assert "a/b/m.gguf" in names
    assert "a/b/c/m.gguf" not in names
    assert not any(".hidden" in name for name in names)
    assert list_models(tmp_path / "absent") == ()


def test_an_embedding_model_is_listed_as_one(models: Path) -> None:
    write(models / "embed.gguf", "nomic-bert", general__file_type=1)
    found = {info.name: info for info in list_models(models)}
    assert (found["embed.gguf"].can_write, found["embed.gguf"].problem) == (False, "")
    assert found["tiny"].can_write


def test_a_folder_of_an_image_text_model_is_listed_as_one_that_sees(models: Path) -> None:
    folder = image_text_folder(models / "seer", "llava")
    info = next(info for info in list_models(models) if info.name == "seer")
    assert info.sees and info.can_write and not info.problem
    assert (info.context_length, info.vocab_size, info.layers) == (512, 340, 2)
    config = (folder / "config.json").read_text(encoding="utf-8")
    (folder / "config.json").write_text(config.replace('"model_type": "llava"', '"model_type": "qwen3_5"'), encoding="utf-8")
    assert not any(info.sees for info in list_models(models))  # what reads its images is not here
    (folder / "config.json").write_text(config, encoding="utf-8")
    for name in ("preprocessor_config.json", "processor_config.json"):
        (folder / name).unlink()
    assert not any(info.sees for info in list_models(models))


def test_a_folder_without_config(models: Path) -> None:
    (models / "tiny" / "config.json").unlink()
    assert "no config.json" in problem(models, "tiny")


def test_a_folder_without_weights_or_with_pickles(models: Path) -> None:
    (models / "tiny" / "model.safetensors").unlink()
    (models / "tiny" / "tiny-F16.gguf").unlink()
    assert "no model.safetensors" in problem(models, "tiny")
    (models / "tiny" / "pytorch_model.bin").write_bytes(b"pickle")
    assert "can run code" in problem(models, "tiny")


def test_weights_cut_in_half(models: Path) -> None:
    path = models / "tiny" / "model.safetensors"
    size = path.stat().st_size
    os.truncate(path, size // 2)
    message = problem(models, "tiny")
    assert f"by its header it has {size / 1e3:.1f} kB, the file has {size // 2 / 1e3:.1f} kB" in message
    os.truncate(path, 100)
    assert "cut short" in problem(models, "tiny")
    os.truncate(path, 4)
    assert "not a safetensors file" in problem(models, "tiny")


@pytest.mark.parametrize(
    "head",
    [b"not json at all", b"[1, 2]", b'{"a": 1}', b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}', b'{"a": {"dtype": "F32", "shape": [-2], "data_offsets": [8, 0]}}', b"{" * 5000],
)
def test_a_damaged_weight_header(models: Path, head: bytes) -> None:
    (models / "tiny" / "model.safetensors").write_bytes(struct.pack("<Q", len(head)) + head + bytes(64))
    assert "damaged" in problem(models, "tiny")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_hidden_layers": 10**9}, "num_hidden_layers = 1000000000, the limit is 1024"),
        ({"text_config": {"vocab_size": 10**12}}, "vocab_size"),
        ({"transformers_weights": "adapter_model.bin"}, "do not trust"),
        ({"is_encoder_decoder": True}, "encoder-decoder"),
    ],
)
def test_a_dangerous_config(models: Path, change: dict[str, object], words: str) -> None:
    path = models / "tiny" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert words in problem(models, "tiny")


@pytest.mark.parametrize("name", ["w.bin", "../tiny2/model.safetensors", "/etc/passwd", "sub\\w.safetensors"])
def test_an_index_that_leads_elsewhere(models: Path, name: str) -> None:
    (models / "tiny" / "model.safetensors").rename(models / "tiny" / "model-1.safetensors")
    (models / "tiny" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-1.safetensors", "b": name}}))
    assert "do not trust" in problem(models, "tiny")


def test_an_index_with_a_missing_part(models: Path) -> None:
    (models / "tiny" / "model.safetensors").rename(models / "tiny" / "model-1.safetensors")
    (models / "tiny" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}))
    assert "lacks 1 of its 2 weight files (model-2.safetensors" in problem(models, "tiny")


def test_an_adapter_inside_a_model_folder(models: Path, tiny: TinyFiles) -> None:
    shutil.copy(tiny.adapter / "adapter_config.json", models / "tiny")
    assert "mixed in unasked" in problem(models, "tiny")


def test_a_config_is_cleaned_at_every_depth() -> None:
    dirty = {"auto_map": 1, "hidden_size": 2, "text_config": {"_attn_implementation": "org/kernel", "vocab_size": 3}}
    assert safe_config(dirty) == {"hidden_size": 2, "text_config": {"vocab_size": 3}}


def test_templates_in_all_their_places(tmp_path: Path) -> None:
    settings = {"bos_token": {"content": "<s>"}, "eos_token": "</s>"}
    assert read_folder_template(tmp_path) is None
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": "third"}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    found = read_folder_template(tmp_path)
    assert found is not None
    assert (found.text, found.origin, found.bos_token, found.eos_token) == ("third", "chat_template.json", "<s>", "</s>")
    named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "second"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": named}))
    assert (found := read_folder_template(tmp_path)) is not None
    assert (found.text, found.tool_text, found.for_tools().text, found.for_tools().origin) == ("second", "tools", "tools", "tokenizer_config.json (tool_use)")
    (tmp_path / "chat_template.jinja").write_text("first")
    assert (found := read_folder_template(tmp_path)) is not None
    assert found.text == "first"
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("newer")
    assert (found := read_folder_template(tmp_path)) is not None
    assert (found.text, found.tool_text) == ("first", "newer")


def test_adapters_of_both_kinds(tiny: TinyFiles, tmp_path: Path) -> None:
    loras = tmp_path / "loras"
    shutil.copytree(tiny.loras, loras)
    (loras / "broken").mkdir()
    (loras / "broken" / "adapter_config.json").write_text("{}")
    shutil.copy(tiny.gguf, loras / "model.gguf")
    rows = {info.name: info for info in list_adapters(loras)}
    assert set(rows) == {"first", "second", "first.gguf", "broken", "model.gguf"}
    assert (rows["first"].format, rows["first"].rank, rows["first"].alpha, rows["first"].loaders) == ("peft", 4, 16.0, ("transformers", "llama.cpp"))
    assert (rows["first.gguf"].format, rows["first.gguf"].rank, rows["first.gguf"].alpha) == ("gguf", 4, 16.0)
    assert rows["first.gguf"].architecture == "llama"
    assert rows["first.gguf"].loaders == ("llama.cpp",)
    assert "no adapter_model.safetensors" in rows["broken"].problem
    assert "not a LoRA adapter" in rows["model.gguf"].problem


def test_the_loader_is_chosen_by_the_files(models: Path) -> None:
    assert find_loader(models / "tiny").name == "transformers"
    assert find_loader(models / "tiny" / "tiny-F16.gguf").name == "llama.cpp"
    assert find_loader(models / "tiny", "transformers").name == "transformers"
    with pytest.raises(UnsupportedFormat, match=r"which the loader llama\.cpp reads"):
        find_loader(models / "tiny" / "tiny-F16.gguf", "transformers")
    with pytest.raises(NotFound, match=r"choose one of llama\.cpp, transformers"):
        find_loader(models / "tiny", "exl3")
    with pytest.raises(NotFound):
        find_loader(models / "absent")
    (models / "tiny" / "config.json").unlink()
    with pytest.raises(UnsupportedFormat, match=r"no config\.json"):
        find_loader(models / "tiny")


def test_a_missing_package_is_named(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = LOADERS[0]
    lacking = LoaderSpec(spec.name, spec.title, ("no-such-distribution",), spec.options, spec.accepts, spec.load)
    monkeypatch.setattr("modules.loaders.registry.LOADERS", (lacking,))
    with pytest.raises(MissingRequirement, match="no-such-distribution"):
        find_loader(models / "tiny" / "tiny-F16.gguf")


def test_the_list_imports_nothing_heavy(root: Path) -> None:
    """The web process reads headers and options of every loader, and must stay small."""
    code = (
        "import sys; from modules.loaders import registry, model_info; [spec.options() for spec in registry.LOADERS];"
        "print(sorted({'torch','transformers','llama_cpp','numpy','peft','gguf','safetensors'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
