"""Microseconds per row of sampling, beside llama.cpp's own C sampler chain in the same run.

    python benchmarks/sampling.py [rows per chain]

Both get the same rows: Zipf-like with different exponents, as sure and as unsure as language models are. Ours starts from the row itself. The C chain
starts from an array of all candidates that has to be filled from the row first: the last two columns count that too (filled by NumPy here, by
a loop in C in llama_sampler_sample). Medians; a ratio below 1 means that ours is quicker. The two alternate row by row, so that a busy
machine disturbs both alike. llama.cpp's DRY needs the vocabulary of a model and is left out.
"""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from modules.core.params import GenerationParams
from modules.engine.logits import NumpyRow
from modules.engine.sampling import Sampler

SIZES = (4_096, 32_000, 151_936)
EXPONENTS = (1.1, 1.4, 1.8, 2.5, 4.0)
PROMPT_TOKENS = 1_000
SEED = 1
DEFAULT = {"top_k": 40, "top_p": 0.95, "min_p": 0.05, "temperature": 0.8}
CHAINS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "default": DEFAULT,
    "default + repetition": {**DEFAULT, "repetition_penalty": 1.1, "penalty_range": 64},
    "default + DRY": {**DEFAULT, "dry_multiplier": 0.8},
    "default + XTC": {**DEFAULT, "xtc_probability": 0.5},
    "temperature only": {"temperature": 0.8},
    "top_p only": {"top_p": 0.95},
    "min_p only": {"min_p": 0.05},
    "typical_p only": {"typical_p": 0.9},
    "top_n_sigma only": {"top_n_sigma": 1.0},
    "dynamic temperature": {"temperature": 0.8, "dynamic_temperature_range": 0.3},
    "mirostat 2": {"mirostat_mode": 2},
}
CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


def make_rows(size: int) -> list[np.ndarray]:
    """Logits that fall with the logarithm of the rank, with noise, in no order."""
    random = np.random.default_rng(size)
    rows = []
    for exponent in EXPONENTS:
        row = -exponent * np.log(np.arange(1, size + 1)) + random.standard_normal(size) * 0.5
        rows.append(random.permutation(row).astype(np.float32))
    return rows


def our_chain(fields: dict[str, Any], size: int) -> Callable[[np.ndarray], None]:
    """One step of our sampler: choose and accept."""
    prompt = np.random.default_rng(1).integers(0, size, PROMPT_TOKENS).tolist()
    sampler = Sampler(GenerationParams(seed=SEED, **fields), vocab_size=size, end_ids={2}, prompt_ids=prompt)

    def step(row: np.ndarray) -> None:
        sampler.accept(sampler.sample(NumpyRow(row)))

    return step


def c_samplers(llama: Any, p: GenerationParams, size: int) -> list[Any]:
    """The same chain of llama.cpp's samplers."""
    chain: list[Any] = []
    if p.repetition_penalty != 1:
        chain.append(llama.llama_sampler_init_penalties(size, p.penalty_range, p.repetition_penalty, 0.0, 0.0))
    if p.temperature == 0:
        return [*chain, llama.llama_sampler_init_greedy()]
    if p.mirostat_mode == 2:
        return [*chain, llama.llama_sampler_init_mirostat_v2(SEED, p.mirostat_tau, p.mirostat_eta)]
    cuts = (
        (p.top_n_sigma > 0, lambda: llama.llama_sampler_init_top_n_sigma(p.top_n_sigma)),
        (p.top_k > 0, lambda: llama.llama_sampler_init_top_k(p.top_k)),
        (p.typical_p < 1, lambda: llama.llama_sampler_init_typical(p.typical_p, 1)),
        (p.top_p < 1, lambda: llama.llama_sampler_init_top_p(p.top_p, 1)),
        (p.min_p > 0, lambda: llama.llama_sampler_init_min_p(p.min_p, 1)),
        (p.xtc_probability > 0, lambda: llama.llama_sampler_init_xtc(p.xtc_probability, p.xtc_threshold, 1, SEED)),
    )
    chain += [make() for active, make in cuts if active]
    reach, exponent = p.dynamic_temperature_range, p.dynamic_temperature_exponent
    return [*chain, llama.llama_sampler_init_temp_ext(p.temperature, reach, exponent), llama.llama_sampler_init_dist(SEED)]


class CChain:
    """A chain of llama.cpp's samplers on an array of all candidates."""

    def __init__(self, llama: Any, fields: dict[str, Any], size: int) -> None:
        self.llama = llama
        self.chain = llama.llama_sampler_chain_init(llama.llama_sampler_chain_default_params())
        for sampler in c_samplers(llama, GenerationParams(**fields), size):
            llama.llama_sampler_chain_add(self.chain, sampler)
        self.candidates = np.zeros(size, CANDIDATE)
        self.ids = np.arange(size, dtype=np.int32)
        self.array = llama.llama_token_data_array()
        for token_id in np.random.default_rng(1).integers(0, size, PROMPT_TOKENS).tolist():
            llama.llama_sampler_accept(self.chain, token_id)

    def fill(self, row: np.ndarray) -> None:
        """Put a row into the array."""
        self.candidates["id"], self.candidates["logit"], self.candidates["p"] = self.ids, row, 0
        pointer = ctypes.POINTER(self.llama.llama_token_data)
        self.array.data = ctypes.cast(self.candidates.ctypes.data, pointer)
        self.array.size, self.array.selected, self.array.sorted = len(row), -1, False

    def step(self) -> None:
        """Choose and accept."""
        self.llama.llama_sampler_apply(self.chain, ctypes.byref(self.array))
        self.llama.llama_sampler_accept(self.chain, self.array.data[self.array.selected].id)

    def close(self) -> None:
        """Give the chain back."""
        self.llama.llama_sampler_free(self.chain)


def measure(llama: Any, fields: dict[str, Any], rows: list[np.ndarray], count: int) -> tuple[float, ...]:
    """Median microseconds per row: ours, and where there is one the C chain's without and with filling its array."""
    step = our_chain(fields, len(rows[0]))
    chain = None if llama is None or "dry_multiplier" in fields else CChain(llama, fields, len(rows[0]))
    times: list[list[float]] = [[]] if chain is None else [[], [], []]
    for turn in range(count):
        row = rows[turn % len(rows)]
        start = time.perf_counter()
        step(row)
        times[0].append(time.perf_counter() - start)
        if chain is not None:
            start = time.perf_counter()
            chain.fill(row)
            filled = time.perf_counter()
            chain.step()
            end = time.perf_counter()
            times[1].append(end - filled)
            times[2].append(end - start)
    if chain is not None:
        chain.close()
    return tuple(median(each) * 1e6 for each in times)


def main() -> None:
    """Print one line per chain and vocabulary."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 150
    try:
        import llama_cpp as llama
    except ImportError:
        llama = None
        print("llama-cpp-python is not installed: only our own figures.")
    print(f"{'chain':<22}{'vocabulary':>11}{'ours µs':>10}{'C µs':>10}{'ratio':>8}{'C+fill µs':>11}{'ratio':>8}")
    for size in SIZES:
        rows = make_rows(size)
        for name, fields in CHAINS.items():
            ours, *theirs = measure(llama, fields, rows, count)
            line = f"{name:<22}{size:>11}{ours:>10.1f}"
            for width, value in zip((10, 11), theirs, strict=False):
                line += f"{value:>{width}.1f}{ours / value:>8.2f}"
            print(line, flush=True)


if __name__ == "__main__":
    main()
