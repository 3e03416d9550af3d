"""Choosing how many threads a loaded model gets: as set, as an earlier load measured, or as is measured now.

Knows a runner and its options. The rules are in `threads.py`; what is remembered, in `thread_notes.py`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from modules.core.errors import AppError
from modules.core.model import Row
from modules.loaders.llama_cpp.c_api import library
from modules.loaders.llama_cpp.options import LlamaCppOptions
from modules.loaders.llama_cpp.runner import LlamaCppRunner
from modules.loaders.llama_cpp.thread_notes import MeasuredThreads, ThreadNotes, threads_key
from modules.loaders.llama_cpp.threads import (
    LARGE_BYTES,
    LiveThreads,
    Threads,
    calmer_threads,
    fastest_of_large,
    fastest_threads,
    is_clear,
    large_counts,
)
from modules.loaders.machine import library_stamp, processor_name, usable_cores
from modules.loaders.neighbours import Neighbours
from modules.loaders.spec import Progress

PREFILL_TOKENS = 64
STEPS, LONG_STEP_S = 6, 0.03  # of a round; of steps that take longer one is enough
ROUNDS = 4
LARGE_ROUNDS = 4  # of large models: steps of one token
LIMIT_S = 3.0  # for all rounds: a busy machine takes a hundred times as long


@dataclass(frozen=True)
class HeldModel:
    """A model as it is held: what its threads depend on beside its options."""

    files: Sequence[Path]
    size_bytes: int
    on_gpu: bool  # at least a part of it
    ways: tuple[object, ...]  # whether the file is mapped, and more of that kind


def set_threads(runner: LlamaCppRunner, options: LlamaCppOptions, model: HeldModel, notes: ThreadNotes | None, progress: Progress) -> None:
    """Use the numbers that were set; for the others what is fastest: on small models that can be one thread, on large ones slow cores can hold up the rest."""
    cores = usable_cores()
    found = MeasuredThreads(decode=cores, batch=cores)
    is_large = model.size_bytes >= LARGE_BYTES
    is_set = options.threads and (is_large or options.threads_batch)
    # where nothing is remembered, every load would wait for a large model's steps
    if cores > 1 and not is_set and not model.on_gpu and (notes is not None or not is_large):
        found = _known(runner, options, model, notes or ThreadNotes({}), progress, cores)

    def as_set(threads: Threads) -> Threads:
        return Threads(options.threads or threads.decode, options.threads_batch or threads.batch)

    fast, half = Threads(found.decode, found.batch), (cores + 1) // 2
    calm = as_set(calmer_threads(fast, cores))
    runner.use_threads(LiveThreads(as_set(fast), calm, found.step_s.get(calm.decode, math.inf)), as_set(Threads(half, half)))


def _known(
    runner: LlamaCppRunner, options: LlamaCppOptions, model: HeldModel, notes: ThreadNotes, progress: Progress, cores: int
) -> MeasuredThreads:
    """What an earlier load measured, or what is measured now: remembered if nothing else took the cores meanwhile."""
    is_large = model.size_bytes >= LARGE_BYTES
    key = threads_key(model.files, (is_large, *model.ways, *_facts(options), cores, library_stamp()))
    known = notes.of(key, cores)
    if known is not None:
        return known
    progress("Measuring threads", None)
    neighbours = Neighbours()
    found = _measured_large(runner, cores) if is_large else _measured(runner, options, cores)
    disturbed = neighbours.disturb
    if found is not None and not disturbed:
        notes.add(key, found)
    if found is None or (is_large and disturbed):  # all cores, and they are given back while something else needs them
        return MeasuredThreads(decode=cores, batch=cores)
    return found


def _facts(options: LlamaCppOptions) -> tuple[object, ...]:
    """The library, the processor, and the options that change how long a step takes."""
    binding = library()
    return (
        metadata.version("llama-cpp-python"), binding.llama_print_system_info(), processor_name(),
        options.batch_tokens, options.computed_tokens, options.kv_type, options.flash_attention, options.numa,
    )  # fmt: skip


def _measured(runner: LlamaCppRunner, options: LlamaCppOptions, cores: int) -> MeasuredThreads:
    tokens = max(1, min(PREFILL_TOKENS, options.batch_tokens, runner.context_length // 2))
    end_s, step_s = time.perf_counter() + LIMIT_S, dict[int, float]()

    def step_times(count: int, worth_s: float) -> tuple[float, float]:
        times = _step_times(runner, Threads(count, count), tokens, worth_s, end_s)
        step_s[count] = times[0]
        return times

    fast = fastest_threads(step_times, cores)
    return MeasuredThreads(decode=fast.decode, batch=fast.batch, step_s=step_s)


def _step_times(runner: LlamaCppRunner, threads: Threads, tokens: int, worth_s: float, end_s: float) -> tuple[float, float]:
    """Shortest seconds of a one-token step and of a prefill step; stops after `end_s`, or where a one-token step takes longer than `worth_s`."""
    runner.set_threads(threads)
    decode, prefill = 1e9, 1e9
    for _ in range(ROUNDS):
        prefill = min(prefill, _timed(runner, Row(0, 0, [0] * tokens)))
        for place in range(min(STEPS, runner.context_length - tokens)):  # the first one after a prefill is slower than those of a reply
            decode = min(decode, _timed(runner, Row(0, tokens + place, [0])))
            if decode > LONG_STEP_S or time.perf_counter() > end_s:
                break
        runner.truncate(0, 0)
        if decode > worth_s or time.perf_counter() > end_s:
            break
    return decode, prefill


def _measured_large(runner: LlamaCppRunner, cores: int) -> MeasuredThreads | None:
    """By steps of one token with all of the cores and with half of them, in turn, until the difference is clear; None if there was no time for one of each."""
    counts = large_counts(cores)
    end_s = time.perf_counter() + LIMIT_S
    step_s = dict.fromkeys(counts, math.inf)
    try:
        with runner.time_limit(LIMIT_S):
            _one_token(runner, cores)  # brings the weights in, wherever they lie
            for _ in range(LARGE_ROUNDS):
                for count in counts:
                    step_s[count] = min(step_s[count], _one_token(runner, count))
                if is_clear(step_s) or time.perf_counter() + sum(step_s.values()) > end_s:
                    break
    except AppError:
        if time.perf_counter() < end_s:
            raise
    finally:
        runner.truncate(0, 0)
    if math.inf in step_s.values():
        return None
    return MeasuredThreads(decode=fastest_of_large(step_s), batch=cores, step_s=step_s)


def _one_token(runner: LlamaCppRunner, threads: int) -> float:
    """Seconds of the first token of a text."""
    runner.set_threads(Threads(threads, threads))
    seconds = _timed(runner, Row(0, 0, [0]))
    runner.truncate(0, 0)
    return seconds


def _timed(runner: LlamaCppRunner, row: Row) -> float:
    begin = time.perf_counter()
    runner.forward([row])
    return time.perf_counter() - begin
