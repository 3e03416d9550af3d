"""llama.cpp's flash attention, with the loops that set-up compiles it with: what it computes is what attention without it computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from modules.core.model import Row
from modules.loaders.llama_cpp.random_model import RandomModel, write_random_gguf
from modules.loaders.registry import find_loader

pytestmark = pytest.mark.processes
PROMPT, MORE = 300, 20


@pytest.mark.parametrize("width", [32, 48, 64, 80, 128])
def test_flash_attention_computes_what_plain_attention_does(tmp_path: Path, width: int) -> None:
    """Heads that fill registers and heads that do not; whole tiles, a few rows behind others, and one after the other."""
    path = write_random_gguf(tmp_path / "m.gguf", RandomModel(2, 4 * width, 256, 4, 2, 500, context_length=1024, head_width=width))
    ids = np.random.default_rng(width).integers(10, 480, PROMPT + MORE).tolist()

    def found(mode: str) -> np.ndarray:
        spec = find_loader(path)
        model = spec.load(path, spec.options(slots=1, threads=1, threads_batch=1, batch_tokens=PROMPT, flash_attention=mode), lambda *_: None)
        runner = model.runner
        pieces = [(0, ids[: PROMPT - MORE]), (PROMPT - MORE, ids[PROMPT - MORE : PROMPT]), *((place, [ids[place]]) for place in range(PROMPT, PROMPT + MORE))]
        rows = [np.array(runner.forward([Row(0, place, piece)])[0], np.float32) for place, piece in pieces]
        runner.close()
        return np.stack(rows)

    flash, plain = found("on"), found("off")
    assert np.abs(flash - plain).max() < 0.02 * np.abs(plain).max()
    assert np.abs(plain[0] - plain[-1]).max() > 0.2 * np.abs(plain).max()  # it says something at all


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("heads", [4, 9])
def test_every_row_is_computed_however_threads_share_the_heads(tmp_path: Path, heads: int, threads: int) -> None:
    """Rows that fill tiles and rows that do not, behind others: each is what it is alone, whichever thread had it."""
    path = write_random_gguf(tmp_path / "m.gguf", RandomModel(2, 64 * heads, 256, heads, 1, 500, context_length=1024, head_width=64))
    ids = np.random.default_rng(heads).integers(10, 480, PROMPT).tolist()

    def found(mode: str, steps: list[tuple[int, int]]) -> np.ndarray:
        spec = find_loader(path)
        asked = spec.options(slots=1, threads=threads, threads_batch=threads, batch_tokens=PROMPT, flash_attention=mode)
        model = spec.load(path, asked, lambda *_: None)
        rows = []
        for begin, end in steps:
            model.runner.truncate(0, begin)
            rows += [np.array(entry, np.float32) for entry in model.runner.forward([Row(0, begin, ids[begin:end], end - begin)])[0]]
        model.runner.close()
        return np.stack(rows)

    steps = [(0, 30), (30, 94), (94, 194), (94, 224), (94, 294)]  # 64, 100, 130 and 200 rows behind others
    flash, plain = found("on", steps), found("off", steps)
    assert np.abs(flash - plain).max() < 0.02 * np.abs(plain).max()
