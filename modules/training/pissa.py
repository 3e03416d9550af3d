"""PiSSA: an adapter that begins with the main directions of each weight, which are taken out of the base model for the time of learning.

What was taken out is kept in a file of the run: a resumed run takes out the very same numbers, and what is saved at the end is a plain LoRA of
twice the rank (what was learned, and minus what there was at the beginning) that belongs to the untouched base model.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

FILE = "pissa.safetensors"
EXACT_BELOW = 512  # a smaller side than this is decomposed exactly; else by random projections, which take a hundredth of the time
SPARE, ROUNDS = 16, 16  # of the projections: with so many their directions are the main ones to four digits


def begin(model: Any, initial: Path, seed: int) -> None:
    """Give every adapted layer its beginning, from the run's file where there is one, and take that out of the base weights."""
    import torch
    from safetensors.torch import load_file

    layers = dict(_layers(model))
    file = initial / FILE
    if not file.is_file():
        generator_state = torch.random.get_rng_state()
        torch.manual_seed(seed)
        found = {f"{name}.{side}": tensor for name, layer in layers.items() for side, tensor in _main_directions(layer).items()}
        torch.random.set_rng_state(generator_state)
        _write(file, found)
    kept = load_file(file)
    with torch.no_grad():
        for name, layer in layers.items():
            for side in ("lora_A", "lora_B"):
                weight = getattr(layer, side)["default"].weight
                weight.copy_(kept[f"{name}.{side}"].to(weight))
            base = layer.get_base_layer().weight
            base.copy_(base.float() - layer.get_delta_weight("default").float())


def as_plain(state: dict[str, torch.Tensor], initial: Path) -> dict[str, torch.Tensor]:
    """What was learned as a LoRA of the untouched base model: both weights stacked with those of the beginning, the second ones negative."""
    import torch
    from safetensors.torch import load_file

    kept = load_file(initial / FILE)
    plain = dict(state)
    for name, first in kept.items():
        key = f"{name}.weight"
        learned = state[key].cpu()  # as what was kept
        is_second = name.endswith("lora_B")
        plain[key] = torch.cat([learned, -first if is_second else first], dim=1 if is_second else 0).contiguous()
    return plain


def _layers(model: Any) -> Iterator[tuple[str, Any]]:
    from peft.tuners.lora.layer import LoraLayer

    return ((name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer))


def _main_directions(layer: Any) -> dict[str, torch.Tensor]:
    import torch

    weight = layer.get_base_layer().weight.detach().float()
    weight = weight.T if layer.fan_in_fan_out else weight
    rank = layer.r["default"]
    if min(weight.shape) < EXACT_BELOW:
        left, sizes, right = torch.linalg.svd(weight, full_matrices=False)
    else:
        left, sizes, columns = torch.svd_lowrank(weight, q=min(rank + SPARE, *weight.shape), niter=ROUNDS)
        right = columns.T
    rank_here = min(rank, len(sizes))
    root = (sizes[:rank_here] / layer.scaling["default"]).sqrt()
    first = torch.zeros(rank, weight.shape[1], device=weight.device)
    second = torch.zeros(weight.shape[0], rank, device=weight.device)
    first[:rank_here] = root[:, None] * right[:rank_here]
    second[:, :rank_here] = left[:, :rank_here] * root
    return {"lora_A": first.cpu(), "lora_B": second.cpu()}


def _write(file: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Whole or not at all, since a run may be killed at any time and each rank writes it."""
    from safetensors.torch import save_file

    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    save_file(tensors, part)
    part.replace(file)
