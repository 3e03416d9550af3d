"""Weights held in eight bits: the same numbers, a file that llama.cpp reads, and only where it helps and there is room."""

from __future__ import annotations

import ctypes
import io
import os
import sys
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modules.core.errors import OutOfMemory, UnsupportedFormat
from modules.core.model import Adapter, LoadedModel, Row
from modules.loaders import machine
from modules.loaders.gguf_header import TENSOR_TYPES, GgufHeader, read_gguf_header
from modules.loaders.llama_cpp import loader, memory, wide_weights
from modules.loaders.llama_cpp.c_api import library
from modules.loaders.llama_cpp.embedding_model import longest_text, needed_bytes
from modules.loaders.llama_cpp.memory import HELD_WIDE, held_shape
from modules.loaders.llama_cpp.options import LlamaCppOptions
from modules.loaders.llama_cpp.projector_file import Choice
from modules.loaders.llama_cpp.random_model import RandomModel, write_random_gguf
from modules.loaders.llama_cpp.wide_weights import Weights, choose_weights, widened_blocks, widened_header
from modules.loaders.model_info import read_info
from modules.loaders.registry import find_loader
from modules.loaders.shape import WIDER, Shape, gguf_shape
from tests.tiny_embedders import write_bert, write_bert_gguf
from tests.tiny_models import TinyFiles

SIZES = RandomModel(2, 64, 160, 2, 1, 320, context_length=256, head_width=32)
GENEROUS = 1 << 40


def made(folder: Path, quantization: str, **sizes: object) -> Path:
    return write_random_gguf(folder / f"{quantization}.gguf", replace(SIZES, quantization=quantization, **sizes))  # type: ignore[arg-type]


def shape_of(path: Path) -> Shape:
    header = read_gguf_header(path)
    return gguf_shape((header,), header.size_bytes)


def numbers(path: Path) -> dict[str, np.ndarray]:
    return {tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type) for tensor in gguf.GGUFReader(path).tensors}


def kinds(header: GgufHeader) -> dict[str, str]:
    return {tensor.name: TENSOR_TYPES[tensor.type_id][0] for tensor in header.tensors}


@pytest.fixture
def plenty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Linux processor with tiles and free memory for anything."""
    monkeypatch.setattr(memory, "_has_files_in_memory", lambda: True)
    monkeypatch.setattr(memory, "has_tiles", lambda: True)
    monkeypatch.setattr(memory, "available_bytes", lambda: GENEROUS)


@pytest.mark.parametrize("kind", WIDER)
@given(data=st.data())
def test_blocks_hold_the_same_numbers(kind: str, data: st.DataObject) -> None:
    size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]][1]
    scales = data.draw(st.lists(st.floats(-1000, 1000, width=16), min_size=1, max_size=3))
    blocks = b"".join(np.float16(scale).tobytes() + data.draw(st.binary(min_size=size - 2, max_size=size - 2)) for scale in scales)
    wide = widened_blocks(kind, blocks)
    assert len(wide) == WIDER[kind] * len(blocks)
    stored = gguf.dequantize(np.frombuffer(blocks, np.uint8).reshape(1, -1), gguf.GGMLQuantizationType[kind])
    assert np.array_equal(gguf.dequantize(np.frombuffer(wide, np.uint8).reshape(1, -1), gguf.GGMLQuantizationType.Q8_0), stored)


@pytest.mark.skipif(sys.platform != "linux", reason="files in memory are Linux's")
@pytest.mark.usefixtures("plenty")
@pytest.mark.parametrize("kind", WIDER)
def test_the_file_holds_the_same_model(tmp_path: Path, kind: str) -> None:
    path = made(tmp_path, kind, tied=True)
    header = read_gguf_header(path)
    weights = choose_weights(header, shape_of(path), LlamaCppOptions())
    told: list[float | None] = []
    with weights.file(lambda _, share: told.append(share)) as file:
        copy = tmp_path / "copy.gguf"
        copy.write_bytes(file.read_bytes())
    again = read_gguf_header(copy)
    assert weights.wide is not None
    assert (again.tensors, again.size_bytes) == (weights.wide.tensors, weights.wide.size_bytes)
    assert dict(again.metadata) == dict(header.metadata)
    assert {found for name, found in kinds(again).items() if "norm" not in name} == {"Q8_0"}
    before, after = numbers(path), numbers(copy)
    assert list(before) == list(after)
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert told == sorted(told)
    assert kind in weights.note
    assert weights.held(shape_of(path)).stored_bytes == pytest.approx(copy.stat().st_size, rel=0.1)


def test_tables_and_what_has_no_tiles_stay_as_they_are(tmp_path: Path) -> None:
    apart = widened_header(read_gguf_header(made(tmp_path, "Q5_0", heads=4, head_width=16)))  # keys of 16 numbers
    found = kinds(apart)
    assert found["token_embd.weight"] == found["blk.0.attn_k.weight"] == "Q5_0"
    assert found["output.weight"] == found["blk.0.attn_q.weight"] == "Q8_0"
    assert found["output_norm.weight"] == "F32"


def test_a_shape_foretells_what_is_held(tmp_path: Path) -> None:
    path = made(tmp_path, "Q5_0", tied=True)
    header, wide = read_gguf_header(path), widened_header(read_gguf_header(path))
    shape = gguf_shape((header,), sum(tensor.size_bytes for tensor in header.tensors))
    held, by_header = shape.widened(), gguf_shape((wide,), wide.size_bytes)
    assert dict(held.reads) == pytest.approx(dict(by_header.reads))
    assert not held.widens
    assert shape.wide_table_bytes == 320 * 64 // 32 * 34
    in_tiles = sum(tensor.size_bytes for tensor in wide.tensors if TENSOR_TYPES[tensor.type_id][0] == "Q8_0") * 4 // 34
    assert held.held_bytes == pytest.approx(sum(tensor.size_bytes for tensor in wide.tensors) + in_tiles + 320 * 64 // 32 * 34, rel=0.05)


def test_the_table_of_an_encoder_is_no_output(tmp_path: Path) -> None:
    header = read_gguf_header(made(tmp_path, "Q5_0", tied=True))
    encoder = replace(header, metadata={**header.metadata, "llama.attention.causal": False})
    assert kinds(widened_header(encoder))["token_embd.weight"] == "Q5_0"
    assert gguf_shape((encoder,), header.size_bytes).wide_table_bytes == 0


def test_what_gains_nothing_is_left_alone(tmp_path: Path) -> None:
    for kind in ("Q8_0", "Q4_0", "F16"):
        assert not shape_of(made(tmp_path, kind)).widens
    header = read_gguf_header(made(tmp_path, "Q5_0"))
    assert not gguf_shape((header, header), header.size_bytes).widens  # in parts
    unknown = replace(header, tensors=(*header.tensors[:-1], replace(header.tensors[-1], type_id=60, size_bytes=0)))
    assert not gguf_shape((unknown,), header.size_bytes).widens


@pytest.mark.usefixtures("plenty")
def test_it_is_done_where_it_helps_and_there_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = shape_of(made(tmp_path, "Q5_0"))

    def held(mode: str, *, on_gpu: bool = False) -> bool:
        return held_shape(shape, LlamaCppOptions(widen_weights=mode), on_gpu=on_gpu) is not shape  # type: ignore[arg-type]

    assert held("auto")
    assert held("on")
    assert not held("off")
    assert not held("on", on_gpu=True)
    wide = shape.widened()
    needed = wide.stored_bytes + wide.held_bytes + machine.RESERVE_BYTES
    monkeypatch.setattr(memory, "available_bytes", lambda: needed)
    assert held("on")
    assert not held("auto")  # no more than half of what is free
    monkeypatch.setattr(memory, "available_bytes", lambda: needed - 1)
    assert not held("on")
    monkeypatch.setattr(memory, "available_bytes", lambda: GENEROUS)
    monkeypatch.setattr(memory, "has_tiles", lambda: False)
    assert held("on")
    assert not held("auto")
    monkeypatch.setattr(memory, "_has_files_in_memory", lambda: False)
    assert not held("on")
    header = read_gguf_header(tmp_path / "Q5_0.gguf")
    assert "not in 8 bits" in choose_weights(header, shape, LlamaCppOptions(widen_weights="on")).note
    assert "hardly any" in choose_weights(header, replace(shape, widens=()), LlamaCppOptions(widen_weights="on")).note
    assert choose_weights(header, shape, LlamaCppOptions()).note == ""


def test_a_system_without_files_in_memory_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: str) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "memfd_create", refused, raising=False)
    assert not memory._has_files_in_memory()
    monkeypatch.delattr(os, "memfd_create")
    assert not memory._has_files_in_memory()


def test_a_file_that_became_shorter_is_said_so(tmp_path: Path) -> None:
    header = read_gguf_header(made(tmp_path, "Q5_0"))
    with pytest.raises(UnsupportedFormat, match="became shorter"):
        wide_weights.write_widened(io.BytesIO(b"GGUF"), io.BytesIO(), header, widened_header(header), lambda *_: None)


def test_memory_that_ran_out_is_said_with_the_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header = read_gguf_header(made(tmp_path, "Q5_0"))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(wide_weights, "write_widened", full)
    monkeypatch.setattr(os, "memfd_create", lambda _: os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT), raising=False)
    with pytest.raises(OutOfMemory, match="set widen_weights to off"), Weights(header, widened_header(header)).file(lambda *_: None):
        pass
    (tmp_path / "Q5_0.gguf").unlink()
    with pytest.raises(UnsupportedFormat, match="cannot be read"), Weights(header, widened_header(header)).file(lambda *_: None):
        pass


def logits(model: LoadedModel) -> np.ndarray:
    ids = list(range(40, 60))
    return np.array(model.runner.forward([Row(0, 0, ids)])[0], np.float32)


@pytest.mark.skipif(sys.platform != "linux", reason="files in memory are Linux's")
@pytest.mark.processes
@pytest.mark.parametrize("kind", WIDER)
def test_a_model_computes_the_same(tmp_path: Path, kind: str) -> None:
    path = made(tmp_path, kind, tied=True)
    spec = find_loader(path)

    def loaded(mode: str) -> LoadedModel:
        return spec.load(path, spec.options(slots=1, threads=1, threads_batch=1, widen_weights=mode, draft_model=""), lambda *_: None)

    as_stored, wide = loaded("off"), loaded("on")
    assert not as_stored.notes
    assert kind in " ".join(wide.notes)
    expected, found = logits(as_stored), logits(wide)
    assert np.abs(expected - found).max() < 0.02 * np.abs(expected).max()  # other orders of rounding
    for model in (as_stored, wide):
        model.runner.close()


def quantized(source: Path, target: Path) -> Path:
    """A file's matrices as Q5_0, by llama.cpp itself."""
    binding = library()
    asked = binding.llama_model_quantize_default_params()
    asked.ftype, asked.pure = gguf.LlamaFileType.MOSTLY_Q5_0, True
    assert binding.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(asked)) == 0
    return target


@pytest.mark.skipif(sys.platform != "linux", reason="files in memory are Linux's")
@pytest.mark.processes
def test_adapters_and_drafts_work_on_them(tmp_path: Path, tiny: TinyFiles) -> None:
    path = quantized(tiny.gguf, tmp_path / "tiny-Q5_0.gguf")
    spec = find_loader(path)

    def found(mode: str, adapter: Path | None) -> np.ndarray:
        model = spec.load(path, spec.options(slots=1, threads=1, threads_batch=1, widen_weights=mode), lambda *_: None)
        assert model.set_adapters is not None
        model.set_adapters([Adapter(path=str(adapter), scale=1.0)] if adapter else [])
        row = logits(model)
        model.runner.close()
        return row

    plain = found("off", None)
    for adapter in (tiny.adapter, tiny.gguf_adapter):
        expected = found("off", adapter)
        assert np.abs(expected - plain).max() > 0.1 * np.abs(plain).max()
        assert np.abs(found("on", adapter) - expected).max() < 0.02 * np.abs(expected).max()
    model = spec.load(path, spec.options(slots=1, threads=1, widen_weights="on", draft_model=str(path)), lambda *_: None)
    assert sum(HELD_WIDE in note for note in model.notes) == 2
    model.runner.close()


@pytest.mark.skipif(sys.platform != "linux", reason="files in memory are Linux's")
@pytest.mark.processes
def test_an_encoder_makes_the_same_vectors_and_keeps_its_longest_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = quantized(write_bert_gguf(tmp_path / "bert.gguf", write_bert(tmp_path / "bert")), tmp_path / "bert-Q5_0.gguf")
    spec, found = find_loader(path), {}
    for mode in ("off", "on"):
        model = spec.load(path, spec.options(slots=1, threads=1, widen_weights=mode), lambda *_: None)
        assert any(HELD_WIDE in note for note in model.notes) == (mode == "on")
        assert model.embedder is not None
        found[mode] = np.array(model.embedder.embed([[2, 5, 6, 7, 3]], "mean")[0])
        model.runner.close()
    assert np.abs(found["on"] - found["off"]).max() < 0.02 * np.abs(found["off"]).max()
    header, info = read_gguf_header(path), read_info(path, tmp_path)
    monkeypatch.setattr(memory, "has_tiles", lambda: True)
    needed = needed_bytes(header, info.vocab_size, info.size_bytes, longest_text(header, LlamaCppOptions())[0]) + machine.RESERVE_BYTES
    for module in (memory, machine):
        monkeypatch.setattr(module, "available_bytes", lambda: needed)
    assert loader._held_for_vectors(header, shape_of(path), info, LlamaCppOptions()).wide is None
    with pytest.raises(OutOfMemory):
        loader._held_for_vectors(header, shape_of(path), info, LlamaCppOptions(widen_weights="on"))
    needed += 1 << 20
    assert loader._held_for_vectors(header, shape_of(path), info, LlamaCppOptions()).wide is not None


@pytest.mark.processes
def test_unasked_it_takes_no_memory_that_the_context_wants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = made(tmp_path, "Q5_0", vocabulary=32_000, layers=8, context_length=8192)
    header, shape = read_gguf_header(path), shape_of(path)
    monkeypatch.setattr(memory, "has_tiles", lambda: True)
    monkeypatch.setattr(memory, "_has_files_in_memory", lambda: True)
    monkeypatch.setattr(memory, "MOST_WIDE_SHARE", 1.0)

    def held(free_bytes: int, **asked: int | str) -> bool:
        monkeypatch.setattr(memory, "available_bytes", lambda: free_bytes)
        options = LlamaCppOptions(slots=1, **asked)  # type: ignore[arg-type]
        weights, plan = loader._held(header, shape, options, Choice(), 0.0)
        assert plan.context_length == 8192
        return weights.wide is not None

    enough = loader.estimate(shape, LlamaCppOptions(slots=1)).total(8192) + machine.RESERVE_BYTES
    more = shape.widened().held_bytes - shape.stored_bytes
    assert held(enough + more)
    assert not held(enough + more // 2)
    assert not held(enough + more // 2, context_length=8192)  # which would be refused
