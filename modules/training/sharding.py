"""A base model divided among the ranks (FSDP2): each holds a part of every layer, and fetches the rest of a layer for as long as it computes it.

The base is frozen, so nothing of it is ever sent back; the adapter is small and stays whole on every rank, which keeps checkpoints and optimizers as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def divide(model: Any) -> None:
    """Divide the base of an adapted model, layer by layer, and put what is trained on this rank's device."""
    import torch
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    kind = "cuda" if torch.cuda.is_available() else "cpu"
    mesh = init_device_mesh(kind, (dist.get_world_size(),))
    trained = {parameter for parameter in model.parameters() if parameter.requires_grad}
    if kind == "cuda":
        for parameter in trained:
            parameter.data = parameter.data.to(f"cuda:{torch.cuda.current_device()}")
    for layer in _layers(model.get_base_model()):
        fully_shard(layer, mesh=mesh, ignored_params=trained)
    fully_shard(model, mesh=mesh, ignored_params=trained)
    register_fsdp_forward_method(model, "generate")
    model.is_distributed_loading_by_transformers = True  # the trainer neither wraps nor moves it
    for parameter in trained:
        parameter._replicated_grad_hook_registered = True  # gradients are averaged in one go, by `average`


def held_bytes(model: Any) -> tuple[int, int]:
    """What this rank holds of a divided model's base, and what the whole of it is."""
    here = whole = 0
    for parameter in model.parameters():
        if hasattr(parameter, "to_local"):
            local = parameter.to_local()
            here += local.numel() * local.element_size()
            whole += parameter.numel() * local.element_size()
    return here, whole


def average(model: Any, ranks: int) -> None:
    """The mean of the gradients over all ranks: one message for all of them."""
    import torch
    import torch.distributed as dist

    gradients = [parameter.grad for parameter in model.parameters() if parameter.requires_grad and parameter.grad is not None]
    whole = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(whole)
    whole /= ranks
    at = 0
    for gradient in gradients:
        gradient.copy_(whole[at : at + gradient.numel()].view_as(gradient))
        at += gradient.numel()


def _layers(model: Any) -> Iterator[Any]:
    """The repeated blocks of a model: the children of its longest list of modules."""
    from torch.nn import ModuleList

    lists = [module for module in model.modules() if isinstance(module, ModuleList)]
    yield from max(lists, key=len, default=())
