"""Options that change where and how a model is computed, and must not change what it computes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from modules.core.errors import OutOfMemory
from modules.core.model import LoadedModel, Row
from modules.loaders.folder_header import read_folder_header
from modules.loaders.gguf_header import read_gguf_header
from modules.loaders.llama_cpp import c_api, loader, memory
from modules.loaders.llama_cpp.huge_pages import has_huge_pages
from modules.loaders.llama_cpp.options import LlamaCppOptions
from modules.loaders.llama_cpp.projector_file import Choice
from modules.loaders.machine import RESERVE_BYTES
from modules.loaders.registry import find_loader
from modules.loaders.shape import folder_shape, gguf_shape
from modules.loaders.transformers.loader import spill_folder
from modules.loaders.transformers.memory import estimate, weights_bytes
from modules.loaders.transformers.options import TransformersOptions
from tests.tiny_models import VOCAB, tiny_files

pytestmark = pytest.mark.processes  # native libraries and a compiler


def load(path: Path, **options: Any) -> LoadedModel:
    spec = find_loader(path)
    more = {"threads_batch": 1} if spec.name == "llama.cpp" else {}
    return spec.load(path, spec.options(slots=4, threads=1, **more, **options), lambda *_: None)


def logits(model: LoadedModel) -> list[np.ndarray]:
    ids = np.random.default_rng(1).integers(3, VOCAB, 90).tolist()
    first = [np.array(row, np.float32) for row in model.runner.forward([Row(0, 0, ids), Row(2, 0, ids[:5])])]
    return [*first, np.array(model.runner.forward([Row(0, 90, [7])])[0], np.float32)]


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_files(tmp_path_factory.getbasetemp()).gguf


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_files(tmp_path_factory.getbasetemp()).folder


@pytest.mark.parametrize(
    "options",
    [
        {"ubatch_tokens": 32},
        {"split_mode": "none"},
        {"split_mode": "row"},
        {"cpu_experts": True},
        {"numa": "distribute"},
        {"mmap": "on"},
    ],
)
def test_the_same_logits_whatever_the_placement(gguf: Path, options: dict[str, Any]) -> None:
    plain, other = load(gguf), load(gguf, **options)
    try:
        for expected, found in zip(logits(plain), logits(other), strict=True):
            np.testing.assert_allclose(found, expected, atol=2e-2)
    finally:
        plain.runner.close()
        other.runner.close()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_blocks_of_weights_compute_the_same_for_one_reply_and_for_several(folder: Path, dtype: str) -> None:
    """On a processor that has oneDNN; a copy of such a layer, as adapters make them, is a plain one."""
    import copy

    import torch

    plain, other = load(folder, dtype=dtype), load(folder, dtype=dtype, weight_blocks=True)
    layers = [module for module in other.runner._network.model.modules() if isinstance(module, torch.nn.Linear)]  # type: ignore[attr-defined]
    if torch.backends.mkldnn.is_available() and dtype == "bfloat16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        assert {type(layer).__name__ for layer in layers} == {"Linear"}, "such a processor has none of this width, and does without"
    elif torch.backends.mkldnn.is_available():
        assert {type(layer).__name__ for layer in layers} == {"RowsLinear"} and layers[0]._blocks.is_mkldnn
        assert type(copy.deepcopy(layers[0])) is torch.nn.Linear and torch.equal(copy.deepcopy(layers[0]).weight, layers[0].weight)
    for expected, found in zip(logits(plain), logits(other), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-4 if dtype == "float32" else 0.3)
    plain.runner.close()
    other.runner.close()


def test_blocks_of_weights_are_in_the_forecast_and_under_adapters(tmp_path: Path) -> None:
    from modules.core.model import Adapter

    files = tiny_files(tmp_path)
    shape = folder_shape(read_folder_header(files.folder))
    once, twice = (weights_bytes(shape, TransformersOptions(weight_blocks=blocks), "float32") for blocks in (False, True))
    assert twice == 2 * once
    found = []
    for blocks in (False, True):
        model = load(files.folder, weight_blocks=blocks)
        assert model.set_adapters is not None
        model.set_adapters([Adapter(path=str(files.adapter), scale=0.5)])
        found.append(logits(model))
        model.runner.close()
    for expected, other in zip(*found, strict=True):
        np.testing.assert_allclose(other, expected, atol=1e-3)


def test_a_step_in_parts_that_finds_no_room_changes_nothing(gguf: Path) -> None:
    model = load(gguf, context_length=256, cache_tokens=256, ubatch_tokens=32)
    runner, ids = model.runner, [5 + place % 40 for place in range(200)]
    runner.forward([Row(0, 0, ids)])
    with pytest.raises(OutOfMemory):
        runner.forward([Row(1, 0, ids)])
    found = np.array(runner.forward([Row(0, 200, [7])])[0])
    runner.truncate(0, 0)
    runner.forward([Row(1, 0, ids)])
    np.testing.assert_allclose(np.array(runner.forward([Row(1, 200, [7])])[0]), found, atol=2e-2)
    runner.close()


@pytest.mark.skipif(not has_huge_pages(), reason="memory of its own has no large pages here")
def test_a_model_is_read_in_where_memory_is_plenty(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if loader._offloads():
        pytest.skip("a library for graphics cards maps files")

    def is_mapped(**options: Any) -> bool:
        model = load(gguf, **options)
        found = str(gguf) in Path("/proc/self/maps").read_text()
        model.runner.close()
        return found

    assert not is_mapped()
    assert not is_mapped(mmap="off")
    assert is_mapped(mmap="on")
    assert not is_mapped(mmap="off", mlock=True)
    monkeypatch.setattr(memory, "MOST_TAKEN_SHARE", 0)
    notes = load(gguf).notes
    assert any("is mapped, not read in, as memory is scarce" in note for note in notes)
    assert memory.was_mapped(LlamaCppOptions(), notes)
    assert not memory.was_mapped(LlamaCppOptions(), ())
    assert memory.was_mapped(LlamaCppOptions(), (), on_gpu=True)
    monkeypatch.undo()
    needed = 2 * gguf.stat().st_size + RESERVE_BYTES
    monkeypatch.setattr(memory, "available_bytes", lambda: needed)
    shape = gguf_shape((read_gguf_header(gguf),), gguf.stat().st_size)
    assert not memory.is_mapped(shape, LlamaCppOptions())
    assert memory.is_mapped(shape, LlamaCppOptions(), on_gpu=True)
    assert memory.is_mapped(shape, LlamaCppOptions(numa="distribute"))
    assert memory.is_mapped(shape, LlamaCppOptions(mlock=True))
    assert not memory.is_mapped(shape, LlamaCppOptions(), all_bytes=int(1.5 * gguf.stat().st_size))
    assert memory.is_mapped(shape, LlamaCppOptions(), all_bytes=int(1.5 * gguf.stat().st_size) + 1)
    needed -= 2
    assert memory.is_mapped(shape, LlamaCppOptions())
    assert not memory.is_mapped(shape, LlamaCppOptions(mmap="off"))
    needed += 2
    monkeypatch.setattr(memory, "has_huge_pages", lambda: False)
    assert memory.is_mapped(shape, LlamaCppOptions())


def test_switches_are_read_as_yaml_and_people_write_them() -> None:
    for name in ("mmap", "flash_attention", "widen_weights"):
        for given in (True, "true", "Yes", 1, "on"):
            assert getattr(LlamaCppOptions.model_validate({name: given}), name) == "on"
        for given in (False, "false", "No", 0, "off"):
            assert getattr(LlamaCppOptions.model_validate({name: given}), name) == "off"
    with pytest.raises(ValidationError):
        LlamaCppOptions.model_validate({"mmap": "maybe"})


def test_a_model_that_stays_on_one_card_counts_on_that_alone(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = (1 << 20, 1 << 34)
    monkeypatch.setattr(loader, "graphics_bytes", lambda _, card=None: sum(free) if card is None else free[card])
    shape = gguf_shape((read_gguf_header(gguf),), gguf.stat().st_size)

    def layers(**options: Any) -> int:
        return loader._placed(shape, LlamaCppOptions(**options), Choice(), can_offload=True)[0].gpu_layers

    assert layers() == layers(split_mode="none", main_gpu=1) == -1
    assert layers(split_mode="none") < shape.layers


def test_tensors_that_match_a_pattern_are_placed(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []
    monkeypatch.setattr(c_api.NativeLog, "silence", lambda self: heard.extend(text for _, text in self._lines))
    model = load(gguf, cpu_tensors=r"blk\.0\.ffn_(up|down)", mmap="off")
    placed = {name for line in heard if "overridden" in line for name in line.split() if name.startswith("blk.")}
    assert placed == {"blk.0.ffn_up.weight", "blk.0.ffn_down.weight"}
    c_api.NativeLog().silence()
    model.runner.close()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"cpu_tensors": "blk.(1"}, "not a pattern"),
        ({"cpu_tensors": "a{1000000}"}, "at most 200 letters"),
        ({"cpu_tensors": "x" * 201}, "at most 200 letters"),
        ({"split_mode": "tensor", "flash_attention": "off"}, "needs flash attention"),
    ],
)
def test_options_that_cannot_work_are_refused_with_a_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        LlamaCppOptions(**options)


def test_no_more_is_computed_at_once_than_a_step_has() -> None:
    assert LlamaCppOptions(batch_tokens=64, ubatch_tokens=512).computed_tokens == 64
    assert LlamaCppOptions(batch_tokens=64).computed_tokens == 64
    assert LlamaCppOptions(batch_tokens=64, ubatch_tokens=32).computed_tokens == 32


def test_weights_beyond_main_memory_are_read_from_the_disk(folder: Path) -> None:
    plain, capped = load(folder), load(folder, cpu_memory_gb=1e-4)
    try:
        assert any(weight.device.type == "meta" for weight in capped.runner._network.model.parameters())  # type: ignore[attr-defined]
        for expected, found in zip(logits(plain), logits(capped), strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-4)
        assert capped.runner.n_slots == 4
    finally:
        plain.runner.close()
        capped.runner.close()


def test_a_cap_counts_in_the_estimate(folder: Path) -> None:
    shape = folder_shape(read_folder_header(folder))
    full = weights_bytes(shape, TransformersOptions(), "float32")
    capped = estimate(shape, TransformersOptions(cpu_memory_gb=full / 4e9), "float32")
    assert capped.weights == pytest.approx(full / 4, abs=1)
    assert estimate(shape, TransformersOptions(), "float32").weights == full


def test_what_dead_processes_left_on_the_disk_goes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    mine = spill_folder()
    dead = mine.parent / "999999999"
    dead.mkdir()
    (dead / "weights.dat").write_bytes(b"x")
    assert spill_folder() == mine
    assert [path.name for path in mine.parent.iterdir()] == [str(os.getpid())]


@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("c++") is None, reason="compiling needs a C++ compiler")
def test_a_compiled_model_computes_the_same(folder: Path) -> None:
    plain, compiled = load(folder), load(folder, torch_compile=True)
    try:
        parts = [module for module in compiled.runner._network.model.modules() if module._compiled_call_impl is not None]  # type: ignore[attr-defined]
        assert parts, compiled.notes
        assert not compiled.notes
        for expected, found in zip(logits(plain), logits(compiled), strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-3)
    finally:
        plain.runner.close()
        compiled.runner.close()


def test_a_compiler_that_fails_leaves_the_plain_model_and_a_note(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CXX", "/nowhere/c++")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    import torch

    torch._dynamo.reset()
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("/nowhere/c++",))
    model, plain = load(folder, torch_compile=True), load(folder)
    try:
        assert any("could not be compiled" in note and "turn torch_compile off" in note for note in model.notes)
        for expected, found in zip(logits(plain), logits(model), strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-4)
        assert model.runner.n_slots == 4
    finally:
        plain.runner.close()
        model.runner.close()
        torch._dynamo.reset()
