"""Key-value storage of all slots at once: rows of a batch write at their own positions and read their own slot.

Duck-typed to what attention layers of transformers call (`update`, `get_seq_length`, `get_mask_sizes`). Storage grows with the longest
sequence, so a large context costs nothing before it is used. Knows nothing of masks or tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from modules.loaders.transformers.memory import FIRST_TOKENS

if TYPE_CHECKING:
    import torch


class SlotCache:
    """Per layer, keys and values of shape [slots, heads, capacity + 1, head size]; the last position is scratch for padding."""

    is_compileable = False

    def __init__(self, slots: int, limit: int) -> None:
        self._slots = slots
        self._limit = limit
        self._keys: dict[int, torch.Tensor] = {}
        self._values: dict[int, torch.Tensor] = {}
        self._rows: list[int] = []
        self._span: slice | None = None  # set when the rows' slots are neighbours: they are read without a copy
        self._placed: dict[Any, tuple[torch.Tensor, torch.Tensor]] = {}
        self._one: tuple[int, int] | None = None
        self._length = 0
        self.capacity = 0
        self.generation = 0  # grows whenever storage moves

    @property
    def scratch(self) -> int:
        """The position that padding writes to."""
        return self.capacity

    @contextmanager
    def room(self, length: int) -> Iterator[None]:
        """Have room for sequences of `length` inside, by doubling. A pass that fails leaves the capacity as it was.

        Layers that grew before the failure stay large; the others are not asked to follow until a sequence is long again.
        """
        held = self.capacity
        while self.capacity < length:
            self.capacity = min(max(FIRST_TOKENS, 2 * self.capacity), self._limit)
        try:
            yield
        except BaseException:
            self.capacity = held
            raise

    def plan(
        self, rows: list[int], positions: torch.Tensor, length: int, *, one: tuple[int, int] | None = None, slots: torch.Tensor | None = None
    ) -> None:
        """Announce the next forward pass.

        Args:
            rows: the slot of each row.
            positions: [rows, tokens] where each token is written; padding has `scratch`.
            length: longest sequence after the pass, which is how much every row reads.
            one: (start, end) if there is one row without padding, which is then written as a slice.
            slots: [rows, 1] the same as `rows`, where they are on the device already.
        """
        import torch

        self._rows = rows
        neighbours = all(after == before + 1 for before, after in pairwise(rows))
        self._span = slice(rows[0], rows[-1] + 1) if neighbours else None
        slots = torch.tensor(rows, device=positions.device)[:, None] if slots is None else slots
        self._placed = {positions.device: (slots, positions)}
        self._one = one
        self._length = length

    def _indices(self, device: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Slot and position indices on the device of a layer; a model may be spread over several."""
        found = self._placed.get(device)
        if found is None:
            slots, positions = next(iter(self._placed.values()))
            found = self._placed[device] = (slots.to(device), positions.to(device))
        return found

    def _room(self, store: dict[int, torch.Tensor], layer: int, like: torch.Tensor) -> torch.Tensor:
        held = store.get(layer)
        if held is not None and held.shape[2] > self.capacity:
            return held
        grown = like.new_zeros((self._slots, like.shape[1], self.capacity + 1, like.shape[3]))
        if held is not None:
            grown[:, :, : held.shape[2]] = held
        store[layer] = grown
        self.generation += 1
        return grown

    def _write(self, store: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        """Put the new states into their places and return what the rows see: [rows, heads, length, head size]."""
        if self._one is not None:
            store[self._rows[0], :, self._one[0] : self._one[1]] = states[0]
        else:
            slots, positions = self._indices(states.device)
            store[slots, :, positions] = states.transpose(1, 2)
        if self._span is not None:
            return store[self._span, :, : self._length]
        return store[self._indices(states.device)[0][:, 0], :, : self._length]

    def update(self, keys: torch.Tensor, values: torch.Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Called by every attention layer with its new keys and values; returns those of the whole sequences."""
        return self._write(self._room(self._keys, layer_idx, keys), keys), self._write(self._room(self._values, layer_idx, values), values)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens before a single row; zero for several, whose positions and masks are given explicitly."""
        return self._one[0] if self._one is not None else 0

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """Keys that are read, and their offset."""
        return self._length, 0

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """Position of the first token, like `get_seq_length`."""
        return self.get_seq_length(layer_idx)

    def state_bytes(self, length: int) -> int:
        """What the first positions of a slot take, in all layers."""
        stores = (*self._keys.values(), *self._values.values())
        return sum(store.shape[1] * length * store.shape[3] * store.element_size() for store in stores)

    def save(self, slot: int, length: int) -> list[dict[int, torch.Tensor]]:
        """Keys and values of the first positions of a slot, by layer, copied into main memory."""
        return [{layer: store[slot, :, :length].to("cpu", copy=True) for layer, store in stores.items()} for stores in (self._keys, self._values)]

    def restore(self, slot: int, state: list[dict[int, torch.Tensor]], length: int) -> None:
        """Write the first positions of what was saved into a slot."""
        with self.room(length):
            for stores, saved in zip((self._keys, self._values), state, strict=True):
                for layer, part in saved.items():
                    self._room(stores, layer, stores[layer])[slot, :, :length] = part[:, :length]

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first positions of one slot to another."""
        for store in (*self._keys.values(), *self._values.values()):
            store[target, :, :length] = store[source, :, :length]
