"""Adapters as training saves them, after real steps: merged, and as GGUF files, they say what they said while learning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modules.weights.adapter_gguf import ConvertAdapterArgs
from modules.weights.adapter_gguf import run as run_convert
from modules.weights.adapter_merge import MergeAdapterArgs, run
from tests.adapter_steps import difference, learn, logits, plain
from tests.tiny_models import write_folder, write_gguf
from tests.weights.greedy_tokens import gguf_tokens, peft_tokens
from tests.weights.job import Job

METHODS: dict[str, dict[str, Any]] = {
    "dora": {"dora": True},
    "pissa, rslora": {"pissa": True, "rslora": True},
    "tables": {"train_embeddings": True},
    "tokens": {"new_tokens": ("<|wild|>", "<|tame|>")},
}


@pytest.fixture(scope="module", params=[True, False], ids=["one table", "two tables"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stored in float32, so that merging rounds nothing."""
    import torch
    from transformers import AutoModelForCausalLM

    folder = write_folder(tmp_path_factory.mktemp("base") / "base", tie_word_embeddings=request.param)
    AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("method", METHODS)
def test_merged_as_it_was_while_learning(base: Path, tmp_path: Path, method: str) -> None:
    """Largest difference of a logit of all methods: 7.1e-6, of logits up to 5."""
    learned = learn(base, tmp_path, **METHODS[method])
    adapter = learned.save(tmp_path / "adapter")
    wanted = learned.logits
    args = MergeAdapterArgs(name="adapter", folder=adapter, base="base", base_path=base, target="merged", models_dir=tmp_path)
    merged = plain(Path(run(args, Job(tmp_path / "job"))["path"]))
    before = logits(plain(base, wanted.shape[-1]), learned.ids)
    assert difference(before, wanted) > 0.05, "it learned nothing"
    assert difference(logits(merged, learned.ids), wanted) < 2e-5


def test_converted_it_writes_what_it_learned(tmp_path: Path) -> None:
    """After enough steps it knows its row of tokens by heart, on llama.cpp too."""
    base = write_folder(tmp_path / "base")
    check_converted(base, write_gguf(tmp_path / "base.gguf", base), tmp_path, 2e-2, pissa=True)


def test_a_real_chat_model_writes_what_it_learned(testdata: Path, tmp_path: Path) -> None:
    models = testdata / "models"
    check_converted(models / "tinytalk3m-chat-gpt2", models / "tinytalk3m-chat-f16.gguf", tmp_path, 0.1, rslora=True)


def check_converted(base: Path, model: Path, tmp_path: Path, close: float, **method: Any) -> None:
    learned = learn(base, tmp_path, steps=40, **method)
    assert learned.losses[-1] < 0.5 * learned.losses[0]
    adapter = learned.save(tmp_path / "adapter")
    args = ConvertAdapterArgs(name="adapter", folder=adapter, base=base.name, base_path=base, target="adapter", loras_dir=tmp_path)
    made = Path(run_convert(args, Job(tmp_path / "job"))["path"])
    prompt = learned.ids[0, :8].tolist()
    wanted, told, _ = peft_tokens(base, adapter, prompt)
    got, rows = gguf_tokens(model, made, prompt)
    same = next((place for place, (ours, theirs) in enumerate(zip(got, wanted, strict=True)) if ours != theirs), len(wanted))
    assert np.abs(rows[: same + 1] - told[: same + 1]).max() < close
    assert same >= 8, "that much it knows by heart"
    assert same == len(wanted) or np.ptp(np.sort(told[same])[-2:]) < close, "only where two tokens are as likely may they differ: what is learned differs from processor to processor"
