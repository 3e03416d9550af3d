"""Greedy decoding over a bare Runner: several prompts in few slots, prompts in chunks beside running replies, slots used again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from modules.core.model import Row, Runner


@dataclass
class Reply:
    """One prompt on its way."""

    token_ids: list[int]
    prompt: int
    wanted: int
    done: int = 0
    slot: int = -1
    margin: float = field(default=float("inf"))  # smallest distance between the two best choices

    @property
    def output(self) -> list[int]:
        return self.token_ids[self.prompt :]


def row_of(logits: Any) -> np.ndarray:
    """A logits entry as an array, wherever it lives."""
    return logits.full() if hasattr(logits, "full") else logits


def decode(runner: Runner, prompts: Sequence[Sequence[int]], counts: Sequence[int], *, slots: int = 64, chunk: int = 8) -> list[Reply]:
    """Greedy replies of `counts` tokens to all prompts; leaves the slots empty."""
    replies = [Reply(list(prompt), len(prompt), count) for prompt, count in zip(prompts, counts, strict=True)]
    waiting = list(replies)
    free = list(range(min(slots, runner.n_slots)))[::-1]
    running: list[Reply] = []
    while waiting or running:
        while waiting and free:
            reply = waiting.pop(0)
            reply.slot = free.pop()
            running.append(reply)
        rows = [Row(reply.slot, reply.done, reply.token_ids[reply.done : reply.done + chunk]) for reply in running]
        for reply, row, logits in zip(list(running), rows, runner.forward(rows), strict=True):
            reply.done += len(row.token_ids)
            if reply.done < len(reply.token_ids):
                continue
            values = row_of(logits)
            best = np.partition(values, -2)[-2:]
            reply.margin = min(reply.margin, float(best[1] - best[0]))
            reply.token_ids.append(int(values.argmax()))
            if len(reply.output) == reply.wanted:
                running.remove(reply)
                runner.truncate(reply.slot, 0)
                free.append(reply.slot)
    return replies


def generate(model: Any, prompt: Sequence[int], count: int) -> list[int]:
    """What transformers' own `generate` answers greedily."""
    import torch

    ids = torch.tensor([list(prompt)])
    with torch.inference_mode():
        output = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False, eos_token_id=None, pad_token_id=0)
    return [int(token) for token in output[0, len(prompt) :]]
