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
