"""Log-probabilities of a prompt on both real back ends are those of a plain transformers pass over the same model."""

from __future__ import annotations

from pathlib import Path

import pytest

from modules.core.params import GenerationParams
from modules.engine.engine import Engine
from modules.loaders.registry import find_loader
from tests.fakes import Inbox

TEXT = "A LoRA is a small file that changes a model. It is trained on examples, and put into the folder loras. What is a preset? Where are the model files?"


@pytest.mark.parametrize(("loader", "exact"), [("transformers", True), ("llama.cpp", False)])  # the GGUF file has 8-bit weights
def test_a_plain_pass_says_the_same(loader: str, exact: bool, starter_dir: Path, starter_gguf: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    path = starter_dir if loader == "transformers" else starter_gguf
    spec = find_loader(path, loader)
    model = spec.load(path, spec.options(context_length=256, slots=2, batch_tokens=32), lambda stage, done: None)
    ids = model.tokenizer.encode(TEXT, add_special=False, parse_special=False)
    plain = AutoModelForCausalLM.from_pretrained(starter_dir, dtype=torch.float32).eval()
    with torch.inference_mode():
        table = plain(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
    inbox = Inbox()
    engine = Engine(model.runner, model.tokenizer, inbox)
    try:
        together = [engine.submit(ids, GenerationParams(temperature=0, max_tokens=4, prompt_logprobs=5)) for _ in range(2)]
        inbox.wait(*together)
    finally:
        assert engine.close()
    for generation in together:
        entries = [entry for delta in inbox.deltas[generation] for entry in delta.prompt_logprobs]
        assert [entry.token_id for entry in entries] == ids and len(ids) > 20
        for entry, row in zip(entries[1:], table, strict=True):
            limits = {"abs": 1e-3} if exact else {"abs": 0.15, "rel": 0.05}
            assert entry.logprob == pytest.approx(float(row[entry.token_id]), **limits)
            if exact:
                assert [other.logprob for other in entry.top] == pytest.approx(row.topk(5).values.tolist(), abs=1e-3)
