"""Speed of generation, side by side in one run: our engine, `llama_cpp.Llama`, `model.generate`, and any OpenAI-compatible server.

    python benchmarks/generate.py                              the starter model
    python benchmarks/generate.py --gguf FILE --folder FOLDER --tokens 64 --clients 8 --rounds 5
    python benchmarks/generate.py --url http://127.0.0.1:8080 --url-model NAME

Every round runs each contestant once, in turn, so that a noisy machine disturbs all of them alike; what counts is the ratio within a round.
Printed: median tokens/s, the median of the ratios to the first contestant, and our total with several clients beside our one client's.
Greedy, no stop, the same prompt and the same number of tokens for everybody.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from modules.core.generation import GenerationRequest, TextPrompt  # noqa: E402
from modules.core.params import GenerationParams  # noqa: E402
from modules.engine.client import EngineClient  # noqa: E402

PROMPT = "Once upon a time there was a small green paddock behind the old house, and in it lived a horse who could"
Contestant = Callable[[], Awaitable[float]]


async def our_engine(path: Path, loader: str, options: dict[str, Any]) -> EngineClient:
    """Our engine in its child process, as the server runs it."""
    return await EngineClient.start(str(path), loader, options, name=path.name)


async def one_reply(client: EngineClient, tokens: int, salt: str = "") -> int:
    """Tokens of one greedy reply of fixed length."""
    params = GenerationParams(temperature=0, max_tokens=tokens, ban_eos=True)
    generation = await client.submit(GenerationRequest(prompt=TextPrompt(text=salt + PROMPT), params=params, client=salt))
    count = 0
    async for delta in generation:
        count += len(delta.token_ids)
    return count


async def total_speed(client: EngineClient, clients: int, tokens: int) -> float:
    """Tokens per second of all clients together, prefill included. Prompts differ, so that none profits from another's."""
    begun_s = time.perf_counter()
    stamp = str(time.monotonic_ns())[-6:]
    counts = await asyncio.gather(*(one_reply(client, tokens, f"{stamp}{number} ") for number in range(clients)))
    return sum(counts) / (time.perf_counter() - begun_s)


def high_level_llama(path: Path, tokens: int, context: int) -> Contestant:
    """`llama_cpp.Llama`, as most Python programs use llama.cpp."""
    from llama_cpp import Llama

    llama = Llama(str(path), n_ctx=context, verbose=False)
    banned = {llama.token_eos(): -100.0}

    def run() -> float:
        begun_s = time.perf_counter()
        prompt = f"{time.monotonic_ns() % 1_000_000} {PROMPT}"
        answer: Any = llama.create_completion(prompt, max_tokens=tokens, temperature=0, logit_bias=banned)
        return int(answer["usage"]["completion_tokens"]) / (time.perf_counter() - begun_s)

    return lambda: asyncio.to_thread(run)


def model_generate(folder: Path, tokens: int) -> Contestant:
    """Transformers' own `generate`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False, use_safetensors=True).eval()

    def run() -> float:
        begun_s = time.perf_counter()
        inputs = tokenizer(f"{time.monotonic_ns() % 1_000_000} {PROMPT}", return_tensors="pt")
        options = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False, "pad_token_id": 0}
        out = model.generate(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], **options)
        return (out.shape[1] - inputs["input_ids"].shape[1]) / (time.perf_counter() - begun_s)

    return lambda: asyncio.to_thread(run)


def http_server(url: str, model: str, tokens: int, clients: int) -> Contestant:
    """Any OpenAI-compatible server, total of `clients` streams."""
    import httpx

    async def stream(client: httpx.AsyncClient) -> int:
        body = {
            "model": model, "prompt": f"{time.monotonic_ns() % 1_000_000} {PROMPT}", "max_tokens": tokens, "temperature": 0,
            "stream": True, "stream_options": {"include_usage": True}, "ignore_eos": True,
        }  # fmt: skip
        count = 0
        async with client.stream("POST", f"{url.rstrip('/')}/v1/completions", json=body) as response:
            response.raise_for_status()
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    usage = json.loads(line[6:]).get("usage")
                    count = usage["completion_tokens"] if usage else count
        return count

    async def run() -> float:
        async with httpx.AsyncClient(timeout=600) as client:
            begun_s = time.perf_counter()
            counts = await asyncio.gather(*(stream(client) for _ in range(clients)))
            return sum(counts) / (time.perf_counter() - begun_s)

    return run


async def contestants(options: argparse.Namespace) -> tuple[dict[str, Contestant], list[EngineClient]]:
    """All that can run here, by the name they are printed under."""
    found: dict[str, Contestant] = {}
    engines = []
    if options.gguf:
        engine = await our_engine(options.gguf, "llama.cpp", {"slots": options.clients})
        engines.append(engine)
        found["Paddock llama.cpp, 1 client"] = lambda: total_speed(engine, 1, options.tokens)
        found[f"Paddock llama.cpp, {options.clients} clients"] = lambda: total_speed(engine, options.clients, options.tokens)
        found["llama_cpp.Llama, 1 client"] = high_level_llama(options.gguf, options.tokens, engine.card.context_length)
    if options.folder:
        other = await our_engine(options.folder, "transformers", {"slots": options.clients})
        engines.append(other)
        found["Paddock transformers, 1 client"] = lambda: total_speed(other, 1, options.tokens)
        found[f"Paddock transformers, {options.clients} clients"] = lambda: total_speed(other, options.clients, options.tokens)
        found["model.generate, 1 client"] = model_generate(options.folder, options.tokens)
    for url in options.url:
        for clients in (1, options.clients):
            found[f"{url}, {clients} client{'s' * (clients > 1)}"] = http_server(url, options.url_model, options.tokens, clients)
    return found, engines


async def run(options: argparse.Namespace) -> None:
    """All rounds, then the table."""
    runners, engines = await contestants(options)
    speeds: dict[str, list[float]] = {name: [] for name in runners}
    try:
        for contestant in runners.values():  # one uncounted round: first calls load and compile things
            await contestant()
        for number in range(options.rounds):
            for name, contestant in runners.items():
                speeds[name].append(await contestant())
            print(f"round {number + 1} of {options.rounds} done", file=sys.stderr)
    finally:
        for engine in engines:
            await engine.close()
    first = next(iter(speeds))
    print(f"{os.cpu_count()} cores; {options.tokens} tokens, greedy; {options.rounds} interleaved rounds")
    print(f"{'':44} {'tokens/s':>9} {'ratio to the first':>19}   (min .. max of the ratio)")
    for name, values in speeds.items():
        ratios = [value / base for value, base in zip(values, speeds[first], strict=True)]
        print(f"{name:44} {statistics.median(values):9.1f} {statistics.median(ratios):19.2f}   ({min(ratios):.2f} .. {max(ratios):.2f})")


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    starter = ROOT / "models" / "starter"
    parser.add_argument("--gguf", type=Path, default=starter / "starter-Q8_0.gguf")
    parser.add_argument("--folder", type=Path, default=starter)
    parser.add_argument("--url", action="append", default=[])
    parser.add_argument("--url-model", default="default")
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
