"""Transformers' own ways to write, in a process of their own: `python benchmarks/torch_rivals.py WAY FOLDER THREADS`, asked with a line of JSON for each reply.

WAY is `generate` (model.generate, one prompt) or `batch` (its continuous batching, several at once). Answers are seconds and tokens. Standard error is a log.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

PAGE_TOKENS, PAGES, BATCH_TOKENS = 256, 48, 512  # of continuous batching: what it takes by itself on a processor is more memory than there is
RESULT_LIMIT_S = 600.0
# Continuous batching knows these three alone
SAMPLING = {"temperature": 0.8, "top_k": 40, "top_p": 0.95}


class TorchRival:
    """One way, as a contestant."""

    def __init__(self, way: str, folder: Path, threads: int, log: Path) -> None:
        self.name = {"generate": "model.generate", "batch": "continuous batching"}[way]
        environ = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
        with log.open("wb") as told:
            self._process = subprocess.Popen(
                [sys.executable, __file__, way, str(folder), str(threads)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=told, env=environ, text=True
            )
        self._log = log

    def tokens_per_s(self, prompts: list[list[int]], tokens: int) -> float:
        """All prompts at once, from the call to the last token.

        Raises:
            RuntimeError: it has ended.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({"prompts": prompts, "tokens": tokens}) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self.name} ended. Its last words:\n{self._log.read_text(errors='replace')[-3000:]}")
        told = json.loads(answer)
        return float(told["tokens"] / told["seconds"])

    def cpu_s(self) -> float:
        """Processor time used."""
        times = psutil.Process(self._process.pid).cpu_times()
        return times.user + times.system

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()


def generate(model: Any) -> Callable[[list[list[int]], int], int]:
    """`model.generate` for one prompt after the other; returns how many tokens were written."""
    import torch
    from transformers import GenerationConfig

    def write(prompts: list[list[int]], tokens: int) -> int:
        config = GenerationConfig(do_sample=True, max_new_tokens=tokens, pad_token_id=0, eos_token_id=None, **SAMPLING)
        count = 0
        for ids in prompts:
            inputs = torch.tensor([ids])
            count += model.generate(input_ids=inputs, attention_mask=torch.ones_like(inputs), generation_config=config).shape[1] - len(ids)
        return count

    return write


def batch(model: Any) -> Callable[[list[list[int]], int], int]:
    """Continuous batching, running until the process ends; idle it sleeps."""
    from transformers import GenerationConfig
    from transformers.generation import ContinuousBatchingConfig

    config = GenerationConfig(do_sample=True, max_new_tokens=16, pad_token_id=0, eos_token_id=-1, **SAMPLING)
    room = ContinuousBatchingConfig(page_size=PAGE_TOKENS, num_blocks=PAGES, max_batch_tokens=BATCH_TOKENS)
    manager = model.init_continuous_batching(generation_config=config, continuous_batching_config=room)
    manager.start()

    def write(prompts: list[list[int]], tokens: int) -> int:
        for ids in prompts:
            manager.add_request(ids, max_new_tokens=tokens)
        count = ended = 0
        while ended < len(prompts):
            result = manager.get_result(timeout=RESULT_LIMIT_S)
            if result is None or result.error:
                raise RuntimeError(f"continuous batching failed: {result.error if result else 'it says nothing any more'}")
            if result.is_finished():
                ended += 1
                count += len(result.generated_tokens)
        return count

    return write


def main(way: str, folder: str, threads: str) -> None:
    """Load and answer until standard input ends."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(int(threads))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False, use_safetensors=True).eval()
    with torch.inference_mode():
        write = {"generate": generate, "batch": batch}[way](model)
        for line in sys.stdin:
            asked = json.loads(line)
            begun_s = time.perf_counter()
            count = write(asked["prompts"], asked["tokens"])
            seconds = time.perf_counter() - begun_s
            sys.stdout.write(json.dumps({"seconds": seconds, "tokens": count}) + "\n")
            sys.stdout.flush()
    os._exit(0)  # the thread of continuous batching does not end by itself


if __name__ == "__main__":
    main(*sys.argv[1:])
