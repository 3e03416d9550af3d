"""The measure of benchmarks/engine.py over folders of safetensors: our transformers runner beside `model.generate` and continuous batching.

Ours is asked over HTTP, theirs in their own process; counted is everything from the request to the last token.
"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.contestants import Flags, Model, Server
from benchmarks.llama_parts import LONGER, Bench, replies, total_per_s
from benchmarks.measures import Row
from benchmarks.torch_rivals import SAMPLING, TorchRival

WAYS = (("generate", 1, 1.05, 1.2), ("batch", 8, 1.3, 1.6))  # way, prompts at once, bar, moonshot


def beside_transformers(bench: Bench, model: Model) -> Iterator[Row]:
    """Batch 1 and batch 8, each beside the way of transformers that is meant for it."""
    for way, count, bar, moonshot in WAYS:
        ours = bench.yard.paddock(model, Flags(count, 1024, bench.threads))
        ours.body |= {**SAMPLING, "min_p": 0}
        rival = TorchRival(way, model.path, bench.threads, bench.yard.place()[0] / "log")

        def measure(contestant: Server | TorchRival, number: int, count: int = count) -> list[float]:
            prompts = [model.prompt(LONGER, f"torch {number} {place}") for place in range(count)]
            if isinstance(contestant, TorchRival):
                return [contestant.tokens_per_s(prompts, bench.tokens)]
            return [total_per_s(replies(contestant, prompts, bench.tokens, number + 2))]

        name = f"transformers runner, batch {count}, prompts of {LONGER}, {bench.threads} threads"
        try:
            contestants: list[Server | TorchRival] = [ours, rival]
            yield from bench.turns.fill([Row("transformers", model.name, name, "tokens/s", rival.name, bar, moonshot)], contestants, measure)
        finally:
            rival.close()
        bench.yard.close(ours)
