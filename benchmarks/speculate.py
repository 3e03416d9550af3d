"""What a draft model brings, side by side in one run: the same model with it and without.

    python benchmarks/speculate.py                                  the starter model made fifteen times as deep, drafted by itself as it is
    python benchmarks/speculate.py --layers 20                      … five times as deep
    python benchmarks/speculate.py --model FILE --draft FILE        a pair of files or folders of one family
    python benchmarks/speculate.py --model FILE --lookup            drafted from what was written before: every question is asked a second time

The deep model has layers that add nothing to what the starter model writes (their output matrices are zero) but are computed all the same: a draft model that
is nearly always right, at a chosen cost. Greedy shows what drafting can bring at best, a temperature what is left of it when the model draws at chance.
Every round runs each contestant once, in turn; what counts is the ratio within a round. Replies have a fixed length; the draft model's reading of the prompt
and the steps in which the engine finds out what pays are in the figures. The second ratio is of processor time for a token: with one thread it is what the
first one would be on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from modules.core.generation import ChatPrompt, GenerationRequest, TextPrompt, Usage  # noqa: E402
from modules.core.messages import Message  # noqa: E402
from modules.core.params import GenerationParams  # noqa: E402
from modules.engine.client import EngineClient  # noqa: E402

STARTER = ROOT / "models" / "starter" / "starter-Q8_0.gguf"
QUESTIONS = ("How do I load a model?", "What is a LoRA?", "Where do I put model files?", "What is temperature?")


def deepen(source: Path, target: Path, layers: int) -> None:
    """Write a GGUF model again with more layers: copies of the last one whose results are multiplied by zero."""
    import gguf
    import numpy as np

    reader = gguf.GGUFReader(source)
    architecture = str(reader.fields["general.architecture"].contents())
    writer = gguf.GGUFWriter(target, architecture)
    for name, entry in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        value = layers if name == f"{architecture}.block_count" else entry.contents()
        writer.add_key_value(name, value, entry.types[0], sub_type=entry.types[-1] if len(entry.types) > 1 else None)
    last = max(int(found[1]) for tensor in reader.tensors if (found := re.match(r"blk\.(\d+)\.", tensor.name)))
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        if tensor.name.startswith(f"blk.{last}."):
            ends = "attn_output" in tensor.name or "ffn_down" in tensor.name
            for layer in range(last + 1, layers):
                data = np.zeros_like(tensor.data) if ends else tensor.data
                writer.add_tensor(tensor.name.replace(f"blk.{last}.", f"blk.{layer}."), data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@dataclass
class Contestant:
    """One way to write, and what came of it."""

    client: EngineClient
    clients: int
    temperature: float
    chats: tuple[ChatPrompt, ...]
    speeds: list[float] = field(default_factory=list)  # tokens per second
    thrifts: list[float] = field(default_factory=list)  # tokens per second of processor time
    drafted: int = 0
    accepted: int = 0

    async def run(self, tokens: int, seed: int) -> None:
        """All questions, so many at a time."""
        gate = asyncio.Semaphore(self.clients)
        begun_s, used_s = time.perf_counter(), self._processor_s()
        usages = await asyncio.gather(*(self._reply(gate, chat, tokens, seed) for chat in self.chats))
        written = sum(usage.completion_tokens for usage in usages)
        self.speeds.append(written / (time.perf_counter() - begun_s))
        self.thrifts.append(written / (self._processor_s() - used_s))
        self.drafted += sum(usage.drafted_tokens for usage in usages)
        self.accepted += sum(usage.accepted_tokens for usage in usages)

    def _processor_s(self) -> float:
        times = psutil.Process(self.client.pid).cpu_times()
        return times.user + times.system

    async def _reply(self, gate: asyncio.Semaphore, chat: ChatPrompt, tokens: int, seed: int) -> Usage:
        params = GenerationParams(temperature=self.temperature, max_tokens=tokens, ban_eos=True, seed=seed)
        prompt = chat if self.client.card.template_origin else TextPrompt(text=str(chat.messages[-1].content))
        async with gate:
            generation = await self.client.submit(GenerationRequest(prompt=prompt, params=params))
            async for _ in generation:
                pass
        assert generation.usage is not None
        return generation.usage


async def asked_before(client: EngineClient, chats: tuple[ChatPrompt, ...]) -> tuple[ChatPrompt, ...]:
    """The same questions after they were answered once."""
    longer = []
    for chat in chats:
        generation = await client.submit(GenerationRequest(prompt=chat, params=GenerationParams(temperature=0, max_tokens=100)))
        answer = Message(role="assistant", content="".join([delta.text async for delta in generation]))
        longer.append(ChatPrompt(messages=(*chat.messages, answer, *chat.messages)))
    return tuple(longer)


async def measure(options: argparse.Namespace, model: Path, draft: Path) -> None:
    """All rounds, then the table."""
    common: dict[str, Any] = {"slots": 4, "context_length": options.context, "threads": options.threads}
    if model.suffix == ".gguf":
        common["threads_batch"] = options.threads
    source = {"draft_lookup": "on"} if options.lookup else {"draft_model": str(draft)}
    plain = await EngineClient.start(str(model), "", common, name=model.name)
    drafting = await EngineClient.start(
        str(model), "", common | source | {"draft_tokens": options.draft_tokens}, name=model.name
    )
    kinds = [(clients, temperature) for temperature in options.temperatures for clients in options.clients]
    chats = tuple(ChatPrompt(messages=(Message(role="user", content=question),)) for question in QUESTIONS)
    if options.lookup:
        chats = await asked_before(plain, chats)
    rows = [(kind, Contestant(plain, *kind, chats), Contestant(drafting, *kind, chats)) for kind in kinds]
    try:
        for number in range(options.rounds + 1):
            for _, without, with_draft in rows:
                for contestant in (without, with_draft) if number % 2 else (with_draft, without):
                    await contestant.run(options.tokens, number)
                    if number == 0:  # an uncounted round: first calls load things
                        contestant.speeds.clear()
                        contestant.thrifts.clear()
                        contestant.drafted = contestant.accepted = 0
            print(f"round {number} of {options.rounds} done", file=sys.stderr)
    finally:
        await plain.close()
        await drafting.close()
    print(f"{os.cpu_count()} cores; {model.name}, drafted {'from what was written' if options.lookup else f'by {draft.name}'}, at most {options.draft_tokens} tokens; replies of {options.tokens} tokens; {options.rounds} rounds")
    print(f"{'':26} {'without':>9} {'with':>9} {'ratio':>6}   (min .. max)  {'by processor':>13}   (min .. max)  {'drafted':>8} {'right':>6}")
    for (clients, temperature), without, with_draft in rows:
        name = f"{'greedy' if not temperature else f'temperature {temperature}'}, {clients} at once"
        share = with_draft.accepted / with_draft.drafted if with_draft.drafted else 0.0
        print(
            f"{name:26} {statistics.median(without.speeds):9.1f} {statistics.median(with_draft.speeds):9.1f} "
            f"{_ratio(with_draft.speeds, without.speeds)}         {_ratio(with_draft.thrifts, without.thrifts)} {with_draft.drafted:8} {share:6.0%}"
        )


def _ratio(new: list[float], old: list[float]) -> str:
    ratios = [ours / theirs for ours, theirs in zip(new, old, strict=True)]
    return f"{statistics.median(ratios):6.2f}   ({min(ratios):.2f} .. {max(ratios):.2f})"


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="the model; without one, the starter model made deeper")
    parser.add_argument("--draft", type=Path, default=STARTER)
    parser.add_argument("--lookup", action="store_true", help="draft from what was written before instead of with a draft model")
    parser.add_argument("--layers", type=int, default=60)
    parser.add_argument("--draft-tokens", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.0, 0.7, 1.2])
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = options.model
        if model is None:
            model = Path(folder) / f"starter-{options.layers}-layers.gguf"
            deepen(STARTER, model, options.layers)
        asyncio.run(measure(options, model, options.draft))


if __name__ == "__main__":
    main()
