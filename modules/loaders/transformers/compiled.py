"""Compiling the parts of a model that lie between its attention layers: feed-forward networks and norms, where fusing saves memory traffic.

The attention itself stays as it is: its cache changes with every step, and each change would compile anew. Knows modules by the names every
architecture of the library gives them; knows nothing of slots.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from modules.core.errors import AppError
from modules.loaders.transformers.network import Network

if TYPE_CHECKING:
    import torch


PART_ENDINGS = ("MLP", "Norm", "MLPBlock", "FeedForward")
TRIED_LENGTHS = (1, 7)  # one token, and several: the two shapes that are compiled apart
REASON_LIMIT = 250


def compile_parts(network: Network) -> str:
    """Compile with PyTorch's compiler and run once; a sentence where that fails, and the model is then as it was. Empty: done.

    Source: `torch.nn.Module.compile`.
    """
    parts = [module for module in network.model.modules() if type(module).__name__.endswith(PART_ENDINGS)]
    if not parts:
        return "This architecture has no parts that could be compiled; it runs as it is."
    try:
        for module in parts:
            module.compile(dynamic=True)
        for length in TRIED_LENGTHS:
            network.run(network.torch.ones((1, length), dtype=network.torch.long, device=network.device))
    except Exception as error:  # noqa: BLE001 - a missing compiler and a foreign architecture fail in many ways; the plain model remains
        restore(parts)
        return f"The model could not be compiled ({_reason(error)}) and runs as it is; install a C++ compiler, or turn torch_compile off."
    return ""


def restore(parts: list[torch.nn.Module]) -> None:
    """Run these modules without what was compiled for them."""
    for module in parts:
        module._compiled_call_impl = None


def _reason(error: Exception) -> str:
    text = error.message if isinstance(error, AppError) else str(error)
    return (text.strip().splitlines() or [type(error).__name__])[0][:REASON_LIMIT]
