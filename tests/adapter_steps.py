"""A few real steps of an adapter on a tiny model, and how a model's logits differ: what tests of training methods share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modules.training import adapter
from modules.training.base_model import load_base
from modules.training.options import TrainingOptions

RATE = 5e-3


@dataclass(frozen=True)
class Learned:
    """An adapter after its steps, in training mode: quantized weights round differently when they only generate."""

    model: Any
    options: TrainingOptions
    initial: Path
    losses: tuple[float, ...]
    ids: Any

    @property
    def logits(self) -> Any:
        return logits(self.model, self.ids)

    def save(self, folder: Path) -> Path:
        adapter.save(self.model, self.options, folder, initial=self.initial)
        return folder


def token_ids(most: int = 300, count: int = 40) -> Any:
    import torch

    return (torch.arange(count)[None] * 7 + 3) % most


def logits(model: Any, ids: Any) -> Any:
    import torch

    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits.float()


def difference(first: Any, second: Any) -> float:
    return float((first - second).abs().max())


def attached(folder: Path, options: TrainingOptions, initial: Path, continue_from: Path | None = None) -> Any:
    return adapter.attach(load_base(folder, options), options, initial=initial, continue_from=continue_from)


def step(model: Any, optimizer: Any, ids: Any) -> float:
    loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return float(loss.detach())


def optimizer_of(model: Any, options: TrainingOptions) -> Any:
    import torch

    return torch.optim.AdamW(adapter.parameter_groups(model, options))


def learn(folder: Path, initial: Path, steps: int = 4, continue_from: Path | None = None, **chosen: Any) -> Learned:
    """Attach an adapter with these options and let it learn one row of tokens by heart; new tokens stand in it."""
    options = TrainingOptions(**{"rank": 4, "alpha": 8, "learning_rate": RATE} | chosen)
    model = attached(folder, options, initial, continue_from)
    ids = token_ids()
    if options.new_tokens:
        ids[0, 5] = model.get_input_embeddings().weight.shape[0] - 1
    optimizer = optimizer_of(model, options)
    losses = tuple(step(model, optimizer, ids) for _ in range(steps))
    return Learned(model, options, initial, losses, ids)


def plain(folder: Path, rows: int = 0) -> Any:
    """The base model as anybody loads it, in float32; its word table with so many rows, where an adapter adds tokens."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    if rows > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(rows, mean_resizing=False)
    return model
