"""What a model with an adapter answers greedily: PEFT on transformers, and llama.cpp."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from modules.core.model import Adapter, Row
from modules.loaders.registry import find_loader
from tests.loaders.greedy import row_of

TOKENS = 24


def peft_tokens(base: Path, adapter: Path, prompt: list[int]) -> tuple[list[int], np.ndarray, np.ndarray]:
    """What PEFT on transformers answers greedily, its logits before each token, and what the base alone would have had."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapter).eval()
    ids = list(prompt)
    with torch.inference_mode():
        for _ in range(TOKENS):
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        batch = torch.tensor([ids[:-1]])
        logits = model(input_ids=batch).logits[0, len(prompt) - 1 :].numpy()
        with model.disable_adapter():
            plain = model(input_ids=batch).logits[0, len(prompt) - 1 :].numpy()
    return ids[len(prompt) :], logits, plain


def gguf_tokens(model: Path, adapter: Path, prompt: list[int]) -> tuple[list[int], np.ndarray]:
    """The same from llama.cpp."""
    spec = find_loader(model)
    loaded = spec.load(model, spec.options(threads=1, threads_batch=1, slots=1, context_length=128), lambda *_: None)
    assert loaded.set_adapters is not None
    loaded.set_adapters([Adapter(path=str(adapter), scale=1.0)])
    ids, rows = list(prompt), []
    fresh = list(prompt)
    for _ in range(TOKENS):
        rows.append(np.array(row_of(loaded.runner.forward([Row(0, len(ids) - len(fresh), fresh)])[0])))
        fresh = [int(rows[-1].argmax())]
        ids += fresh
    loaded.runner.close()
    return ids[len(prompt) :], np.stack(rows)
