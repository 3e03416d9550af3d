"""Memory and speed that were predicted beside what engines really took: every model is loaded and used in an engine's process like the server's.

    python benchmarks/fit.py --state DIR                       starter, test data and generated models
    python benchmarks/fit.py --state DIR FILE_OR_FOLDER …      others, or with --part NAME one part of the above

DIR keeps what is measured of this machine (`machine.json`). Memory: the peak of the whole process after every slot held a full context (of folders at most
`--tokens` tokens) and wrote 32 tokens. Speed: of replies of 96 tokens after a prompt of 150, one at a time, the best of three; the first eight tokens do not
count. Where one thread writes, the time is that which the engine's thread ran: what else runs on the machine is not meant.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from modules.core.errors import AppError  # noqa: E402
from modules.core.generation import GenerationRequest, TokenPrompt, Usage  # noqa: E402
from modules.core.params import GenerationParams  # noqa: E402
from modules.engine.client import EngineClient  # noqa: E402
from modules.loaders.llama_cpp.random_model import RandomModel, write_random_gguf  # noqa: E402
from modules.loaders.machine import peak_bytes, size_text  # noqa: E402
from modules.loaders.registry import find_loader  # noqa: E402
from modules.services.fit_expected import Expected, local_shape  # noqa: E402
from modules.services.machine_speed import MachineSpeed  # noqa: E402

PROMPT_TOKENS, SHORT_TOKENS, REPLY_TOKENS, FILL_TOKENS, REPLIES = 150, 8, 96, 32, 3
REPLY: dict[str, Any] = {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05, "ban_eos": True}  # like the preset of most replies
SIZES = {
    "0.1B": RandomModel(12, 768, 2048, 12, 4, 32_000),
    "0.3B": RandomModel(24, 896, 2560, 14, 2, 50_000, merges=True),
    "0.6B": RandomModel(28, 1024, 3072, 16, 8, 151_936, head_width=128, merges=True, architecture="qwen3"),
    "1B": RandomModel(16, 2048, 8192, 32, 8, 64_000, merges=True),
}
# size → type, context, slots; threads are chosen by the loader where they are 0
GENERATED: tuple[tuple[str, str, int, int], ...] = (
    ("0.1B", "Q8_0", 4096, 1), ("0.1B", "Q8_0", 1024, 4), ("0.1B", "Q4_0", 1024, 2), ("0.1B", "F16", 1024, 1), ("0.1B", "Q4_K", 512, 1),
    ("0.3B", "Q8_0", 1024, 1), ("0.3B", "Q4_0", 512, 4), ("0.3B", "F16", 512, 1),
    ("0.6B", "Q8_0", 512, 1), ("0.6B", "Q4_0", 512, 2), ("0.6B", "Q4_K", 1024, 1), ("0.6B", "F16", 512, 1),
    ("1B", "Q8_0", 512, 1), ("1B", "Q4_0", 512, 2), ("1B", "F16", 512, 1),
)  # fmt: skip
FOLDERS = (("llama", 8, 512), ("llama", 12, 1024), ("qwen3", 12, 1024))  # kind, layers, width


@dataclass
class Case:
    """One model under one way to load it."""

    path: Path
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class Real:
    """What an engine took."""

    peak_bytes: int
    tokens_per_s: float
    held_tokens: int


async def measure(case: Case, tokens: int) -> Real:
    """Load, write replies one at a time, fill all slots."""
    engine = await EngineClient.start(str(case.path), find_loader(case.path).name, case.options)
    try:
        card, chance = engine.card, random.Random(1)

        def prompt(length: int) -> tuple[int, ...]:
            return tuple(chance.randrange(min(300, card.vocab_size // 2), card.vocab_size) for _ in range(length))

        async def write(ids: tuple[int, ...], count: int) -> Usage:
            params = GenerationParams(max_tokens=count, **REPLY)
            generation = await engine.submit(GenerationRequest(prompt=TokenPrompt(token_ids=ids), params=params))
            async for _ in generation:
                pass
            assert generation.usage is not None
            return generation.usage

        async def engine_s(ids: tuple[int, ...], count: int) -> float:
            before = thread_times(card.pid)
            usage = await write(ids, count)
            return busiest_s(before, thread_times(card.pid)) if case.options.get("threads") == 1 else usage.decode_s

        same, speeds = prompt(min(PROMPT_TOKENS, card.context_length - REPLY_TOKENS - 8)), []
        await write(same, SHORT_TOKENS)  # from now on its prefill is there
        for _ in range(REPLIES):
            short_s, long_s = await engine_s(same, SHORT_TOKENS), await engine_s(same, REPLY_TOKENS)
            speeds.append((REPLY_TOKENS - SHORT_TOKENS) / max(long_s - short_s, 1e-6))
        each = card.context_length - FILL_TOKENS - 8
        if card.loader != "llama.cpp":
            each = min(each, tokens)
        await asyncio.gather(*(write(prompt(each), FILL_TOKENS) for _ in range(card.slots)))
        counters = await engine.counters()
        return Real(peak_bytes(card.pid), max(speeds), counters.capacity_tokens if card.loader == "llama.cpp" else counters.cached_tokens)
    finally:
        await engine.close()


def thread_times(pid: int) -> dict[str, int]:
    """Thread → nanoseconds it has run."""
    return {task.name: int((task / "schedstat").read_text(encoding="ascii").split()[0]) for task in Path(f"/proc/{pid}/task").iterdir()}


def busiest_s(before: dict[str, int], after: dict[str, int]) -> float:
    """How long the busiest thread, which is the engine's, has run between two looks."""
    return max(ran - before.get(thread, 0) for thread, ran in after.items()) / 1e9


def cases(part: str, folder: Path) -> Iterator[Case]:
    """The models of a part, each made when its turn comes and deleted after it."""
    data = ROOT.parent / "shared" / "testdata" / "models"
    if part in ("", "shipped"):
        for slots in (1, 4):
            yield Case(ROOT / "models" / "starter" / "starter-Q8_0.gguf", {"slots": slots})
            yield Case(ROOT / "models" / "starter", {"slots": slots})
    if part in ("", "data") and data.is_dir():
        for path in sorted(path for path in data.iterdir() if path.is_dir() or path.suffix == ".gguf"):
            yield Case(path, {"slots": 4})
    if part in ("", "generated"):
        for name, kind, context, slots in GENERATED:
            path = write_random_gguf(folder / f"{name}-{kind}.gguf", _sized(SIZES[name], kind))
            yield Case(path, {"slots": slots, "context_length": context})
            path.unlink()
    if part in ("", "folders"):
        yield from _folders(folder)


def _sized(model: RandomModel, kind: str) -> RandomModel:
    from dataclasses import replace

    return replace(model, quantization=kind, as_shared=True)


def _folders(folder: Path) -> Iterator[Case]:
    from tests.tiny_models import write_folder

    for kind, layers, width in FOLDERS:
        sizes = {"num_hidden_layers": layers, "hidden_size": width, "intermediate_size": 3 * width, "num_attention_heads": width // 64}
        path = write_folder(folder / f"{kind}-{layers}x{width}", kind, **sizes, num_key_value_heads=width // 128, max_position_embeddings=4096)
        yield Case(path, {"slots": 2})


async def row(case: Case, speed: MachineSpeed, asked: argparse.Namespace) -> str:
    """One line of the table."""
    spec = find_loader(case.path)
    loader = spec.name
    while speed.known(loader) is None:
        speed.want(loader)
        await speed.settled()
        if speed.problem(loader):
            raise SystemExit(speed.problem(loader))
    options = {**case.options, **({"threads": asked.threads} if asked.threads else {})}
    expected = Expected(local_shape(case.path), loader, options, "float32", speed.known(loader))
    case.options = {**options, "threads": expected.threads}
    begun_s = time.monotonic()
    try:
        real = await measure(case, asked.tokens)
    except AppError as error:
        return f"| {case.path.name} | {error.message[:120]} |"
    context, held = min(options.get("context_length") or 8192, expected.shape.trained_tokens or 8192), real.held_tokens
    memory, wanted = expected.needs.peak(held), expected.tokens_per_s(min(PROMPT_TOKENS, context - REPLY_TOKENS - 8) + REPLY_TOKENS // 2)
    sys.stderr.write(f"{case.path.name}: {time.monotonic() - begun_s:.0f} s\n")
    cells = (
        case.path.name, loader, options["slots"], held, size_text(memory), size_text(real.peak_bytes), _off(memory, real.peak_bytes),
        expected.threads, f"{wanted:.0f}", f"{real.tokens_per_s:.0f}", _off(wanted, real.tokens_per_s),
    )  # fmt: skip
    return "| " + " | ".join(map(str, cells)) + " |"


def _off(predicted: float, real: float) -> str:
    return f"{100 * (predicted / max(1e-9, real) - 1):+.0f} %"


async def table(asked: argparse.Namespace) -> None:
    """Print it line by line."""
    speed = MachineSpeed(asked.state, lambda: True)
    print("| model | loader | slots | tokens | predicted | real peak | off | threads | tokens/s predicted | real | off |\n|" + "---|" * 11)
    with tempfile.TemporaryDirectory() as folder:
        context = {"context_length": asked.context} if asked.context else {}
        given = (Case(path, {"slots": asked.slots, **context}) for path in asked.paths)
        for case in given if asked.paths else cases(asked.part, Path(folder)):
            print(await row(case, speed, asked), flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", type=Path)
    parser.add_argument("--state", type=Path, required=True, help="folder for what is measured of this machine")
    parser.add_argument("--part", choices=("", "shipped", "data", "generated", "folders"), default="")
    parser.add_argument("--slots", type=int, default=4, help="of models that are named")
    parser.add_argument("--context", type=int, default=0, help="of models that are named; 0 is the loader's own choice")
    parser.add_argument("--threads", type=int, default=0, help="for writing; 0 takes what is predicted to be chosen")
    parser.add_argument("--tokens", type=int, default=1024, help="most tokens of each slot of a folder")
    asked = parser.parse_args()
    asked.state.mkdir(parents=True, exist_ok=True)
    asyncio.run(table(asked))


if __name__ == "__main__":
    main()
