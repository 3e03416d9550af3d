"""What several replies to one prompt cost beside one: `python -m benchmarks.parallel_replies MODEL`.

The engine is asked as the chat page asks it for versions side by side: so many requests with the same prompt at once, each with its own seed. Told
are the time until all are there, the tokens per second of each and together, and how many tokens of the prompts were computed; medians of the repeats,
in each of which all counts take their turn. `ratio` is the time beside that of one reply in the same repeat.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from modules.core.generation import GenerationRequest, TokenPrompt, Usage
from modules.core.params import GenerationParams
from modules.engine.client import EngineClient
from modules.loaders.model_info import read_info

COUNTS = (1, 2, 3, 4, 6)
FIRST_WORD = 300  # of the ids that prompts are made of: special tokens and bytes stand before
HEAD = f"{'replies':>8}{'seconds':>10}{'ratio':>8}{'first, s':>10}{'each tok/s':>12}{'all tok/s':>12}{'computed':>10}"


@dataclass(frozen=True)
class Cost:
    """What so many replies took, once."""

    seconds: float
    first_s: float  # until the last of them had begun
    each: float  # tokens per second
    together: float
    computed: int  # tokens of prompts


async def written(client: EngineClient, request: GenerationRequest) -> tuple[float, Usage]:
    """When the first token was there, and what it cost."""
    first_s, usage = 0.0, Usage()
    async for delta in await client.submit(request):
        first_s = first_s or time.monotonic()
        usage = delta.usage or usage
    return first_s, usage


async def measure(client: EngineClient, ids: tuple[int, ...], count: int, tokens: int) -> Cost:
    """So many replies to a prompt that was never seen before."""
    requests = [
        GenerationRequest(prompt=TokenPrompt(token_ids=ids), params=GenerationParams(max_tokens=tokens, ban_eos=True, seed=seed)) for seed in range(count)
    ]
    begun_s = time.monotonic()
    found = await asyncio.gather(*(written(client, request) for request in requests))
    seconds = time.monotonic() - begun_s
    usages = [usage for _, usage in found]
    return Cost(
        seconds=seconds,
        first_s=max(at_s for at_s, _ in found) - begun_s,
        each=sum(usage.tokens_per_s for usage in usages) / count,
        together=sum(usage.completion_tokens for usage in usages) / seconds,
        computed=sum(usage.prompt_tokens - usage.reused_tokens for usage in usages),
    )


def row(count: int, costs: list[Cost], single: list[Cost]) -> str:
    """A line of the table."""

    def median(name: str) -> float:
        return float(statistics.median(getattr(cost, name) for cost in costs))

    ratio = statistics.median(cost.seconds / one.seconds for cost, one in zip(costs, single, strict=True))
    return (
        f"{count:>8}{median('seconds'):>10.2f}{ratio:>8.2f}{median('first_s'):>10.2f}{median('each'):>12.1f}{median('together'):>12.1f}"
        f"{median('computed'):>10.0f}"
    )


async def run(args: argparse.Namespace) -> None:
    """All rows; what comes before the first repeat is thrown away."""
    context = args.prompt + args.tokens + 8
    room = {"cache_tokens": context * max(COUNTS)} if args.model.is_file() else {}  # llama.cpp's cache has room for four contexts otherwise
    options = {"context_length": context, "slots": max(COUNTS), **room, **({"threads": args.threads, "threads_batch": args.threads} if args.threads else {})}
    vocab_size = read_info(args.model, args.model.parent).vocab_size
    chance = random.Random(1)

    def prompt() -> tuple[int, ...]:
        return tuple(chance.randrange(min(FIRST_WORD, vocab_size // 2), vocab_size) for _ in range(args.prompt))

    client = await EngineClient.start(str(args.model), "", options)
    costs: dict[int, list[Cost]] = {count: [] for count in COUNTS}
    try:
        await measure(client, prompt(), 1, 8)
        print(f"{args.model.name}, a prompt of {args.prompt} tokens, {args.tokens} tokens each, {args.repeats} repeats, load {os.getloadavg()[0]:.1f}\n{HEAD}")
        for _ in range(args.repeats):
            for count in COUNTS:
                costs[count].append(await measure(client, prompt(), count, args.tokens))
    finally:
        await client.close()
    for count in COUNTS:
        print(row(count, costs[count], costs[1]))
    if args.json:
        args.json.write_text(json.dumps({str(count): [asdict(cost) for cost in found] for count, found in costs.items()}, indent=1), encoding="utf-8")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("model", type=Path, help="a model file or folder")
    parser.add_argument("--prompt", type=int, default=512, help="tokens of the prompt")
    parser.add_argument("--tokens", type=int, default=128, help="tokens of each reply")
    parser.add_argument("--threads", type=int, default=0, help="0 leaves them to the engine")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write everything that was measured into this file too")
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
