"""Whether an adapter fits is said from headers alone, in agreement with what the loaded model then says."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from modules.core.errors import AppError, NotFound, UnsupportedFormat
from modules.core.model import Adapter
from modules.loaders.registry import find_loader
from tests.tiny_models import TinyFiles, write_adapter, write_folder, write_gguf

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def check(model: Path, adapter: Path) -> None:
    spec = find_loader(model)
    assert spec.adapter_check is not None
    spec.adapter_check(model)(adapter)


def changed(adapter: Path, to: Path, edit: Callable[[dict[str, Any]], Any] = lambda weights: weights, **settings: Any) -> Path:
    """A copy of a PEFT folder with other weights or settings."""
    shutil.copytree(adapter, to, ignore=shutil.ignore_patterns(".cache"))
    save_file(edit(load_file(to / WEIGHTS)), to / WEIGHTS)
    (to / CONFIG).write_text(json.dumps(json.loads((to / CONFIG).read_text()) | settings))
    return to


def test_what_fits_is_let_through(tiny: TinyFiles) -> None:
    for model in (tiny.folder, tiny.gguf):
        check(model, tiny.adapter)
    check(tiny.gguf, tiny.gguf_adapter)


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox", "qwen3", "qwen3_moe", "mixtral", "phi3", "opt", "bloom", "lfm2", "gemma3_text"])
def test_an_adapter_of_a_folder_fits_it_whatever_its_architecture(tmp_path: Path, kind: str) -> None:
    """Weights have other names in files than in the network here and there: that must not be taken for a misfit."""
    folder = write_folder(tmp_path / "base", kind)
    check(folder, write_adapter(tmp_path / "adapter", folder))


@pytest.mark.parametrize("form", ["folder", "gguf"])
@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"intermediate_size": 96}, r"made for another model: at \S+ it has \d+ × \d+ where this one has \d+ × \d+; (choose|load) (the adapter's|its) base model"),
        ({"num_hidden_layers": 1}, r"changes layer 2 and this model has 1 layers; (choose|load)"),
    ],
)
def test_another_shape_is_named(tiny: TinyFiles, tmp_path: Path, form: str, overrides: dict[str, int], words: str) -> None:
    other = write_folder(tmp_path / "other", "llama", **overrides)
    model = other if form == "folder" else write_gguf(tmp_path / "other.gguf", other)
    for adapter in (tiny.adapter, tiny.gguf_adapter):
        if form == "gguf" or adapter.is_dir():
            with pytest.raises(UnsupportedFormat, match=words):
                check(model, adapter)


def test_a_model_of_other_parts_is_named(tiny: TinyFiles, tmp_path: Path) -> None:
    other = write_folder(tmp_path / "other", "gpt2")
    with pytest.raises(UnsupportedFormat, match=r"changes \S+ and the like, which this model does not have; choose"):
        check(other, tiny.adapter)
    with pytest.raises(UnsupportedFormat, match="was made for llama models and this one is qwen2"):
        check(write_gguf(tmp_path / "other.gguf", write_folder(tmp_path / "qwen", "qwen2")), tiny.gguf_adapter)


def test_a_gguf_adapter_is_not_for_a_folder(tiny: TinyFiles) -> None:
    with pytest.raises(UnsupportedFormat, match="is a GGUF adapter, and this model is a safetensors folder; choose the adapter's PEFT folder"):
        check(tiny.folder, tiny.gguf_adapter)


def test_what_is_gone_or_torn_is_said(tiny: TinyFiles, tmp_path: Path) -> None:
    for model in (tiny.folder, tiny.gguf):
        with pytest.raises(NotFound):
            check(model, tmp_path / "none")
    torn = changed(tiny.adapter, tmp_path / "torn", lambda w: {name: np.zeros((9, 64), np.float32) if name.endswith("up_proj.lora_A.weight") else value for name, value in w.items()})
    for model in (tiny.folder, tiny.gguf):
        with pytest.raises(UnsupportedFormat, match="do not belong together"):
            check(model, torn)
    for settings, words in (({"peft_type": "IA3"}, "of type IA3"), ({"init_lora_weights": "pissa_niter_4"}, "changes the base model")):
        wrong = changed(tiny.adapter, tmp_path / str(settings).replace("'", "")[:12], **settings)
        for model in (tiny.folder, tiny.gguf):
            with pytest.raises(UnsupportedFormat, match=words):
                check(model, wrong)


def test_packed_weights_say_nothing_about_shapes(tiny: TinyFiles, tmp_path: Path) -> None:
    """A folder quantized by bitsandbytes holds bytes in other shapes than its layers have."""
    packed = Path(shutil.copytree(tiny.folder, tmp_path / "packed"))
    weights = load_file(packed / "model.safetensors")
    save_file({name: np.zeros((value.size // 2, 1), np.uint8) if "proj" in name else value for name, value in weights.items()}, packed / "model.safetensors")
    config = json.loads((packed / "config.json").read_text())
    (packed / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}))
    check(packed, tiny.adapter)


def test_the_loaded_model_agrees(tiny: TinyFiles, tmp_path: Path) -> None:
    foreign = write_adapter(tmp_path / "foreign", write_folder(tmp_path / "other", "llama", intermediate_size=96))
    for path in (tiny.folder, tiny.gguf):
        spec = find_loader(path)
        model = spec.load(path, spec.options(slots=1, threads=1), lambda *_: None)
        assert model.set_adapters is not None
        for adapter in (tiny.adapter, tiny.second_adapter, foreign, tmp_path / "none"):
            said = []
            for act in (lambda path=path, adapter=adapter: check(path, adapter), lambda model=model, adapter=adapter: model.set_adapters([Adapter(path=str(adapter))])):
                try:
                    act()
                    said.append(True)
                except AppError:
                    said.append(False)
            assert said[0] == said[1], adapter
        model.runner.close()


def test_checking_loads_no_library_that_runs_models(tiny: TinyFiles) -> None:
    program = (
        "import sys\nfrom pathlib import Path\nfrom modules.loaders.registry import find_loader\n"
        "for model in sys.argv[1:3]:\n    find_loader(Path(model)).adapter_check(Path(model))(Path(sys.argv[3]))\n"
        "assert not {'torch', 'transformers', 'peft', 'llama_cpp'} & set(sys.modules), 'heavy'\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tiny.folder), str(tiny.gguf), str(tiny.adapter)], check=True, timeout=60)
