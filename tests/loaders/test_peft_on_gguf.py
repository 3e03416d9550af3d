"""PEFT folders on GGUF models: the same numbers as on transformers, kept once, and a sentence for everything that cannot work."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from modules.core.errors import AppError, NotFound, UnsupportedFormat
from modules.core.model import Adapter, LoadedModel, Row
from modules.loaders.llama_cpp import adapter_file
from modules.loaders.registry import find_loader
from tests.loaders.greedy import row_of
from tests.tiny_models import TinyFiles, write_adapter, write_folder, write_gguf

IDS = list(range(10, 40))
CLOSE = 2e-2  # as in the loaders' contract; the effects below are at least ten times that
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def load(path: Path) -> LoadedModel:
    spec = find_loader(path)
    return spec.load(path, spec.options(threads=1, slots=1, **({"threads_batch": 1} if spec.name == "llama.cpp" else {})), lambda *_: None)


def logits(model: LoadedModel, *adapters: tuple[Path, float]) -> np.ndarray:
    assert model.set_adapters is not None
    model.set_adapters([Adapter(path=str(path), scale=scale) for path, scale in adapters])
    model.runner.truncate(0, 0)
    result = np.array(row_of(model.runner.forward([Row(0, 0, IDS)])[0]))
    model.runner.truncate(0, 0)
    return result


@pytest.fixture
def pair(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[LoadedModel, LoadedModel]]:
    """The same random weights on both back ends."""
    more: dict[str, Any] = {"layer_types": ["sliding_attention"] * 5 + ["full_attention"], "num_hidden_layers": 6} if request.param == "gemma3_text" else {}
    folder = write_folder(tmp_path / "base", request.param, **more)
    models = load(folder), load(write_gguf(tmp_path / "base.gguf", folder))
    yield models
    for model in models:
        model.runner.close()


@pytest.mark.parametrize("pair", ["llama", "qwen2", "qwen3", "gemma3_text"], indirect=True)
def test_a_peft_folder_gives_the_same_logits_on_both_back_ends(pair: tuple[LoadedModel, LoadedModel], tmp_path: Path) -> None:
    """Plain, rank-stabilised, with own ranks and alphas, stored in halves; alone, at half strength, together, and gone again."""
    base = tmp_path / "base"
    plain = write_adapter(tmp_path / "plain", base)
    stabilised = write_adapter(tmp_path / "stabilised", base, seed=2, rank=8, alpha=4, use_rslora=True)
    varied = write_adapter(
        tmp_path / "varied", base, seed=3, rank_pattern={"k_proj": 2, "^model.layers.1.mlp.up_proj": 6},
        alpha_pattern={"layers.0.self_attn.q_proj": 40, "proj": 9},
    )  # fmt: skip
    head = write_adapter(tmp_path / "head", base, seed=4, target_modules=["lm_head", "v_proj"])
    save_file(without(load_file(head / WEIGHTS), "base_model.model.lm_head.base_layer.weight"), head / WEIGHTS)  # PEFT adds a copy of the base
    halves = tmp_path / "halves"
    shutil.copytree(stabilised, halves)
    store_as_bf16(halves / WEIGHTS)
    before = [logits(model) for model in pair]
    strengths: tuple[list[tuple[Path, float]], ...] = (
        [(plain, 0.3)], [(stabilised, 0.5)], [(varied, 0.3)], [(head, 0.5)], [(halves, 1.0)], [(plain, 0.2), (varied, -0.1)],
    )  # fmt: skip
    for chosen in strengths:
        first, second = (logits(model, *chosen) for model in pair)
        assert np.abs(first - before[0]).max() > 10 * CLOSE
        np.testing.assert_allclose(second, first, atol=CLOSE)
    np.testing.assert_array_equal(logits(pair[1]), before[1])


def store_as_bf16(path: Path) -> None:
    """Round every weight to bfloat16 and write the file by hand: NumPy has no such type."""
    rounded = {name: (np.ascontiguousarray(values.astype("<f4")).view("<u4") >> 16).astype("<u2") for name, values in load_file(path).items()}
    table, body = {}, b""
    for name, values in rounded.items():
        table[name] = {"dtype": "BF16", "shape": values.shape, "data_offsets": [len(body), len(body) + values.nbytes]}
        body += values.tobytes()
    head = json.dumps(table).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + body)


def effects(paths: tuple[Path, Path], adapter: Path, scale: float) -> list[np.ndarray]:
    """What an adapter adds to the logits of a model in both formats; taken off, it leaves no trace."""
    found = []
    for path in paths:
        model = load(path)
        before = logits(model)
        found.append(logits(model, (adapter, scale)) - before)
        np.testing.assert_array_equal(logits(model), before)
        model.runner.close()
    return found


def test_the_starter_model_changes_alike_on_both_back_ends(starter_dir: Path, starter_gguf: Path, tmp_path: Path) -> None:
    """Its GGUF is quantized, so the share of what the adapter adds is compared: 3 to 5 % of it are rounding, as the processor's instructions have it."""
    first, second = effects((starter_dir, starter_gguf), write_adapter(tmp_path / "adapter", starter_dir, rank=8), 0.1)
    assert np.abs(first).max() > 1
    assert np.linalg.norm(second - first) < 0.1 * np.linalg.norm(first)


@pytest.mark.parametrize("name", ["stories260K", "tinystories656k-bytes"])
def test_real_models_change_alike_on_both_back_ends(testdata: Path, tmp_path: Path, name: str) -> None:
    folder = testdata / "models" / name
    first, second = effects((folder, folder.with_name(f"{name}-f16.gguf")), write_adapter(tmp_path / "adapter", folder), 0.3)
    assert np.abs(first).max() > 10 * CLOSE
    np.testing.assert_allclose(second, first, atol=CLOSE)


@pytest.fixture(scope="module")
def model(tiny: TinyFiles) -> Iterator[LoadedModel]:
    loaded = load(tiny.gguf)
    yield loaded
    loaded.runner.close()


@pytest.fixture
def adapter(tiny: TinyFiles, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny.adapter, tmp_path / "adapter", ignore=shutil.ignore_patterns(".cache")))


def cached(adapter: Path) -> list[Path]:
    return sorted((adapter / ".cache").iterdir())


def test_the_converted_file_is_kept_until_the_adapter_changes(model: LoadedModel, adapter: Path, tiny: TinyFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Path] = []
    write = adapter_file.write_adapter_file
    monkeypatch.setattr(adapter_file, "write_adapter_file", lambda path, *rest: (made.append(path), write(path, *rest)))
    first = logits(model, (adapter, 0.5))
    np.testing.assert_allclose(first, logits(model, (tiny.gguf_adapter, 0.5)), atol=1e-4)
    (kept,) = cached(adapter)
    for _ in range(2):
        again = load(tiny.gguf)  # another process would find it as well
        np.testing.assert_array_equal(logits(again, (adapter, 0.5)), first)
        again.runner.close()
    assert len(made) == 1
    kept.write_bytes(kept.read_bytes()[:-100])  # torn, by a disk say
    again = load(tiny.gguf)
    np.testing.assert_array_equal(logits(again, (adapter, 0.5)), first)
    again.runner.close()
    assert len(made) == 2
    shutil.copy(tiny.second_adapter / WEIGHTS, adapter / WEIGHTS)
    change(adapter, r=2)
    np.testing.assert_allclose(logits(model, (adapter, 0.5)), logits(model, (tiny.second_adapter, 0.5)), atol=1e-4)
    assert len(cached(adapter)) == 1
    assert cached(adapter) != [kept]


def test_converting_imports_no_torch(adapter: Path, tiny: TinyFiles) -> None:
    program = (
        "import sys\nfrom pathlib import Path\nfrom modules.core.model import Adapter\nfrom modules.loaders.registry import find_loader\n"
        "path = Path(sys.argv[1])\nspec = find_loader(path)\nmodel = spec.load(path, spec.options(threads=1, threads_batch=1), lambda *_: None)\n"
        "model.set_adapters([Adapter(path=sys.argv[2])])\nmodel.runner.close()\n"
        "assert not {'torch', 'transformers', 'peft'} & set(sys.modules), 'heavy'\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tiny.gguf), str(adapter)], check=True, timeout=60)
    assert len(cached(adapter)) == 1


@pytest.mark.parametrize("obstacle", ["file", "link"])
def test_where_nothing_can_be_kept_it_works_and_leaves_nothing(model: LoadedModel, adapter: Path, tmp_path: Path, obstacle: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    if obstacle == "file":
        (adapter / ".cache").write_text("in the way")
    else:
        (adapter / ".cache").symlink_to(outside)
    assert np.abs(logits(model, (adapter, 0.5)) - logits(model)).max() > 0.5
    assert not list(outside.iterdir())


def test_a_full_disk_is_a_sentence_and_leaves_no_half_file(model: LoadedModel, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensor_data", full)
    with pytest.raises(AppError, match="adapter cannot be converted: No space left on device; make room"):
        logits(model, (adapter, 1.0))
    assert cached(adapter) == []


def change(adapter: Path, **values: Any) -> None:
    path = adapter / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"peft_type": "IA3"}, "of type IA3"),
        ({"megatron_config": {"a": 1}}, "do not trust"),
        ({"init_lora_weights": "pissa_niter_4"}, "changes the base model"),
        ({"use_dora": True}, "DoRA magnitudes, which llama.cpp cannot apply; use it with .* the transformers loader"),
        ({"bias": "all"}, "has biases"),
        ({"lora_bias": True}, "has biases"),
        ({"modules_to_save": ["embed_tokens"]}, "whole trained modules"),
        ({"trainable_token_indices": [1]}, "trained tokens"),
        ({"r": 8}, "has rank 4, its settings say 8"),
        ({"r": None}, "r in its adapter_config.json is None"),
        ({"r": "../../etc/passwd"}, "is damaged"),
        ({"lora_alpha": float("nan")}, "lora_alpha in its adapter_config.json is nan"),
        ({"lora_alpha": 10**400}, "is damaged"),
        ({"rank_pattern": {"((a+)+)+b": 4}}, "rank_pattern that Paddock cannot read"),
        ({"alpha_pattern": ["q_proj"]}, "alpha_pattern that Paddock cannot read"),
    ],
)
def test_settings_that_cannot_be_converted(model: LoadedModel, adapter: Path, values: dict[str, Any], words: str) -> None:
    before = logits(model)
    change(adapter, **values)
    with pytest.raises(UnsupportedFormat, match=words):
        logits(model, (adapter, 1.0))
    assert not (adapter / ".cache").exists()
    np.testing.assert_array_equal(logits(model), before)


def test_paths_in_the_settings_lead_nowhere(model: LoadedModel, adapter: Path) -> None:
    change(adapter, base_model_name_or_path="../../../../etc/passwd", revision="../..", auto_mapping=None)
    assert np.abs(logits(model, (adapter, 0.5)) - logits(model)).max() > 0.5


Weights = dict[str, np.ndarray]
LAYER = "base_model.model.model.layers."
UP = LAYER + "0.mlp.up_proj.lora_"


def without(weights: Weights, name: str) -> Weights:
    return {key: value for key, value in weights.items() if key != name}


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda w: {}, "holds no weights"),
        (lambda w: without(w, UP + "B.weight"), "do not belong together"),
        (lambda w: w | {UP + "A.weight": np.zeros((4, 65), np.float32)}, "has 65 × 128 where this one has 64 × 128; load its base model"),
        (lambda w: w | {UP + "A.weight": np.zeros((5, 64), np.float32)}, "do not belong together"),
        (lambda w: w | {UP + "A.weight": np.zeros((9000, 64), np.float32), UP + "B.weight": np.zeros((128, 9000), np.float32)}, "has rank 9000"),
        (lambda w: w | {UP + "A.weight": np.zeros(64, np.float32)}, "do not belong together"),
        (lambda w: w | {UP + "A.weight": np.zeros((4, 64), np.int8)}, "as I8 and F32, not as F32, F16 or BF16"),
        (lambda w: w | {UP + "A.weight": np.full((4, 64), np.inf, np.float32)}, "values that are not numbers"),
        (lambda w: w | {key.replace("layers.1", "layers.7"): value for key, value in w.items()}, "changes layer 8 and this model has 2 layers"),
        (lambda w: w | {"base_model.model.model.embed_tokens.lora_embedding_A": np.zeros((4, 9), np.float32)}, "no plain LoRA weight"),
        (lambda w: w | {"base_model.model.lm_head.base_layer.weight": np.zeros((320, 64), np.float32)}, "no plain LoRA weight"),
        (lambda w: w | {LAYER + "0.mlp.gate.lora_A.weight": np.zeros((4, 64), np.float32)}, "cannot convert for llama.cpp; use it with"),
        (lambda w: w | {LAYER + "0.self_attn.../../x.lora_A.weight": np.zeros((4, 64), np.float32)}, "cannot convert for llama.cpp"),
        (lambda w: w | {LAYER + "00.mlp.up_proj.lora_A.weight": np.zeros((4, 64), np.float32)}, "cannot convert for llama.cpp"),
    ],
)
def test_weights_that_do_not_fit(model: LoadedModel, adapter: Path, edit: Callable[[Weights], Weights], words: str) -> None:
    before = logits(model)
    save_file(edit(load_file(adapter / WEIGHTS)), adapter / WEIGHTS)
    with pytest.raises(UnsupportedFormat, match=words):
        logits(model, (adapter, 1.0))
    assert not (adapter / ".cache").exists() or not cached(adapter)
    np.testing.assert_array_equal(logits(model), before)


def test_broken_weight_files(model: LoadedModel, adapter: Path) -> None:
    whole = (adapter / WEIGHTS).read_bytes()
    for content, words in ((whole[:-50], "cut short"), (b"", "not a safetensors file"), (b"\xff" * 400, "not a safetensors file"), (whole[:8] + b"x" * (len(whole) - 8), "not JSON")):
        (adapter / WEIGHTS).write_bytes(content)
        with pytest.raises(UnsupportedFormat, match=words):
            logits(model, (adapter, 1.0))
    (adapter / WEIGHTS).unlink()
    with pytest.raises(NotFound, match="is not an adapter folder"):
        logits(model, (adapter, 1.0))


def test_an_architecture_that_was_not_proved_is_named(adapter: Path, tiny: TinyFiles) -> None:
    from modules.loaders.gguf_header import read_gguf_header
    from modules.loaders.llama_cpp.peft_adapter import BaseShape, base_shape, read_pairs

    shape = base_shape([read_gguf_header(tiny.gguf)])
    with pytest.raises(UnsupportedFormat, match=r"cannot be converted for phi3 models, only for llama, .* transformers loader"):
        read_pairs(adapter, BaseShape("phi3", shape.layers, shape.shapes, shape.metadata))


def write_lora(path: Path, target: str, first: np.ndarray, second: np.ndarray | None, alpha: Any = 4.0) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    (writer.add_string if isinstance(alpha, str) else writer.add_float32)(gguf.Keys.Adapter.LORA_ALPHA, alpha)
    writer.add_tensor(f"{target}.lora_a", first)
    if second is not None:
        writer.add_tensor(f"{target}.lora_b", second)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


UP_WEIGHT = "blk.0.ffn_up.weight"


@pytest.mark.parametrize(
    ("target", "first", "second", "alpha", "words"),
    [
        (UP_WEIGHT, (4, 64), (128, 4), "four", "alpha is four"),
        (UP_WEIGHT, (4, 64), (128, 4), float("nan"), "alpha is nan"),
        (UP_WEIGHT, (4, 64), None, 4.0, "only one of its two weights"),
        (UP_WEIGHT, (4, 32), (128, 4), 4.0, "has 32 × 128 where this one has 64 × 128"),
        (UP_WEIGHT, (4, 64), (128, 5), 4.0, "ranks 4 and 5"),
        (UP_WEIGHT, (900, 64), (128, 900), 4.0, "ranks 900 and 900"),
        (UP_WEIGHT, (2, 4, 64), (2, 128, 4), 4.0, "made for another model"),
        ("blk.2.ffn_up.weight", (4, 64), (128, 4), 4.0, "changes layer 3 and this model has 2 layers"),
        ("blk.0.ffn_side.weight", (4, 64), (128, 4), 4.0, "which this model does not have"),
        ("token_embd.weight", (4, 64), (320, 4), 4.0, "made for another model"),
    ],
)
def test_gguf_adapters_that_do_not_fit_never_reach_native_code(
    model: LoadedModel, tmp_path: Path, target: str, first: tuple[int, ...], second: tuple[int, ...] | None, alpha: Any, words: str
) -> None:
    path = write_lora(tmp_path / "hostile.gguf", target, np.zeros(first, np.float32), None if second is None else np.zeros(second, np.float32), alpha)
    with pytest.raises(UnsupportedFormat, match=words):
        logits(model, (path, 1.0))


def test_whole_numbers_in_a_gguf_adapter(model: LoadedModel, tmp_path: Path) -> None:
    path = write_lora(tmp_path / "whole.gguf", UP_WEIGHT, np.zeros((4, 64), np.int32), np.zeros((128, 4), np.float32))
    with pytest.raises(UnsupportedFormat, match="in a form that llama.cpp cannot multiply by"):
        logits(model, (path, 1.0))
