"""Tokens per second on a graphics card: our transformers engine beside `model.generate` and transformers' continuous batching.

    python3 -m benchmarks.gpu_engine                       a llama of 1.1 billion random bfloat16 weights, made on the card
    python3 -m benchmarks.gpu_engine --batches 1 8 32 --tokens 128 --rounds 3
    python3 -m benchmarks.gpu_engine --device cpu --layers 2 --width 256 --batches 1 2 --tokens 8 --rounds 1     that the benchmark itself runs

One contestant after the other, on a card that nobody else uses; printed are medians and ours by theirs. All write the same number of tokens after prompts of
as many random ones, greedy; ours also with steps that are played back as CUDA graphs, and by chance (temperature 0.8, top-k 40, top-p 0.95), where only the
likeliest tokens leave the card. Needs no network and no model on the disk. A contestant that fails is reported with its sentence; the others go on.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from modules.core.errors import AppError
from modules.core.params import GenerationParams
from modules.engine.logits import as_row
from modules.engine.sampling import Sampler

VOCABULARY = 32_000
CONTEXT = 1024
PROMPT_TOKENS = 32
WAIT_S = 60.0
CHANCE = {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "seed": 7}
Contestant = Callable[[list[list[int]]], int]


def make_model(options: argparse.Namespace) -> Any:
    """Random weights, straight on the device."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    heads = max(2, options.width // 64)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=options.width, intermediate_size=4 * options.width, num_hidden_layers=options.layers,
        num_attention_heads=heads, num_key_value_heads=heads if heads % 4 else heads // 4, max_position_embeddings=CONTEXT, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    torch.set_default_dtype(torch.bfloat16 if options.device == "cuda" else torch.float32)
    try:
        with torch.device(options.device):
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(torch.float32)
    return model.eval().requires_grad_(False)


def ours(model: Any, slots: int, tokens: int, params: GenerationParams, *, recorded: bool = False) -> Contestant:
    """Our runner and sampler, as the engine drives them; with `recorded` steps are CUDA graphs.

    Raises:
        RuntimeError: steps cannot be recorded, or are not faster so.
    """
    from modules.core.model import Row
    from modules.loaders.transformers.agreement import choose_runner, record_steps
    from modules.loaders.transformers.network import Network

    network = Network(model, CONTEXT)
    runner = choose_runner(network, slots, 2048)
    refusal = record_steps(runner, network) if recorded else ""
    if refusal:
        raise RuntimeError(refusal)

    def run(prompts: list[list[int]]) -> int:
        texts = [list(prompt) for prompt in prompts]
        samplers = [Sampler(params, vocab_size=VOCABULARY, end_ids=frozenset({1}), prompt_ids=prompt) for prompt in prompts]
        for slot in range(len(texts)):
            runner.truncate(slot, 0)
        held = [0] * len(texts)
        for _ in range(tokens):
            entries = runner.forward([Row(slot, held[slot], ids[held[slot] :]) for slot, ids in enumerate(texts)])
            for slot, entry in enumerate(entries):
                held[slot] = len(texts[slot])
                token_id = samplers[slot].sample(as_row(entry))
                samplers[slot].accept(token_id)
                texts[slot].append(token_id)
        return tokens * len(texts)

    return run


def generate(model: Any, tokens: int) -> Contestant:
    """One call of `model.generate` for all prompts, which are equally long."""
    import torch

    def run(prompts: list[list[int]]) -> int:
        ids = torch.tensor(prompts, device=model.device)
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, pad_token_id=0
        )
        return int(out.shape[1] - ids.shape[1]) * len(prompts)

    return run


def continuous_batching(model: Any, tokens: int, stack: ExitStack) -> Contestant:
    """A manager of transformers, started once. Its thread ends with `stop`, which the stack calls."""
    from transformers import GenerationConfig
    from transformers.generation import ContinuousBatchingConfig

    config = GenerationConfig(max_new_tokens=tokens, do_sample=False, eos_token_id=-1, pad_token_id=0)
    room = ContinuousBatchingConfig(page_size=32, num_blocks=1024, max_batch_tokens=2048)
    manager = model.init_continuous_batching(generation_config=config, continuous_batching_config=room)
    manager.start()
    stack.callback(manager.stop, block=True)
    numbers = itertools.count()

    def run(prompts: list[list[int]]) -> int:
        for prompt in prompts:
            manager.add_request(prompt, request_id=str(next(numbers)), max_new_tokens=tokens)
        done, until_s = 0, time.monotonic() + WAIT_S
        while done < len(prompts):
            answer = manager.get_result(timeout=1.0)
            done += answer is not None and answer.is_finished()
            if time.monotonic() > until_s:
                raise TimeoutError(f"{done} of {len(prompts)} replies after {WAIT_S:.0f} s")
        return tokens * len(prompts)

    return run


def timed(contestant: Contestant, prompts: list[list[int]]) -> float:
    """Tokens per second."""
    begun_s = time.perf_counter()
    return contestant(prompts) / (time.perf_counter() - begun_s)


def measure(options: argparse.Namespace, stack: ExitStack) -> None:
    """All rounds, then a table."""
    import torch

    model = make_model(options)
    name = torch.cuda.get_device_name() if options.device == "cuda" else "processor"
    print(f"{name}, torch {torch.__version__}, {sum(weight.numel() for weight in model.parameters()) / 1e9:.2f} B {model.dtype}")
    slots = max(options.batches)
    makers: dict[str, Callable[[], Contestant]] = {
        "ours, greedy": lambda: ours(model, slots, options.tokens, GenerationParams(temperature=0, ban_eos=True)),
        "ours, recorded": lambda: ours(model, slots, options.tokens, GenerationParams(temperature=0, ban_eos=True), recorded=True),
        "ours, by chance": lambda: ours(model, slots, options.tokens, GenerationParams(**CHANCE, ban_eos=True)),
        "model.generate": lambda: generate(model, options.tokens),
        "continuous batching": lambda: continuous_batching(model, options.tokens, stack),  # last: it changes how the model attends
    }
    figures: dict[tuple[str, int], list[float]] = {}
    draw = torch.Generator().manual_seed(1)
    for way, maker in makers.items():
        try:
            contestant = maker()
            for batch in options.batches:
                for number in range(options.rounds + 1):
                    prompts = torch.randint(3, VOCABULARY, (batch, PROMPT_TOKENS), generator=draw).tolist()
                    speed = timed(contestant, prompts)
                    if number:  # the first one loads and compiles things
                        figures.setdefault((way, batch), []).append(speed)
        except (AppError, RuntimeError, ValueError, TypeError, AttributeError, ImportError, TimeoutError) as error:
            print(f"{way}: {type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}")
    print(f"{options.tokens} tokens after {PROMPT_TOKENS}, medians of {options.rounds}; tokens/s of all replies, and ours ÷ theirs")
    for (way, batch), speeds in sorted(figures.items(), key=lambda item: item[0][1]):
        base = statistics.median(figures[("ours, greedy", batch)])
        print(f"batch {batch:3}  {way:22} {statistics.median(speeds):9.1f}   {base / statistics.median(speeds):6.2f}")


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    with ExitStack() as stack:
        measure(parser.parse_args(), stack)


if __name__ == "__main__":
    main()
