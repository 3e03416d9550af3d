"""Guided replies of both real loaders are those of two separate plain passes, combined as the paper defines it."""

from __future__ import annotations

from typing import Any

import pytest

from modules.core.params import GenerationParams
from modules.engine.engine import Engine
from modules.loaders.registry import find_loader
from tests.fakes import Inbox
from tests.tiny_models import TinyFiles

ASKED = (  # prompt, negative prompt, scale
    ("The little fox found", "We bake bread from", 1.5), ("A bird sang", "", 1.5), ("She", "the rain came in the evening. We", 1.5),
    ("My hat is green and your coat", "She took the ball", -0.5),
)  # fmt: skip
COUNT = 16
ROUNDING = {"llama.cpp": 0.05, "transformers": 1e-3}  # of scores; the file of the one has its weights in f16


def scores(plain: Any, positive: list[int], negative: list[int], scale: float) -> Any:
    """The scores of the next token, from two passes that know nothing of each other."""
    import torch

    with torch.inference_mode():
        ours, theirs = (torch.log_softmax(plain(torch.tensor([ids])).logits[0, -1].double(), -1) for ids in (positive, negative))
    return torch.log_softmax(scale * (ours - theirs) + theirs, -1)


@pytest.mark.parametrize("name", ["llama.cpp", "transformers"])
def test_a_greedy_guided_reply_is_that_of_two_plain_passes(tiny: TinyFiles, name: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(tiny.folder, dtype=torch.float32, local_files_only=True).eval()
    path = tiny.gguf if name == "llama.cpp" else tiny.folder
    spec = find_loader(path, name)
    model = spec.load(path, spec.options(slots=4, context_length=256, threads=1), lambda stage, done: None)
    inbox = Inbox()
    engine = Engine(model.runner, model.tokenizer, inbox)
    greedy = GenerationParams(temperature=0, max_tokens=COUNT, ban_eos=True, logprobs=0)
    ends = sorted(model.tokenizer.end_ids)

    def encode(text: str) -> list[int]:
        return model.tokenizer.encode(text, add_special=True, parse_special=False)

    def ask(text: str, behind: str, scale: float) -> Any:
        return engine.submit(encode(text), greedy.model_copy(update={"guidance_scale": scale, "negative_prompt": behind}))

    guided = [ask(*one) for one in ASKED]
    beside = [engine.submit(encode(text), greedy) for text, _, _ in ASKED]
    inbox.wait(*guided, *beside)
    for generation, (text, behind, scale) in zip(guided, ASKED, strict=True):
        positive, written = encode(text), inbox.ids(generation)
        negative = encode(behind) if behind else positive[-1:]
        assert len(written) == COUNT
        told = [entry.logprob for delta in inbox.deltas[generation] for entry in delta.logprobs]
        for place, token_id in enumerate(written):
            row = scores(plain, [*positive, *written[:place]], [*negative, *written[:place]], scale)
            assert abs(told[place] - float(row[token_id])) < ROUNDING[name], (text, place)
            row[ends] = -torch.inf
            assert float(row.max() - row[token_id]) < ROUNDING[name], (text, place)
    neutral = [ask(text, behind, 1.0) for text, behind, _ in ASKED]
    inbox.wait(*neutral)
    assert [inbox.ids(generation) for generation in neutral] == [inbox.ids(generation) for generation in beside]
    assert [inbox.ids(generation) for generation in guided] != [inbox.ids(generation) for generation in beside]
    assert engine.close()
