"""Deterministic requests give the same tokens every time on both back ends, whoever else is there; sampled hot, so that rounding would show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modules.core.params import GenerationParams
from modules.engine.engine import Engine
from modules.loaders.llama_cpp.threads import LiveThreads, Threads
from modules.loaders.registry import find_loader
from tests.fakes import Inbox

COUNT = 40
EXACT = GenerationParams(temperature=1.5, max_tokens=COUNT, seed=11, ban_eos=True, logprobs=0, deterministic=True)
LOOSE = GenerationParams(temperature=1.5, max_tokens=COUNT, ban_eos=True)


@pytest.mark.parametrize(
    ("name", "options"),
    [("llama.cpp", {}), ("llama.cpp", {"kv_type": "q8_0"}), ("llama.cpp", {"kv_type": "q4_0"}), ("llama.cpp", {"threads": 2, "threads_batch": 2}), ("transformers", {})],
)
def test_the_same_request_gives_the_same_tokens_beside_busy_others(
    starter_dir: Path, starter_gguf: Path, root: Path, name: str, options: dict[str, Any]
) -> None:
    path = starter_gguf if name == "llama.cpp" else starter_dir
    spec = find_loader(path, name)
    model = spec.load(path, spec.options(**{"slots": 4, "context_length": 512, "threads": 1} | options), lambda stage, done: None)
    live = LiveThreads(Threads(2, 2), Threads(1, 1))
    if "threads" in options:
        model.runner.use_threads(live, Threads(2, 2))
    inbox = Inbox()
    engine = Engine(model.runner, model.tokenizer, inbox)
    engine.spill_within(50_000_000)
    text = model.tokenizer.encode((root / "docs" / "training.md").read_text("utf-8")[:3000], add_special=True, parse_special=False)
    prompt = text[:150]

    def told(generation: Any) -> list[tuple[int, float]]:
        """Tokens and what the model said of them, to the last bit."""
        return [(entry.token_id, entry.logprob) for delta in inbox.deltas[generation] for entry in delta.logprobs]

    first = engine.submit(prompt, EXACT)
    inbox.wait(first)
    for turn in range(2):
        others = [engine.submit(text[: 100 + 40 * number + turn], LOOSE, client=f"{number}") for number in range(3)]
        again = engine.submit(prompt, EXACT)
        others += [engine.submit(prompt[: 150 - number], LOOSE) for number in range(2)]
        inbox.wait(again, *others)
        live._change(Threads(1, 1), 0.0)  # something else needs the cores
        assert len(told(again)) == COUNT
        assert told(again) == told(first)
        assert inbox.started[again].reused_tokens == 0
        assert [len(inbox.ids(other)) for other in others] == [COUNT] * 5
    assert engine.close()
