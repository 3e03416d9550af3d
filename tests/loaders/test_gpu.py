"""Models on a graphics card: the same tokens as on the processor, memory as foretold, and the layers that fit where not all do.

Prints its figures (`pytest -m gpu -s tests/loaders/test_gpu.py`): docs/lab-notes.md has those of one machine.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modules.core.model import LoadedModel, Row
from modules.loaders.folder_header import read_folder_header
from modules.loaders.gguf_header import read_gguf_header
from modules.loaders.llama_cpp.loader import load as load_gguf
from modules.loaders.llama_cpp.options import LlamaCppOptions
from modules.loaders.llama_cpp.random_model import RandomModel, write_random_gguf
from modules.loaders.machine import graphics_bytes
from modules.loaders.shape import folder_shape, gguf_shape
from modules.loaders.transformers.loader import load as load_folder
from modules.loaders.transformers.memory import weights_bytes
from modules.loaders.transformers.options import TransformersOptions
from modules.loaders.transformers.random_model import RandomFolder, write_random_folder

pytestmark = [pytest.mark.gpu, pytest.mark.slow, pytest.mark.timeout(600)]

PROMPT = [7, 99, 300, 12, 45, 800, 3, 250]
SIZES = RandomModel(16, 2048, 8192, 32, 8, 64_000, merges=True)  # of one billion parameters


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_gguf(tmp_path_factory.mktemp("gpu") / "1B-Q8_0.gguf", SIZES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_folder(tmp_path_factory.mktemp("gpu") / "1B", RandomFolder(16, 2048, 8192, 32, 8, 32_000, 2048))


@pytest.fixture(autouse=True)
def _alone() -> Iterator[None]:
    yield
    import torch

    gc.collect()
    torch.cuda.empty_cache()


def silent(_stage: str, _done: float | None) -> None:
    """Nobody looks."""


def greedy(model: LoadedModel, count: int = 24) -> list[int]:
    tokens, at = list(PROMPT), 0
    for _ in range(count):
        logits = model.runner.forward([Row(0, at, tokens[at:])])[0]
        at = len(tokens)
        tokens.append(int(np.argmax(logits.full() if hasattr(logits, "full") else logits)))
    return tokens


def told(figures: str) -> None:
    print(f"\n{figures}")  # noqa: T201 - for the notes; they are what such a machine is rented for


def speed(model: LoadedModel, count: int = 64) -> float:
    model.runner.truncate(0, 0)
    greedy(model, 8)
    model.runner.truncate(0, 0)
    began = time.perf_counter()
    greedy(model, count)
    return count / (time.perf_counter() - began)


# ---- transformers


@pytest.mark.parametrize("changes", [{}, {"quantize": "8bit"}, {"quantize": "4bit"}, {"dtype": "float32"}], ids=str)
def test_a_folder_takes_the_graphics_memory_that_was_foretold(folder: Path, changes: dict[str, Any]) -> None:
    import torch

    before = torch.cuda.memory_allocated()
    options = TransformersOptions(slots=1, **changes)
    model = load_folder(folder, options, silent)
    taken = torch.cuda.memory_allocated() - before
    dtype = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}[model.runner._network.dtype]  # type: ignore[attr-defined]
    foretold = weights_bytes(folder_shape(read_folder_header(folder)), options, dtype)
    told(f"{changes}: {dtype}, weights {taken / 1e9:.2f} GB, foretold {foretold / 1e9:.2f} GB ({foretold / taken:.2f}), {speed(model):.0f} tokens/s")
    model.runner.close()
    assert 0.9 <= foretold / taken <= 1.1


def test_a_folder_writes_the_same_on_card_and_processor(starter_dir: Path) -> None:
    import torch

    texts = []
    for name in ("cuda", "cpu"):
        model = load_folder(starter_dir, TransformersOptions(slots=2, device=name, dtype="float32"), silent)  # type: ignore[arg-type]
        assert model.runner._network.device.type == name  # type: ignore[attr-defined]
        texts.append(greedy(model))
        model.runner.close()
    assert texts[0] == texts[1]
    assert torch.cuda.is_available()


def test_what_is_over_a_cap_of_the_card_lies_in_main_memory(folder: Path) -> None:
    import torch

    before = torch.cuda.memory_allocated()
    model = load_folder(folder, TransformersOptions(slots=1, gpu_memory_gb=1.5), silent)
    taken = torch.cuda.memory_allocated() - before
    told(f"capped at 1.5 GB: {taken / 1e9:.2f} GB on the card, {speed(model, 8):.1f} tokens/s")
    assert 0.3e9 < taken < 1.7e9
    model.runner.close()


@pytest.mark.parametrize("changes", [{}, {"quantize": "4bit"}, {"dtype": "float32"}], ids=str)
def test_recorded_steps_write_the_same_as_plain_ones(folder: Path, changes: dict[str, Any]) -> None:
    texts, speeds = [], []
    for recorded in (False, True):
        model = load_folder(folder, TransformersOptions(slots=2, cuda_graphs=recorded, **changes), silent)
        steps = model.runner.recorded  # type: ignore[attr-defined]
        told(f"{changes}, recorded {recorded}: notes {model.notes}")
        speeds.append(speed(model))
        model.runner.truncate(0, 0)
        texts.append(greedy(model))
        assert (steps is not None) == recorded or (recorded and "quantize" in changes), model.notes
        assert steps is None or (steps.count > 0 and not steps.refused)
        model.runner.close()
    told(f"{changes}: {speeds[0]:.0f} tokens/s plain, {speeds[1]:.0f} recorded")
    assert "dtype" not in changes or texts[0] == texts[1]  # halves may differ in their last digit


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_recorded_steps_of_several_slots_compute_the_same_behind_a_growing_cache(folder: Path, dtype: Any) -> None:
    """Rows in slots 0 and 3, padding between them, past the first 256 positions, and recorded anew half-way."""
    import torch

    found: list[list[Any]] = []
    for recorded in (False, True):
        model = load_folder(folder, TransformersOptions(slots=4, cuda_graphs=recorded, dtype=dtype), silent)
        runner = model.runner
        assert (runner.recorded is not None) == recorded, model.notes  # type: ignore[attr-defined]
        runner.forward([Row(slot, 0, [(7 * place + slot) % 250 + 3 for place in range(240)]) for slot in (0, 3)])
        runner.forward([Row(1, 0, [5] * 60)])
        logits: list[Any] = []
        for place in range(240, 290):
            if recorded and place == 270:
                runner.recorded.forget()  # type: ignore[attr-defined]
            rows = runner.forward([Row(slot, place, [(11 * place + slot) % 250 + 3]) for slot in (0, 3)])
            logits += [torch.as_tensor(row.full() if hasattr(row, "full") else row).float().cpu().clone() for row in rows]
        assert not recorded or (runner.recorded.count > 0 and not runner.recorded.refused)  # type: ignore[attr-defined]
        found.append(logits)
        runner.close()
    furthest = max(float((one - other).norm() / one.norm()) for one, other in zip(*found, strict=True))
    told(f"{dtype}: recorded and plain logits of 2 rows in 4 slots differ by {furthest:.2g} of their length")
    assert furthest < (2e-3 if dtype == "float32" else 5e-2)


# ---- llama.cpp


def test_all_layers_of_a_gguf_file_go_to_the_card_and_write_the_same(gguf: Path, starter_gguf: Path) -> None:
    free = graphics_bytes("llama.cpp")
    if not free:
        pytest.skip("llama.cpp was built without CUDA")
    time.sleep(3)  # another process may have ended just now, whose memory comes back with a delay
    free = graphics_bytes("llama.cpp")
    model = load_gguf(gguf, LlamaCppOptions(slots=1, context_length=2048), silent)
    taken = free - graphics_bytes("llama.cpp")
    header = read_gguf_header(gguf)
    stored = gguf_shape((header,), header.size_bytes).stored_bytes
    told(f"llama.cpp: {taken / 1e9:.2f} GB on the card for {stored / 1e9:.2f} GB of weights, {speed(model):.0f} tokens/s, notes {model.notes}")
    assert taken > 0.9 * stored and model.notes == ()
    model.runner.close()
    texts = []
    for layers in (-1, 0):
        small = load_gguf(starter_gguf, LlamaCppOptions(slots=1, context_length=512, gpu_layers=layers, threads=2, threads_batch=2), silent)
        texts.append(greedy(small))
        small.runner.close()
    assert texts[0] == texts[1]


@pytest.mark.parametrize("share", [0.4, 0.8])
def test_where_not_all_layers_fit_a_part_is_put_there_and_it_loads(gguf: Path, share: float) -> None:
    import torch

    if not graphics_bytes("llama.cpp"):
        pytest.skip("llama.cpp was built without CUDA")
    header = read_gguf_header(gguf)
    wanted = int(share * gguf_shape((header,), header.size_bytes).stored_bytes) + (400 << 20)
    torch.zeros(1, device="cuda")
    filler = torch.empty(graphics_bytes("llama.cpp") - wanted, dtype=torch.uint8, device="cuda")
    free = graphics_bytes("llama.cpp")
    model = load_gguf(gguf, LlamaCppOptions(slots=1, context_length=1024), silent)
    left = graphics_bytes("llama.cpp")
    told(f"{free / 1e9:.2f} GB free: {model.notes}, {left / 1e9:.2f} GB left, {speed(model, 16):.0f} tokens/s")
    assert len(model.notes) == 1 and "layers are on the graphics card" in model.notes[0]
    model.runner.close()
    del filler
