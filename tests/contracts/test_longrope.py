"""Models with positions for short and for long texts compute the same however a prompt is cut and whoever writes beside it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modules.core.model import Row
from modules.loaders.registry import find_loader
from modules.loaders.transformers.agreement import choose_runner
from modules.loaders.transformers.network import Network
from modules.loaders.transformers.rope import settle_rope
from modules.loaders.transformers.runner import SlotRunner
from tests.tiny_models import make_model, write_folder

SHORT_TOKENS = 16
HALF = 16  # of the numbers of a head, two of which turn together
TOLD = {
    "rope_type": "longrope", "rope_theta": 10_000.0, "original_max_position_embeddings": SHORT_TOKENS,
    "short_factor": [1.0 + 0.05 * place for place in range(HALF)], "long_factor": [2.0 + place for place in range(HALF)],
}  # fmt: skip
PHI3 = {"original_max_position_embeddings": SHORT_TOKENS, "rope_parameters": TOLD, "sliding_window": None}
IDS = random.Random(4).sample(range(3, 320), 40)


def phi3(context: int) -> tuple[Any, Network]:
    """A model that is asked for a context."""
    model = make_model("phi3", **PHI3)
    settle_rope(model, context)
    return model, Network(model, context)


def plain(network: Network, ids: list[int]) -> Any:
    """Logits after all of them, in one pass."""
    return network.run(network.torch.tensor([ids]), use_cache=False)[0, -1].numpy()


def test_a_prompt_in_pieces_is_the_prompt_in_one() -> None:
    _, network = phi3(256)
    runner = choose_runner(network, 2, 512)
    assert isinstance(runner, SlotRunner)
    for begin in range(0, 40, 8):
        found = runner.forward([Row(0, begin, IDS[begin : begin + 8])])[0]
    np.testing.assert_allclose(found, plain(network, IDS), atol=1e-3)


def test_a_short_text_is_the_same_beside_a_long_one() -> None:
    _, network = phi3(256)
    runner = choose_runner(network, 2, 512)
    runner.forward([Row(0, 0, IDS), Row(1, 0, IDS[:5])])
    beside = runner.forward([Row(0, 40, [7]), Row(1, 5, IDS[5:6])])[1]
    np.testing.assert_allclose(beside, plain(network, IDS[:6]), atol=1e-3)


def test_a_long_text_is_as_the_library_computes_it_and_a_short_context_has_the_positions_of_short_ones() -> None:
    untouched = Network(make_model("phi3", **PHI3), 256)
    long, short = phi3(256)[1], phi3(SHORT_TOKENS)[1]
    np.testing.assert_allclose(plain(long, IDS), plain(untouched, IDS), atol=1e-3)
    np.testing.assert_allclose(plain(short, IDS[:12]), plain(untouched, IDS[:12]), atol=1e-3)
    assert np.abs(plain(long, IDS[:12]) - plain(short, IDS[:12])).max() > 0.1  # so there is something to be settled


def test_other_models_have_nothing_to_be_settled() -> None:
    assert settle_rope(make_model("llama"), 256) == ""


def test_what_was_settled_is_told(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "phi3", "phi3", **PHI3)
    spec = find_loader(folder)

    def notes(context: int) -> str:
        loaded = spec.load(folder, spec.options.model_validate({"context_length": context, "slots": 1}), lambda _stage, _done: None)
        loaded.runner.close()
        return " ".join(loaded.notes)

    assert f"more than {SHORT_TOKENS} tokens" in notes(128)
    assert "Positions" not in notes(SHORT_TOKENS)


@pytest.mark.parametrize("context", [SHORT_TOKENS, 256])
def test_phimoe_has_one_scale_too(context: int) -> None:
    import torch
    import transformers

    told = {**TOLD, "short_mscale": 1.0, "long_mscale": 1.3}
    torch.manual_seed(0)
    config = transformers.PhimoeConfig(
        vocab_size=320, hidden_size=64, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=256,
        num_local_experts=4, num_experts_per_tok=2, rope_parameters=told, original_max_position_embeddings=SHORT_TOKENS, bos_token_id=0, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    settle_rope(model, context)
    network = Network(model, 256)
    runner = SlotRunner(network, 2, 512)
    for begin in range(0, 40, 8):
        found = runner.forward([Row(0, begin, IDS[begin : begin + 8])])[0]
    np.testing.assert_allclose(found, plain(network, IDS), atol=1e-3)
    assert model.model.rotary_emb.config.rope_parameters["long_mscale"] == (1.0 if context == SHORT_TOKENS else 1.3)
