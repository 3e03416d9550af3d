"""What a slot held, as a structure of lists, layers and caches with tensors in it: copied, or taken apart into its form and its bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def mapped(value: Any, convert: Callable[[Any], Any]) -> Any:
    """The same structure with something in the place of each tensor, in a fixed order; what is no tensor is shared."""
    if isinstance(value, dict):
        return {key: mapped(part, convert) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(mapped(part, convert) for part in value)
    kind = type(value)
    if kind.__module__ == "transformers.cache_utils":
        twin = object.__new__(kind)
        twin.__dict__.update(mapped(vars(value), convert))
        return twin
    return convert(value) if kind.__module__ == "torch" and kind.__name__ == "Tensor" else value


def packed(state: Any) -> tuple[Any, list[NDArray[np.uint8]]]:
    """A state in main memory as its form, where tensors have no contents, and the bytes of all tensors in order."""
    import torch

    parts: list[NDArray[np.uint8]] = []

    def empty(tensor: torch.Tensor) -> torch.Tensor:
        parts.append(tensor.detach().contiguous().flatten().view(torch.uint8).numpy())
        return tensor.to("meta")

    return mapped(state, empty), parts


def unpacked(form: Any, parts: list[NDArray[np.uint8]]) -> Any:
    """The state of this form with these bytes."""
    import torch

    left = iter(parts)
    return mapped(form, lambda empty: torch.from_numpy(next(left)).view(empty.dtype).reshape(empty.shape))


class StatesInMemory:
    """The part of a Runner about states that are copies in main memory, made when they are saved."""

    can_mark = False

    def mark_within(self, budget_bytes: int) -> int:
        """Nothing of it is taken."""
        return budget_bytes

    def mark(self, slot: int) -> None:
        """Nothing is remembered."""

    def cuts(self, slot: int) -> tuple[int, ...]:
        """None are known."""
        return ()

    def marks_bytes(self, slot: int) -> int:
        """There are none."""
        return 0

    def drop_state(self, state: Any) -> None:
        """Nothing is kept of a state."""

    def ready_memory(self, sizes: Sequence[int]) -> bool:
        """There is nothing to have ready."""
        return False

    def pack_state(self, state: Any) -> tuple[Any, list[NDArray[np.uint8]]]:
        """The state without its contents; and those."""
        return packed(state)

    def unpack_state(self, form: Any, parts: list[NDArray[np.uint8]]) -> Any:
        """The state with these contents."""
        return unpacked(form, parts)
