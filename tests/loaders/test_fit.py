"""Sizes of models from headers, the formula over them, and the verdict: hand-computed, and on the real files that are here."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest

from modules.core.errors import UnsupportedFormat
from modules.loaders.fit import Needs, Room, Usage, judge, needs
from modules.loaders.folder_header import (
    FolderHeader,
    parse_folder_header,
    read_folder_header,
    read_weight_header,
)
from modules.loaders.gguf_header import GgufHeader, Tensor, parse_gguf_prefix, read_gguf_header
from modules.loaders.llama_cpp.memory import estimate, layers_that_fit, share_on_gpu
from modules.loaders.llama_cpp.options import LlamaCppOptions
from modules.loaders.machine import graphics_bytes, graphics_bytes_by_process
from modules.loaders.shape import CacheLayers, Shape, folder_shape, gguf_shape
from modules.loaders.transformers import memory
from modules.loaders.transformers.options import TransformersOptions
from tests.tiny_image_text import image_text_folder
from tests.tiny_models import TinyFiles

GB = 10**9


def gguf(architecture: str, tensors: tuple[Tensor, ...] = (), **fields: Any) -> Shape:
    base = {"block_count": 4, "embedding_length": 64, "attention.head_count": 8, "feed_forward_length": 128, "context_length": 4096, "vocab_size": 1000}
    values = base | {name.replace("__", "."): value for name, value in fields.items()}
    metadata = {"general.architecture": architecture} | {f"{architecture}.{name}": value for name, value in values.items()}
    return gguf_shape((GgufHeader(Path("x.gguf"), GB, MappingProxyType(metadata), tensors),), GB)


def folder(**config: Any) -> Shape:
    base = {"num_hidden_layers": 4, "hidden_size": 64, "num_attention_heads": 8, "vocab_size": 1000}
    return folder_shape(FolderHeader(Path("x"), base | config, 2000, 1000, "F16"))


def usage(**changes: Any) -> Usage:
    plain: dict[str, Any] = {"weights_bytes": 1000, "library_bytes": 0, "number_bytes": 2.0, "batch_tokens": 0, "outputs": 0, "sequences": 1}
    return Usage(**plain | changes)


def test_the_cache_of_each_kind_of_attention() -> None:
    assert gguf("llama").cache == (CacheLayers(4, 8 * 16),)  # 8 heads of 8, keys and values
    assert gguf("llama", attention__head_count_kv=2).cache == (CacheLayers(4, 2 * 16),)
    assert gguf("qwen3", attention__head_count_kv=2, attention__key_length=32, attention__value_length=16).cache == (CacheLayers(4, 2 * 48),)
    assert gguf("gemma3", block_count=6, attention__sliding_window=512).cache == (CacheLayers(5, 128, 512), CacheLayers(1, 128))
    stated = gguf("gpt-oss", attention__sliding_window=128, attention__sliding_window_pattern=(True, False, True, True))
    assert stated.cache == (CacheLayers(3, 128, 128), CacheLayers(1, 128))
    apart = {"attention__key_length": 64, "attention__value_length": 64, "attention__key_length_swa": 32, "attention__value_length_swa": 16}
    small = gguf("gemma4", attention__head_count_kv=2, attention__sliding_window=512, attention__sliding_window_pattern=(True, True, True, False), **apart)
    assert small.cache == (CacheLayers(3, 2 * 48, 512), CacheLayers(1, 2 * 128))
    latent = {"attention__head_count_kv": 1, "attention__key_length": 576, "attention__value_length": 512, "attention__key_length_mla": 192}
    assert gguf("deepseek2", **latent).cache == (CacheLayers(4, 576),)


def test_recurrent_layers_keep_a_state_and_no_tokens() -> None:
    ssm = {"ssm__conv_kernel": 4, "ssm__inner_size": 128, "ssm__state_size": 16, "ssm__group_count": 1}
    each = 3 * (128 + 32) + 16 * 128
    pure = gguf("mamba2", **ssm)
    assert (pure.cache, pure.state_numbers) == ((), 4 * each)
    hybrid = gguf("granitehybrid", attention__head_count_kv=(0, 2, 0, 0), **ssm)
    assert (hybrid.cache, hybrid.state_numbers) == ((CacheLayers(1, 32),), 3 * each)
    spaced = gguf("qwen3next", full_attention_interval=4, **ssm)
    assert (spaced.cache, spaced.state_numbers) == ((CacheLayers(1, 128),), 3 * each)
    assert needs(pure, usage(sequences=2)).total(10_000) == 1000 + 2 * 4 * 4 * each


def test_shapes_of_folders() -> None:
    assert folder(num_key_value_heads=2, head_dim=16).cache == (CacheLayers(4, 64),)
    windows = folder(layer_types=["sliding_attention", "full_attention"] * 2, sliding_window=512)
    assert windows.cache == (CacheLayers(2, 128), CacheLayers(2, 128, 512))
    latent = folder(kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128)
    assert latent.cache == (CacheLayers(4, 8 * 320),)
    mixed = folder(layer_types=["conv", "conv", "full_attention", "conv"], conv_L_cache=3)
    assert (mixed.cache, mixed.state_numbers) == ((CacheLayers(1, 128),), 3 * 64 * 3)
    assert folder(model_type="mamba", state_size=16, conv_kernel=4, expand=2).state_numbers == 4 * 128 * 20
    inside = folder(text_config={"num_key_value_heads": 1})
    assert inside.cache == (CacheLayers(4, 16),)


def test_an_image_text_model_is_told_by_its_weights_where_its_config_says_less(tmp_path: Path) -> None:
    """Libraries leave out of the text part what they assume; the tower takes memory and a token does not read it."""
    path = image_text_folder(tmp_path / "seer", "gemma3")
    whole = folder_shape(read_folder_header(path))
    tower = sum(math.prod(shape) for name, (_, shape) in read_weight_header(path / "model.safetensors").items() if "vision" in name or "multi_modal" in name)
    assert whole.tower_parameters == tower > 0
    assert whole.read_share == pytest.approx(1 - tower / whole.parameters)
    assert memory.estimate(whole, TransformersOptions(), "float32").fixed > 256 << 20
    config = json.loads((path / "config.json").read_text())
    left = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size")
    for kept in ((), ("num_attention_heads",), ("num_key_value_heads", "head_dim")):
        less = config | {"text_config": {name: value for name, value in config["text_config"].items() if name not in left or name in kept}}
        (path / "config.json").write_text(json.dumps(less))
        told = folder_shape(read_folder_header(path))
        assert (told.cache, told.layers, told.width, told.inner, told.vocabulary) == (whole.cache, whole.layers, whole.width, whole.inner, whole.vocabulary)
        head = (path / "model.safetensors").read_bytes()[: 1 << 20]
        remote = parse_folder_header("seer", less, head)
        assert not isinstance(remote, int)
        assert (folder_shape(remote).cache, remote.tower_parameters) == (whole.cache, tower)


def test_the_formula_by_hand() -> None:
    shape = Shape("x", 1000, 500, layers=4, width=64, heads=8, head_width=8, inner=128, vocabulary=1000, trained_tokens=4096, cache=(CacheLayers(3, 32, 512), CacheLayers(1, 32)))
    whole = needs(shape, usage(batch_tokens=16, outputs=2, library_bytes=77))
    assert whole.total(0) == 1000 + 77 + 4 * (2 * 1000 + 16 * (6 * 64 + 3 * 128))
    assert whole.total(1000) - whole.total(0) == 1000 * 4 * 32 * 2
    trimmed = needs(shape, usage(batch_tokens=16, trims_windows=True, sequences=2))
    assert trimmed.cache(10_000) == 10_000 * 64 + 3 * 64 * (2 * 512 + 16)
    assert needs(shape, usage(batch_tokens=16, scores=True)).per_token == 4 * 64 + 8 * 16 * 4
    words = needs(shape, usage(word_bytes=100, copied_bytes=700))
    assert words.total(0) == 1000 + 100 * 1000
    assert words.peak(10) == words.total(10) + 700
    assert trimmed.scaled(0.5).total(0) == trimmed.total(0) // 2
    assert trimmed.tokens_that_fit(trimmed.total(5000)) == 4864
    assert trimmed.tokens_that_fit(999) == 0


def large() -> Shape:
    cache = (CacheLayers(32, 2048),)
    return Shape("x", 4 * GB, GB, layers=32, width=64, heads=8, head_width=8, inner=128, vocabulary=1000, trained_tokens=32_768, cache=cache)


def test_the_verdicts() -> None:
    shape = large()
    wanted = Needs(4 * GB, GB, 100_000.0)

    def verdict(memory: float, graphics: float = 0, users: int = 1) -> Any:
        return judge(shape, wanted, Room(int(memory * GB), int(graphics * GB)), context_length=8192, users=users)

    assert (verdict(8).kind, verdict(8).context_length, verdict(8).gpu_layers) == ("fits", 8192, 0)
    assert verdict(8).largest_context == 29_952
    assert verdict(8).sentence == "Fits with a context of 8192 tokens; up to 29952 would fit: needs about 5.8 GB, 8.0 GB is free."
    shorter = verdict(5.2)
    assert (shorter.kind, shorter.context_length) == ("shorter", 1792)
    assert shorter.sentence == "Fits with a context up to 1792 tokens: 8192 would need about 5.8 GB, 5.2 GB is free."
    assert verdict(6, users=4).context_length == 2304
    assert "for each of 4 users" in verdict(6, users=4).sentence
    assert (verdict(2).kind, verdict(2).context_length) == ("no", 0)
    assert verdict(2).sentence.startswith("Does not fit: needs about 5.0 GB, 2.0 GB is free; choose a smaller")
    assert (verdict(2, 24).kind, verdict(2, 24).gpu_layers) == ("fits", 33)
    part = verdict(8, 3)
    assert (part.kind, part.gpu_layers) == ("part_on_gpu", 13)
    assert "with 13 of 32 layers on the graphics card" in part.sentence
    assert judge(shape, wanted, Room(100 * GB), context_length=10**6, users=1).context_length == 32_768


def test_as_many_layers_on_the_graphics_card_as_fit() -> None:
    shape = large()
    auto, by_hand = LlamaCppOptions(), LlamaCppOptions(gpu_layers=7)
    assert layers_that_fit(shape, auto, 0, 8 * GB) == -1  # none is seen, so the library decides
    assert layers_that_fit(shape, by_hand, 1 * GB, 8 * GB) == 7
    assert layers_that_fit(shape, auto, 100 * GB, 8 * GB) == -1
    some = layers_that_fit(shape, auto, 3 * GB, 8 * GB)
    assert 0 < some < shape.layers
    assert some < layers_that_fit(shape, auto, 4 * GB, 8 * GB)
    assert some < layers_that_fit(shape, LlamaCppOptions(context_length=1024, slots=1), 3 * GB, 8 * GB)
    assert layers_that_fit(shape, auto, 100 << 20, 8 * GB) == 0
    trained_for_one_slot = replace(shape, trained_tokens=8192)  # each of four slots holds so much
    assert layers_that_fit(trained_for_one_slot, auto, 3 * GB, 8 * GB) == layers_that_fit(replace(shape, trained_tokens=1 << 17), auto, 3 * GB, 8 * GB)


def test_what_lies_on_the_graphics_card_is_not_in_main_memory() -> None:
    shape = large()
    here, half, there = (estimate(shape, LlamaCppOptions(), gpu_share=share) for share in (0.0, 0.5, 1.0))
    assert (here.weights, half.weights, there.weights) == (shape.stored_bytes, shape.stored_bytes // 2, 0)
    assert (half.per_token, there.per_token) == (here.per_token / 2, 0)
    assert estimate(shape, LlamaCppOptions(offload_kqv=False), gpu_share=1.0).per_token == here.per_token
    assert share_on_gpu(-1, shape) == share_on_gpu(shape.layers + 1, shape) == 1
    assert share_on_gpu(0, shape) == 0


def test_the_share_of_the_weights_that_a_token_reads() -> None:
    tensors = tuple(Tensor(name, (1,), 1, 0, size) for name, size in (("token_embd.weight", 100), ("output.weight", 100), ("blk.0.ffn_up_exps.weight", 800)))
    shape = gguf("llama", tensors, expert_count=8, expert_used_count=2)
    assert shape.read_share == pytest.approx(0.3)
    assert dict(shape.reads) == {"F16": pytest.approx(0.3)}


@pytest.mark.skipif(os.name == "nt", reason="the stand-in is a shell script")
def test_graphics_memory_counts_only_for_libraries_that_use_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 0, GPU-ab1, 1000\necho 1, GPU-cd2, 24000\n")
    program.chmod(0o755)
    library = tmp_path / "llama_cpp" / "lib" / "libggml-cuda.so"
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path / "llama_cpp")])
    monkeypatch.setattr("modules.loaders.machine.importlib.util.find_spec", lambda name: spec if name == "llama_cpp" else None)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    assert graphics_bytes("llama.cpp") == 0  # built for the processor
    library.parent.mkdir(parents=True)
    library.touch()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert graphics_bytes("llama.cpp") == 25_000 << 20
    assert [graphics_bytes("llama.cpp", card) >> 20 for card in range(3)] == [1000, 24_000, 0]
    for named, expected in (("0", 1000), ("1,0", 25_000), ("GPU-cd", 24_000), ("", 0), ("-1", 0), ("1,-1,0", 24_000)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
        assert graphics_bytes("llama.cpp") == expected << 20
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,GPU-ab")
    assert [graphics_bytes("llama.cpp", card) >> 20 for card in range(2)] == [24_000, 1000]
    assert graphics_bytes("transformers") == 0
    program.write_text("#!/bin/sh\necho '7, 100'\necho '9, 5'\necho '7, 20'\n")
    assert graphics_bytes_by_process() == {7: 120 << 20, 9: 5 << 20}
    program.write_text("#!/bin/sh\necho no devices were found\nexit 9\n")
    assert graphics_bytes("llama.cpp") == 0 and graphics_bytes_by_process() == {}


def test_a_prefix_of_a_gguf_file_is_enough(tiny: TinyFiles) -> None:
    data, whole = tiny.gguf.read_bytes(), read_gguf_header(tiny.gguf)
    end = len(data) - sum(tensor.size_bytes for tensor in whole.tensors)
    assert all(parse_gguf_prefix("t.gguf", data[:length], len(data)) is None for length in (0, 10, 30, 1000, end // 2))
    found = parse_gguf_prefix("tiny.gguf", data[:end], len(data))
    assert found is not None
    assert gguf_shape((found,), len(data)) == gguf_shape((whole,), len(data))
    with pytest.raises(UnsupportedFormat, match="cut short"):  # the file itself, however much of it is here
        parse_gguf_prefix("t.gguf", data[:end], len(data) // 2)
    with pytest.raises(UnsupportedFormat, match="not a GGUF"):
        parse_gguf_prefix("t.gguf", b"<html>" * 10, 10**6)


def test_the_first_bytes_of_a_folder_are_enough(tiny: TinyFiles) -> None:
    config, weights = json.loads((tiny.folder / "config.json").read_text()), (tiny.folder / "model.safetensors").read_bytes()
    length = parse_folder_header("tiny", config, weights[:100], len(weights))
    assert isinstance(length, int)
    found = parse_folder_header("tiny", config, weights[:length], len(weights))
    whole = read_folder_header(tiny.folder)
    assert isinstance(found, FolderHeader)
    assert (found.dtype, found.config) == (whole.dtype, whole.config)
    assert found.parameters == pytest.approx(whole.parameters, rel=0.05)
    assert folder_shape(found).cache == folder_shape(whole).cache
    for bad in (b"", b"\xff" * 100, b"\x10" + bytes(7) + b"not json at all!"):
        with pytest.raises(UnsupportedFormat):
            parse_folder_header("tiny", config, bad, 10**6)
    with pytest.raises(UnsupportedFormat, match="limit"):
        parse_folder_header("tiny", config | {"num_hidden_layers": 10**9}, weights, len(weights))


def test_the_real_files(starter_dir: Path, testdata: Path) -> None:
    header = read_gguf_header(starter_dir / "starter-Q8_0.gguf")
    shape = gguf_shape((header,), header.size_bytes)
    assert shape.cache == (CacheLayers(4, 2 * 4 * 32),)
    assert folder_shape(read_folder_header(starter_dir)).cache == shape.cache
    assert estimate(shape, LlamaCppOptions()).per_token == 4 * 256 * 2
    for path in sorted((testdata / "models").glob("*.gguf")):
        header = read_gguf_header(path)
        found = gguf_shape((header,), header.size_bytes)
        assert found.cache, path.name
        assert 0 < found.read_share <= 1, path.name
        assert parse_gguf_prefix(path.name, path.read_bytes(), header.size_bytes) is not None
