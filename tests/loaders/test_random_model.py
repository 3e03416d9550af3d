"""Made-up models: the types that llama.cpp's own quantizer would take, and models that both back ends load and run."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from modules.core.model import LoadedModel, Row
from modules.loaders.llama_cpp.options import LlamaCppOptions
from modules.loaders.llama_cpp.random_model import RandomModel, write_random_gguf
from modules.loaders.transformers.options import TransformersOptions
from modules.loaders.transformers.random_model import RandomFolder, write_random_folder

# Layers, and which of them keep six bits in Q4_K_M: llama-quant.cpp's `use_more_bits`
MORE_BITS = {8: {0, 3, 6, 7}, 24: {0, 1, 2, 5, 8, 11, 14, 17, 20, 21, 22, 23}}


def tensor_types(path: Path) -> dict[str, str]:
    return {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors}


def first_logits(model: LoadedModel) -> np.ndarray:
    try:
        return np.array(model.runner.forward([Row(0, 0, [5, 6, 7])])[0])
    finally:
        model.runner.close()


@pytest.mark.parametrize("layers", MORE_BITS)
def test_a_mixture_keeps_more_bits_where_llama_cpp_does(tmp_path: Path, layers: int):
    path = write_random_gguf(tmp_path / "m.gguf", RandomModel(layers, 256, 256, 4, 2, 600, 256, quantization="Q4_K_M", tied=True))
    types = tensor_types(path)
    for part in ("attn_v", "ffn_down"):
        assert {layer for layer in range(layers) if types[f"blk.{layer}.{part}.weight"] == "Q6_K"} == MORE_BITS[layers]
        assert set(types.values()) == {"Q4_K", "Q6_K", "F32"}
    assert types["token_embd.weight"] == "Q6_K" and types["blk.0.attn_q.weight"] == "Q4_K"
    assert "output.weight" not in types


def test_rows_that_are_no_multiple_of_a_super_block_fall_back(tmp_path: Path):
    from modules.loaders.llama_cpp.loader import load

    sizes = RandomModel(2, 128, 256, 2, 1, 600, 256, quantization="Q4_K_M", merges=True, architecture="qwen2")
    types = tensor_types(path := write_random_gguf(tmp_path / "m.gguf", sizes))
    assert types["blk.0.attn_q.weight"] == "Q5_0" and types["token_embd.weight"] == "Q8_0" and types["blk.1.ffn_down.weight"] == "Q6_K"
    assert types["blk.0.attn_k.bias"] == "F32"
    logits = first_logits(load(path, LlamaCppOptions(slots=1, threads=1, threads_batch=1), lambda _stage, _done: None))
    assert logits.shape == (600,) and np.isfinite(logits).all()
    assert 0.5 < logits.std() < 8, "as flat as those of a real text, so that sampling has something to choose from"


@pytest.mark.torch
def test_a_folder_of_another_kind_is_loaded(tmp_path: Path):
    from modules.loaders.transformers.loader import load

    path = write_random_folder(tmp_path / "m", RandomFolder(2, 64, 128, 2, 1, 300, 256, "qwen2", tied=True, stored="bfloat16"))
    logits = first_logits(load(path, TransformersOptions(slots=1, threads=1), lambda _stage, _done: None))
    assert logits.shape == (300,) and np.isfinite(logits).all()


@pytest.mark.parametrize(("kind", "experts"), [("Q3_K", 0), ("IQ4_XS", 0), ("IQ4_NL", 0), ("MXFP4", 0), ("MXFP4", 5), ("Q4_K_M", 5)])
def test_what_comes_out_is_of_size_one_whatever_the_type(tmp_path: Path, kind: str, experts: int):
    from modules.loaders.llama_cpp.loader import load

    path = write_random_gguf(tmp_path / "m.gguf", RandomModel(2, 256, 512, 4, 2, 600, 256, quantization=kind, experts=experts))
    types = tensor_types(path)
    down = types[f"blk.1.ffn_down{'_exps' if experts else ''}.weight"]
    assert down == ("Q6_K" if kind == "Q4_K_M" else kind) and types.get("blk.0.ffn_gate_inp.weight") == ("F32" if experts else None)
    logits = first_logits(load(path, LlamaCppOptions(slots=1, threads=1, threads_batch=1), lambda _stage, _done: None))
    assert np.isfinite(logits).all() and 0.5 < logits.std() < 8
