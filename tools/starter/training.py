"""Train the model: own loop, AdamW, warm-up and decay, checkpoints.

Knows the model's shape and the schedule. Knows nothing of where the text comes from.
"""

import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from tools.starter.batches import Batch, BatchMaker

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Recipe:
    """Every number of the run."""

    seed: int = 1
    vocabulary: int = 3072
    hidden: int = 256
    feed_forward: int = 512
    layers: int = 4
    heads: int = 8
    key_value_heads: int = 4
    context_length: int = 1024
    steps: int = 4400
    tokens_per_step: int = 1024
    peak_rate: float = 2e-3
    final_rate: float = 2e-5
    warm_up: int = 150
    decay: int = 1600
    weight_decay: float = 0.05
    clip: float = 1.0


def build_model(recipe: Recipe, begin: int, end: int) -> LlamaForCausalLM:
    """Return a freshly initialised model; ``begin`` and ``end`` are token ids."""
    torch.manual_seed(recipe.seed)
    config = LlamaConfig(
        vocab_size=recipe.vocabulary, hidden_size=recipe.hidden, intermediate_size=recipe.feed_forward,
        num_hidden_layers=recipe.layers, num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.key_value_heads, head_dim=recipe.hidden // recipe.heads,
        max_position_embeddings=recipe.context_length, rms_norm_eps=1e-5, tie_word_embeddings=True,
        bos_token_id=begin, eos_token_id=end, pad_token_id=2, attention_bias=False, mlp_bias=False,
    )
    return LlamaForCausalLM(config)


def rate_at(step: int, recipe: Recipe) -> float:
    """Return the learning rate of ``step``: a warm-up, a constant part, a linear decay over the last steps."""
    rising = (step + 1) / recipe.warm_up
    falling = (recipe.steps - step) / recipe.decay
    return recipe.final_rate + (recipe.peak_rate - recipe.final_rate) * min(1.0, rising, falling)


def loss_of(model: LlamaForCausalLM, batch: Batch) -> torch.Tensor:
    """Return the weighted mean loss per target token."""
    logits = model(input_ids=batch.token_ids[:, :-1], use_cache=False).logits
    losses = functional.cross_entropy(logits.flatten(0, 1), batch.token_ids[:, 1:].flatten(), reduction="none")
    weights = batch.weights.flatten()
    return (losses * weights).sum() / weights.sum()


def _optimizer(model: LlamaForCausalLM, recipe: Recipe) -> torch.optim.AdamW:
    matrices = [value for value in model.parameters() if value.ndim > 1]
    vectors = [value for value in model.parameters() if value.ndim == 1]
    groups: list[dict[str, Any]] = [{"params": matrices, "weight_decay": recipe.weight_decay},
                                    {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.peak_rate, betas=(0.9, 0.95))


def _save(path: Path, state: dict[str, Any]) -> None:
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    temporary.replace(path)


def train(model: LlamaForCausalLM, maker: BatchMaker, recipe: Recipe, work: Path) -> float:
    """Train to the last step, resuming from ``work``; return the seconds spent over all runs."""
    work.mkdir(parents=True, exist_ok=True)
    optimizer = _optimizer(model, recipe)
    kept, history = work / "checkpoint.pt", work / "losses.jsonl"
    first, spent = 0, 0.0
    if kept.exists():
        state = torch.load(kept, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first, spent = state["step"], state["spent_s"]
        log.info("resuming after step %d", first)
    model.train()
    started, mean = time.monotonic(), 0.0
    for step in range(first, recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, recipe)
        loss = loss_of(model, maker.batch(step))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimizer.step()
        mean = loss.item() if step == first else 0.95 * mean + 0.05 * loss.item()
        done, passed = step + 1, spent + time.monotonic() - started
        if done % 50 == 0:
            log.info("step %d of %d, loss %.4f, %.0f s", done, recipe.steps, mean, passed)
            with history.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps({"step": done, "loss": round(mean, 4), "time_s": round(passed)}) + "\n")
        if done % 200 == 0 or done == recipe.steps:
            _save(kept, {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": done,
                         "spent_s": passed})
    model.eval()
    return spent + time.monotonic() - started
