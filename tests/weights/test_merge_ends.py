"""How a merge ends: bounded memory, kill -9, cancel, a full disk, a name that is taken, and a sentence for everything that cannot be merged."""

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

from modules.core.errors import AppError, UnsupportedFormat
from modules.core.job import Cancelled
from modules.loaders.fingerprint import fingerprint
from modules.weights import publishing
from tests.tiny_models import TinyFiles
from tests.weights.job import Job, leftovers
from tests.weights.merging import CONFIG, WEIGHTS, merge


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is asked of Linux")
def test_memory_does_not_grow_with_the_model(tmp_path: Path, models: Path) -> None:
    """A model of 127 MB whose largest matrices are half of it each, with DoRA: the process grows by less than one of them."""
    base, width, long = tmp_path / "base", 1024, 30_000
    base.mkdir()
    (base / "config.json").write_text(json.dumps({"model_type": "llama", "num_hidden_layers": 1}))
    draw = np.random.default_rng(0)
    shapes = {"model.embed_tokens": (long, width), "lm_head": (long, width), "model.layers.0.mlp.up_proj": (2000, width)}
    save_file({f"{name}.weight": draw.integers(0, 100, shape, np.int16).view(np.float16) for name, shape in shapes.items()}, base / "model.safetensors")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    pairs = {}
    for name in ("lm_head", "model.layers.0.mlp.up_proj"):
        pairs |= {f"base_model.model.{name}.lora_A.weight": draw.normal(size=(8, width)).astype(np.float32), f"base_model.model.{name}.lora_B.weight": draw.normal(size=(shapes[name][0], 8)).astype(np.float32)}
        pairs |= {f"base_model.model.{name}.lora_magnitude_vector": np.ones(shapes[name][0], np.float32)}
    save_file(pairs, adapter / WEIGHTS)
    (adapter / CONFIG).write_text(json.dumps({"peft_type": "LORA", "r": 8, "lora_alpha": 8, "use_dora": True}))
    program = (
        "import re, sys\nfrom pathlib import Path\nfrom modules.weights.adapter_merge import MergeAdapterArgs, run\nfrom tests.weights.job import Job\n"
        "def peak():\n    return int(re.search(r'VmHWM:\\s+(\\d+) kB', Path('/proc/self/status').read_text())[1]) * 1024\n"
        "models, base, adapter = map(Path, sys.argv[1:])\nbefore = peak()\n"
        "run(MergeAdapterArgs(name='a', folder=adapter, base='b', base_path=base, target='merged', models_dir=models), Job(models / 'job'))\n"
        "assert not {'torch', 'transformers', 'peft'} & set(sys.modules), 'heavy'\n"
        "print(peak() - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(models), str(base), str(adapter)], check=True, capture_output=True, text=True, timeout=60)
    assert int(done.stdout) < 60e6
    assert (models / "merged" / "model.safetensors").stat().st_size > 120e6


def test_killed_at_any_moment_it_leaves_no_model_and_the_next_job_cleans_up(tiny: TinyFiles, tmp_path: Path, models: Path) -> None:
    program = (
        "import os, sys\nfrom pathlib import Path\nfrom modules.weights.adapter_merge import MergeAdapterArgs, run\nfrom tests.weights.job import Job\n"
        "models, base, adapter = map(Path, sys.argv[1:4])\n"
        "class Killed(Job):\n"
        "    def progress(self, *rest, **more):\n"
        "        super().progress(*rest, **more)\n"
        "        if len(self.said) == int(sys.argv[4]):\n"
        "            os.kill(os.getpid(), 9)\n"
        "run(MergeAdapterArgs(name='a', folder=adapter, base='b', base_path=base, target='merged', models_dir=models), Killed(models / 'job'))\n"
    )
    job = Job(models)
    merge(tiny.adapter, tiny.folder, models, job, target="whole")
    wanted = (models / "whole" / "model.safetensors").read_bytes()
    for moment in (1, len(job.said) // 2, len(job.said)):
        killed = subprocess.run([sys.executable, "-c", program, str(models), str(tiny.folder), str(tiny.adapter), str(moment)], check=False, timeout=60)
        assert killed.returncode == -9
        assert [path.name for path in models.iterdir() if not path.name.startswith(".")] == ["whole"]
    assert leftovers(models)
    merged = merge(tiny.adapter, tiny.folder, models, target="merged")
    assert (merged / "model.safetensors").read_bytes() == wanted
    assert leftovers(models) == []


def test_stopped_or_without_room_it_leaves_nothing(tiny: TinyFiles, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for stop_after in (0, 3, 12):
        with pytest.raises(Cancelled):
            merge(tiny.adapter, tiny.folder, models, Job(models / "job", stop_after=stop_after))
        assert leftovers(models) == []
    monkeypatch.setattr(publishing, "RESERVE_BYTES", 1 << 60)
    with pytest.raises(AppError, match=r"The result needs \d+\.\d .B and .* is free on the disk of models/ .*; free some space"):
        merge(tiny.adapter, tiny.folder, models)
    assert not list(models.glob("[!.]*"))


def test_a_disk_that_fills_up_is_a_sentence(tiny: TinyFiles, models: Path) -> None:
    """The limit on the length of a file is the nearest thing to a full disk that a test may have."""
    program = (
        "import resource, signal, sys\nfrom pathlib import Path\nfrom modules.core.errors import AppError\nfrom modules.weights.adapter_merge import MergeAdapterArgs, run\n"
        "from tests.weights.job import Job\nmodels, base, adapter = map(Path, sys.argv[1:])\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nresource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try:\n    run(MergeAdapterArgs(name='a', folder=adapter, base='b', base_path=base, target='merged', models_dir=models), Job(models / 'job'))\n"
        "except AppError as error:\n    print(error.message)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(models), str(tiny.folder), str(tiny.adapter)], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout == "The disk of models/ is full and nothing was kept; free some space, then try again.\n"
    assert leftovers(models) == []


def test_a_name_that_is_taken_gets_a_number(tiny: TinyFiles, models: Path) -> None:
    (models / "mine").mkdir()
    assert [merge(tiny.adapter, tiny.folder, models, target="mine").name for _ in range(2)] == ["mine-2", "mine-3"]
    assert list((models / "mine").iterdir()) == []


@pytest.fixture
def adapter(tiny: TinyFiles, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny.adapter, tmp_path / "first", ignore=shutil.ignore_patterns(".cache")))


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


Weights = dict[str, np.ndarray]
UP = "base_model.model.model.layers.0.mlp.up_proj."


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda w: {}, "holds no weights"),
        (lambda w: {key: value for key, value in w.items() if key != UP + "lora_B.weight"}, "weights for model.layers.0.mlp.up_proj do not belong together"),
        (lambda w: {key.replace("layers.1", "layers.7"): value for key, value in w.items()}, "changes model.layers.7.mlp.* which tiny does not have; choose the adapter's base"),
        (lambda w: w | {UP + "lora_A.weight": np.zeros((4, 65), np.float32)}, "at model.layers.0.mlp.up_proj it has 65 × 128 where tiny has 64 × 128; choose"),
        (lambda w: w | {UP + "lora_A.weight": np.full((4, 64), np.nan, np.float32)}, "up_proj.weight would hold values that are not numbers"),
        (lambda w: w | {UP + "lora_B.weight": np.full((128, 4), 1e6, np.float32)}, "beyond 65504, the most that float16 can say; merge with a smaller scale"),
        (lambda w: w | {UP + "lora_A.weight": np.zeros((4, 64), np.int8)}, "stores weights as I8"),
        (lambda w: w | {UP + "lora_magnitude_vector": np.ones(128, np.float32)}, "do not belong together"),
        (lambda w: w | {UP + "lora_B.bias": np.ones(128, np.float32)}, "holds .*lora_B.bias, for which there is no place"),
        (lambda w: w | {"base_model.model.model.norm.weight": np.ones(65, np.float32)}, "at model.norm.weight it has 65 where tiny has 64"),
        (lambda w: w | {"base_model.model.model.embed_tokens.weight": np.ones((330, 64), np.float32)}, "has 330 tokens in its word table and 320 in its output"),
        (lambda w: w | {"base_model.model.visual.proj.weight": np.ones(65, np.float32)}, "holds visual.proj.weight, which tiny does not have"),
        (lambda w: w | {"prompt_embeddings": np.ones(65, np.float32)}, "holds prompt_embeddings, which is no weight"),
    ],
)
def test_weights_that_have_no_place_are_refused(tiny: TinyFiles, adapter: Path, models: Path, edit: Callable[[Weights], Weights], words: str) -> None:
    save_file(edit(load_file(adapter / WEIGHTS)), adapter / WEIGHTS)
    with pytest.raises(UnsupportedFormat, match=words):
        merge(adapter, tiny.folder, models)
    assert not list(models.glob("[!.]*"))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"peft_type": "IA3"}, "of type IA3"),
        ({"auto_mapping": {"a": 1}}, "do not trust"),
        ({"use_dora": True}, "do not belong together"),
        ({"target_parameters": ["mlp.experts"]}, "trained expert parameters, for which there is no place .*; use it unmerged"),
        ({"r": 8}, "has rank 4, its settings say 8"),
        ({"lora_bias": True}, "biases of its own"),
    ],
)
def test_settings_that_cannot_be_merged(tiny: TinyFiles, adapter: Path, models: Path, values: dict[str, Any], words: str) -> None:
    change(adapter / CONFIG, **values)
    with pytest.raises(UnsupportedFormat, match=words):
        merge(adapter, tiny.folder, models)


def test_another_base_of_the_same_shapes_is_refused_where_the_adapter_knows_its_own(tiny: TinyFiles, adapter: Path, models: Path, tmp_path: Path) -> None:
    (adapter / "training.json").write_text(json.dumps({"base_fingerprint": fingerprint(tiny.folder).model_dump()}))
    other = Path(shutil.copytree(tiny.folder, tmp_path / "other"))
    assert merge(adapter, other, models).name == "other-merged"  # a copy is the same model
    weights = load_file(other / "model.safetensors")
    save_file({name: -tensor for name, tensor in weights.items()}, other / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UnsupportedFormat, match=r"The adapter first was trained on another base model: other differs in its weights\. Choose"):
        merge(adapter, other, models)


def test_a_quantized_base_is_refused_and_a_qlora_adapter_merges_into_the_stored_one(tiny: TinyFiles, adapter: Path, models: Path, tmp_path: Path) -> None:
    packed = Path(shutil.copytree(tiny.folder, tmp_path / "packed"))
    change(packed / "config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"})
    with pytest.raises(UnsupportedFormat, match="packed is stored as bitsandbytes 4-bit nf4, into which nothing can be merged exactly; choose the unquantized"):
        merge(adapter, packed, models)
