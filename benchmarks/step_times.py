"""Where the microseconds of a step of our engine go: a real engine in this process, its parts timed by their own time, replies read by another process.

Used by benchmarks/engine.py --profile. Times are of the clock, and beside them what the engine's thread itself ran meanwhile: the difference is waiting, for a
core, for threads that compute, or for the thread that writes to the reader and shares the interpreter, as it does in use.
"""

from __future__ import annotations

import functools
import importlib
import queue
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.contestants import SAMPLING, Model
from modules.core.params import GenerationParams
from modules.engine.events import Event
from modules.loaders.registry import find_loader
from modules.services.machine_probe import Listener

PROMPT_TOKENS, REPLIES, REPLY_LIMIT_S = 16, 3, 600.0
# label → module, class and method of what counts there. A call inside another counts for itself alone
PARTS: tuple[tuple[str, str, str, str], ...] = (
    ("planning", "scheduler", "Scheduler", "admit"), ("planning", "scheduler", "Scheduler", "plan"), ("planning", "scheduler", "Scheduler", "advance"),
    ("planning", "scheduler", "Scheduler", "again"), ("planning", "adapter_turns", "AdapterTurns", "begin"), ("planning", "deadlines", "Deadlines", "passed"),
    ("sampling", "sampling", "Sampler", "sample"), ("sampling", "sampling", "Sampler", "accept"),
    ("text", "writing", "Writer", "next_token"), ("text", "detokenizer", "Detokenizer", "feed"), ("text", "stopping", "StopChecker", "feed"),
    ("delivery", "events", "Outbox", "deliver"), ("delivery", "events", "Outbox", "before_step"), ("drafting", "speculation", "Speculation", "extend"), ("drafting", "speculation", "Speculation", "settle"),
)  # fmt: skip
LABELS = ("model", "sampling", "text", "delivery", "planning", "drafting")


class Stopwatch:
    """Own time of what it is put around, by label; one thread is watched."""

    def __init__(self) -> None:
        self.taken: dict[str, float] = dict.fromkeys(LABELS, 0.0)
        self.ran: dict[str, float] = dict.fromkeys(LABELS, 0.0)
        self.calls: dict[str, int] = dict.fromkeys(LABELS, 0)
        self._inner: list[list[float]] = []  # time of calls inside each open call, by both clocks

    def around(self, label: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed."""
        taken, ran, calls, inner, clock, thread_clock = self.taken, self.ran, self.calls, self._inner, time.perf_counter, time.thread_time

        @functools.wraps(function)
        def timed(*args: Any, **named: Any) -> Any:
            inner.append([0.0, 0.0])
            begun_s, ran_s = clock(), thread_clock()
            try:
                return function(*args, **named)
            finally:
                whole_s, own_s = clock() - begun_s, thread_clock() - ran_s
                within = inner.pop()
                taken[label] += whole_s - within[0]
                ran[label] += own_s - within[1]
                calls[label] += 1
                if inner:
                    inner[-1][0] += whole_s
                    inner[-1][1] += own_s

        return timed

    def put_around_parts(self) -> None:
        """All parts of the engine that have a label, in this process."""
        for label, module, owner, name in PARTS:
            kind = getattr(importlib.import_module(f"modules.engine.{module}"), owner, None)
            if kind is None or not hasattr(kind, name):
                sys.stderr.write(f"modules/engine/{module}.py has no {owner}.{name} any more: its time is in “rest”\n")
                continue
            setattr(kind, name, self.around(label, getattr(kind, name)))

    def clear(self) -> None:
        """Forget what was taken so far."""
        for label in LABELS:
            self.taken[label], self.ran[label], self.calls[label] = 0.0, 0.0, 0


class WatchedRunner:
    """The loaded model, its steps timed."""

    def __init__(self, runner: Any, watch: Stopwatch) -> None:
        self._runner = runner
        self.forward = watch.around("model", runner.forward)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)


def profile(model: Model, clients: int, tokens: int, threads: int) -> str:
    """A table: label, microseconds of a step, share."""
    from modules.engine.engine import Engine

    spec = find_loader(model.path)
    options: dict[str, Any] = {"slots": clients, "context_length": 2048, "threads": threads}
    if model.path.is_file():
        options["threads_batch"] = threads
    with ThreadPoolExecutor(1) as loading:  # OpenMP keeps helpers for each thread that computed, as long as it lives (modules/engine/worker.py)
        loaded = loading.submit(spec.load, model.path, spec.options.model_validate(options), lambda _stage, _done: None).result()
    watch, ended = Stopwatch(), queue.Queue[Event]()
    original = _originals()
    watch.put_around_parts()
    with Listener() as listener:

        def sink(events: Iterable[Event]) -> None:
            for event in events:
                if event.delta is not None:
                    listener.tell(event.delta)
                if event.error is not None or (event.delta is not None and event.delta.finish_reason is not None):
                    ended.put(event)

        engine = Engine(WatchedRunner(loaded.runner, watch), loaded.tokenizer, sink, name=model.name)
        params = GenerationParams(max_tokens=tokens, ban_eos=True, seed=1, **SAMPLING)
        try:
            for number in range(REPLIES + 1):
                watch.clear()
                begun_s = time.perf_counter()
                for place in range(clients):
                    engine.submit(model.prompt(PROMPT_TOKENS, f"profile {number} {place}"), params)
                for _ in range(clients):
                    event = ended.get(timeout=REPLY_LIMIT_S)
                    if event.error is not None:
                        raise event.error
                whole_s = time.perf_counter() - begun_s
        finally:
            engine.close()
            _restore(original)
    return _table(f"{model.name}, {clients} at once, {tokens} tokens, {threads} threads, prefill of {PROMPT_TOKENS} included", watch, whole_s)


def _originals() -> list[tuple[Any, str, Any]]:
    found = []
    for _, module, owner, name in PARTS:
        kind = getattr(importlib.import_module(f"modules.engine.{module}"), owner, None)
        if kind is not None and hasattr(kind, name):
            found.append((kind, name, kind.__dict__.get(name)))
    return found


def _restore(originals: list[tuple[Any, str, Any]]) -> None:
    for kind, name, function in originals:
        if function is not None:
            setattr(kind, name, function)


def _table(title: str, watch: Stopwatch, whole_s: float) -> str:
    steps = max(1, watch.calls["model"])
    rest_s = max(0.0, whole_s - sum(watch.taken.values()))
    lines = [f"{title}: {steps} steps", "", "| part | µs a step | share | µs it ran | calls a step |", "|---|---|---|---|---|"]
    for label in LABELS:
        if watch.calls[label]:
            lines.append(f"| {label} | {1e6 * watch.taken[label] / steps:.1f} | {watch.taken[label] / whole_s:.1%} | {1e6 * watch.ran[label] / steps:.1f} | {watch.calls[label] / steps:.1f} |")
    lines += [f"| rest | {1e6 * rest_s / steps:.1f} | {rest_s / whole_s:.1%} | | |", f"| whole | {1e6 * whole_s / steps:.1f} | | | |", ""]
    return "\n".join(lines)
