"""Measures this machine with made-up models through the installed back ends, in a process of its own: `python -m modules.services.machine_probe LOADER`.

Prints a `Measured` as JSON. What is measured is the real thing: models of several sizes and types are loaded by the loader and run by its runner, and
one is run by the engine. Ends with its parent. `modules/services/machine_speed.py` starts it and keeps the result.
"""

from __future__ import annotations

import asyncio
import os
import queue
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

from modules.core.params import GenerationParams
from modules.engine import wire
from modules.engine.channel import Channel, guard_process
from modules.engine.frames import Frames
from modules.loaders.llama_cpp.memory import estimate as llama_cpp_needs
from modules.loaders.llama_cpp.options import LlamaCppOptions
from modules.loaders.llama_cpp.threads import thread_counts
from modules.loaders.machine import private_bytes, resident_bytes, usable_cores
from modules.loaders.measured import HeadTime, Measured, Pace, Rate
from modules.loaders.shape import folder_shape, gguf_shape
from modules.loaders.transformers.memory import estimate as transformers_needs
from modules.loaders.transformers.options import TransformersOptions

if TYPE_CHECKING:
    from modules.core.generation import Delta
    from modules.core.model import LoadedModel, Runner
    from modules.engine.events import Event
    from modules.loaders.shape import Shape

# type → layers and width of a model far beyond the caches; those of F16 that people have are wide ones
LARGE = MappingProxyType({"F16": (1, 2048), "Q8_0": (8, 1024), "Q4_0": (12, 1024), "Q4_K": (12, 1024), "Q6_K": (8, 1024), "IQ4_NL": (12, 1024)})
TYPES = tuple(LARGE)
WORDS, MANY_WORDS = 1024, 131_072
FEW_LAYERS, MORE_LAYERS = 2, 12
SIZES = ((2, 256), (4, 512), (4, 1024))  # layers and width of the models that weights are timed with: in the caches, at their edge, beyond; GGUF: `LARGE`
HEAD_WIDTH = 64
HEAD_WIDTHS, HEADS_LAYERS, HEADS_WIDTH = (8, 16, 32, 64, 128), 4, 256  # of the models that attention is timed with
FEWEST_HEADS = 4  # of a folder's models: two share their keys, as in most models, which costs PyTorch steps of its own
CONTEXT_TOKENS = 512
PROMPT_TOKENS, LONG_TOKENS, REPLY_TOKENS = 16, 432, 32
OVERHEAD = ("few", "more")  # models that differ in their layers alone
ROUNDS = 3
REPLIES = 4  # of one model, at most, in a round
BUDGET_S = 0.08  # for them
COPIED_SHARE = 0.5
LEAST_STEP_S = 1e-7
REPLY_LIMIT_S = 120.0
REPLY = GenerationParams(temperature=0.8, top_k=40, top_p=0.95, min_p=0.05, max_tokens=REPLY_TOKENS, ban_eos=True)  # like the preset of most replies


def write_models(folder: Path, loader: str) -> None:
    """Everything that is measured with. In a process of its own: what it takes must not be measured."""
    if loader == "llama.cpp":
        _write_gguf(folder)
    else:
        _write_folders(folder)


def _write_gguf(folder: Path) -> None:
    from modules.loaders.llama_cpp.random_model import RandomModel, write_random_gguf

    def made(name: str, layers: int, width: int, words: int = WORDS, kind: str = "Q8_0", heads: int = 0) -> None:
        heads = heads or max(1, width // HEAD_WIDTH)
        sizes = RandomModel(layers, width, 4 * width, heads, max(1, heads // 2), words, CONTEXT_TOKENS, width // heads, kind)
        write_random_gguf(folder / f"{name}.gguf", sizes)

    made("few", FEW_LAYERS, 64)
    made("more", MORE_LAYERS, 64)
    for head_width in HEAD_WIDTHS:
        made(f"heads-{head_width}", HEADS_LAYERS, HEADS_WIDTH, heads=HEADS_WIDTH // head_width)
    made("words", FEW_LAYERS, 64, MANY_WORDS)
    for kind in TYPES:
        for place, (layers, width) in enumerate((*SIZES[:-1], LARGE[kind])):
            made(f"{kind}-{place}", layers, width, kind=kind)


def _write_folders(folder: Path) -> None:
    from modules.loaders.transformers.random_model import RandomFolder, write_random_folder

    def made(name: str, layers: int, width: int, words: int = WORDS) -> None:
        heads = max(FEWEST_HEADS, width // HEAD_WIDTH)
        write_random_folder(folder / name, RandomFolder(layers, width, 4 * width, heads, max(1, heads // 2), words, CONTEXT_TOKENS))

    made("few", FEW_LAYERS, 64)
    made("more", MORE_LAYERS, 64)
    made("words", FEW_LAYERS, 64, MANY_WORDS)
    for place, (layers, width) in enumerate(SIZES):
        made(f"F32-{place}", layers, width)


# ---- the two loaders ---------------------------------------------------------------------------------------------------------------


def measure_llama_cpp(folder: Path, cores: int, listener: Listener, rounds: int) -> Measured:
    """Of the llama.cpp loader."""
    from modules.loaders.gguf_header import read_gguf_header
    from modules.loaders.llama_cpp import LLAMA_CPP

    def shape(name: str) -> Shape:
        header = read_gguf_header(folder / f"{name}.gguf")
        return gguf_shape((header,), header.size_bytes)

    def opened(name: str, threads: int) -> Bench:
        options = LlamaCppOptions(slots=1, threads=threads, threads_batch=threads)
        return Bench(LLAMA_CPP.load(folder / f"{name}.gguf", options, _no_progress), threads, listener)

    needed = llama_cpp_needs(shape("few"), LlamaCppOptions(slots=1), process_bytes=0).total(CONTEXT_TOKENS)
    token_s, word_s, process_bytes = _engine(opened, needed)
    names = [f"{kind}-{place}" for kind in TYPES for place in range(len(SIZES))]
    paces: list[Pace] = []
    for threads in thread_counts(cores):
        taken = _steps(opened, (*names, *OVERHEAD, *(f"heads-{width}" for width in HEAD_WIDTHS)), threads, rounds)
        pace = _overhead(taken, shape, threads)
        rates = {kind: tuple(_rate(shape(name), shape(name).stored_bytes, taken[name], pace) for name in names if name.startswith(f"{kind}-")) for kind in TYPES}
        paces.append(pace.model_copy(update={"rates": _at_least(rates, paces)}))
    copied = tuple(sorted(kind for kind in TYPES if _is_copied(folder / f"{kind}-{len(SIZES) - 1}.gguf")))
    return Measured(process_bytes=process_bytes, copied=copied, token_s=token_s, word_s=word_s, paces=tuple(paces))


def _is_copied(path: Path) -> bool:
    """Whether weights of a mapped file come to lie in memory of the process's own: llama.cpp rewrites them for this processor."""
    from modules.loaders.llama_cpp import LLAMA_CPP

    before = private_bytes()
    model = LLAMA_CPP.load(path, LlamaCppOptions(slots=1, threads=1, threads_batch=1, mmap="on"), _no_progress)
    taken = private_bytes() - before
    model.runner.close()
    return taken > COPIED_SHARE * model.info.size_bytes


def measure_transformers(folder: Path, cores: int, listener: Listener, rounds: int) -> Measured:
    """Of the transformers loader."""
    from modules.loaders.folder_header import read_folder_header
    from modules.loaders.transformers.loader import load

    def shape(name: str) -> Shape:
        return folder_shape(read_folder_header(folder / name))

    def opened(name: str, threads: int) -> Bench:
        return Bench(load(folder / name, TransformersOptions(slots=1, threads=threads), _no_progress), threads, listener)

    needed = transformers_needs(shape("few"), TransformersOptions(slots=1), "float32", process_bytes=0).total(CONTEXT_TOKENS)
    token_s, word_s, process_bytes = _engine(opened, needed)
    names = [f"F32-{place}" for place in range(len(SIZES))]
    paces: list[Pace] = []
    for threads in sorted({1, cores}):
        taken = _steps(opened, (*names, *OVERHEAD), threads, rounds)
        pace = _overhead(taken, shape, threads, widths=())  # PyTorch computes all heads at once: what a token more costs is not to be seen
        rates = {"F32": tuple(_rate(shape(name), 4 * shape(name).parameters, taken[name], pace) for name in names)}
        paces.append(pace.model_copy(update={"rates": _at_least(rates, paces)}))
    return Measured(process_bytes=process_bytes, token_s=token_s, word_s=word_s, paces=tuple(paces))


# ---- times -------------------------------------------------------------------------------------------------------------------------


def _no_progress(_stage: str, _done: float | None) -> None:
    """Nobody looks."""


class ClockedRunner:
    """A runner that writes down what its one-token steps take. Between them the engine works, so caches are as cold as in use."""

    def __init__(self, runner: Runner, clock: Callable[[], float]) -> None:
        self._runner = runner
        self._clock = clock
        self.taken: list[float] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)

    def forward(self, rows: Any) -> Any:
        """As the runner does it."""
        begun = self._clock()
        logits = self._runner.forward(rows)
        if len(rows) == 1 and len(rows[0].token_ids) == 1:
            self.taken.append(self._clock() - begun)
        return logits


class Listener:
    """A process that reads replies as the server's does, fed by a thread as an engine's is."""

    def __init__(self) -> None:
        command = (sys.executable, "-m", "modules.services.machine_probe", "", "listen")
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        assert self._process.stdin is not None
        self._channel = Channel(os.open(os.devnull, os.O_RDONLY), os.dup(self._process.stdin.fileno()))

    def tell(self, delta: Delta) -> None:
        """Hand a piece of a reply over, soon."""
        self._channel.send(lambda: {"events": [[1, "delta", wire.delta_to_wire(delta)]]})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()
        self._process.kill()
        self._process.communicate()


async def listen() -> None:
    """Read frames on standard input until it ends."""
    arrived: asyncio.Queue[Any] = asyncio.Queue()
    ended, frames = asyncio.Event(), Frames()

    def take(message: wire.Message) -> None:
        for _number, _kind, value in message["events"]:
            arrived.put_nowait(value)

    class Reading(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            frames.feed(data)

        def connection_lost(self, exc: Exception | None) -> None:
            ended.set()

    async def follow() -> None:
        while True:
            wire.wire_to_delta(await arrived.get())

    following = asyncio.create_task(follow())  # who follows a reply is not who reads
    frames.listen(take, lambda _: ended.set())
    await asyncio.get_running_loop().connect_read_pipe(Reading, sys.stdin)
    await ended.wait()
    following.cancel()


class Bench:
    """A loaded model with an engine, that writes replies to be timed: with one thread its own time counts, with several that of the clock.

    Several threads wait for each other, so whoever reads the reply slows them down where they need every core. Somebody reads these too.
    """

    def __init__(self, model: LoadedModel, threads: int, listener: Listener) -> None:
        from modules.engine.engine import Engine

        self._listener = listener
        self._runner = ClockedRunner(model.runner, time.thread_time if threads == 1 else time.perf_counter)
        self._ended: queue.Queue[Event] = queue.Queue()
        self._marks: list[tuple[float, int]] = []  # the engine's own time, and steps so far
        self._engine = Engine(self._runner, model.tokenizer, self._sink, name="a made-up model")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.close()

    def _sink(self, events: Iterable[Event]) -> None:
        for event in events:
            if event.delta is not None:
                self._listener.tell(event.delta)
                self._marks.append((time.thread_time(), len(self._runner.taken)))
            if event.error is not None or (event.delta is not None and event.delta.finish_reason is not None):
                self._ended.put(event)

    def _reply(self, before: int) -> None:
        self._marks.clear()
        self._engine.submit([2] * before, REPLY)
        event = self._ended.get(timeout=REPLY_LIMIT_S)
        if event.error is not None:
            raise event.error

    def step_s(self, before: int = PROMPT_TOKENS) -> float:
        """Seconds of a one-token step after so many tokens."""
        self._runner.taken.clear()
        end = time.perf_counter() + BUDGET_S
        for _ in range(REPLIES):
            self._reply(before)
            if time.perf_counter() > end:
                break
        taken = sorted(self._runner.taken)
        return taken[len(taken) // 2]

    def engine_s(self) -> float:
        """Seconds of the engine for each token beside the step, of the reply disturbed least."""
        found = []
        for _ in range(REPLIES):
            self._runner.taken.clear()
            self._reply(PROMPT_TOKENS)
            (first_s, first), (last_s, last) = self._marks[0], self._marks[-1]
            found.append((last_s - first_s - sum(self._runner.taken[first:last])) / max(1, last - first))
        return max(0.0, sorted(found)[len(found) // 4])


def _engine(opened: Callable[[str, int], Bench], needed_bytes: int) -> tuple[float, float, int]:
    """Seconds of a token beside the step, of each entry of the vocabulary, and the memory that the process holds beside what the formula says of “few”."""
    with opened("few", 1) as bench:
        few_s, process_bytes = bench.engine_s(), max(1, resident_bytes() - needed_bytes)
    with opened("words", 1) as bench:
        word_s = max(0.0, bench.engine_s() - few_s) / (MANY_WORDS - WORDS)
    return max(0.0, few_s - WORDS * word_s), word_s, process_bytes


def _steps(opened: Callable[[str, int], Bench], names: Sequence[str], threads: int, rounds: int) -> dict[str, float]:
    """Seconds of a step of each model, and for those with heads also after many tokens (“NAME long”): the median of the rounds.

    A round takes all models in turn, so that what disturbs the machine for a while does not fall on one of them alone.
    """
    taken: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name in names:
            with opened(name, threads) as bench:
                found = {name: bench.step_s()}
                if name.startswith("heads-"):
                    found[f"{name} long"] = bench.step_s(LONG_TOKENS)
            for key, seconds in found.items():
                taken.setdefault(key, []).append(seconds)
    return {key: statistics.median(rounds) for key, rounds in taken.items()}


def _overhead(taken: Mapping[str, float], shape: Callable[[str], Shape], threads: int, widths: Sequence[int] = HEAD_WIDTHS) -> Pace:
    """What a step costs whatever the model, for each layer, and for each head of some widths and token before; with rates to come."""
    few_s, more_s = (taken[name] for name in OVERHEAD)
    layer_s = max(0.0, more_s - few_s) / (MORE_LAYERS - FEW_LAYERS)
    heads = []
    for width in widths:
        known, name = shape(f"heads-{width}"), f"heads-{width}"
        longer_s = max(0.0, taken[f"{name} long"] - taken[name])
        heads.append(HeadTime(width=width, seconds=longer_s / (known.layers * known.heads * (LONG_TOKENS - PROMPT_TOKENS))))
    return Pace(threads=threads, step_s=max(0.0, few_s - FEW_LAYERS * layer_s), layer_s=layer_s, heads=tuple(heads), rates={})


def _rate(shape: Shape, weights_bytes: int, seconds: float, pace: Pace) -> Rate:
    used = max(1, int(weights_bytes * shape.read_share))
    rest = seconds - pace.overhead_s(shape, PROMPT_TOKENS + REPLY_TOKENS // 2)
    return Rate(model_bytes=used, bytes_per_s=used / max(LEAST_STEP_S, seconds / 10, rest))


def _at_least(rates: dict[str, tuple[Rate, ...]], paces: list[Pace]) -> dict[str, tuple[Rate, ...]]:
    """More threads are taken only where they are faster; that they were slower here means that something else ran meanwhile."""
    if not paces:
        return rates
    fewer = paces[-1].rates
    return {kind: tuple(max(pair, key=lambda rate: rate.bytes_per_s) for pair in zip(found, fewer[kind], strict=True)) for kind, found in rates.items()}


def main(loader: str, task: str = "", place: str = "", *, rounds: int = ROUNDS, cores: int = 0) -> None:
    """Write the models in another process, measure, print: in so many rounds, with up to so many threads (0: as many as the machine has cores)."""
    guard_process()
    if task == "write":
        write_models(Path(place), loader)
        return
    if task == "listen":
        asyncio.run(listen())
        return
    import modules.services.worker  # noqa: F401 - what an engine's process holds too

    measure: Callable[[Path, int, Listener, int], Measured] = measure_llama_cpp if loader == "llama.cpp" else measure_transformers
    with tempfile.TemporaryDirectory(prefix="paddock-probe-") as folder:
        subprocess.run([sys.executable, "-m", "modules.services.machine_probe", loader, "write", folder], check=True)
        with Listener() as listener:
            sys.stdout.write(measure(Path(folder), cores or usable_cores(), listener, rounds).model_dump_json())


if __name__ == "__main__":
    main(*sys.argv[1:])
