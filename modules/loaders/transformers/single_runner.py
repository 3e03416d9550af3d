"""The runner for architectures that cannot batch: one slot, with the model's own cache, or with none at all.

Knows the token ids of its slot, so that it can begin again where a cache cannot be cut back. Knows nothing of text or sampling.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modules.core.errors import AppError, InvalidRequest
from modules.core.model import Row
from modules.loaders.marks import MARKS_SHARE, Mark, Marks
from modules.loaders.transformers.network import Network, step_error
from modules.loaders.transformers.runner import SCORE_TOKENS, release
from modules.loaders.transformers.states import StatesInMemory, mapped


class SingleRunner(StatesInMemory):
    """A Runner with one slot. Without a cache each step computes the whole sequence again: slow, and right for any architecture."""

    n_slots = 1
    tile_rows = 0
    mixes_slots, keeps_parts = True, False  # some architectures of this runner could; none is asked

    def __init__(self, network: Network, batch_tokens: int, *, cached: bool) -> None:
        self._network = network
        self._cached = cached
        self.context_length = self.capacity_tokens = network.context_length
        self.max_batch_tokens = self.max_outputs = batch_tokens
        self.vocab_size = network.vocab_size
        self._ids: list[int] = []
        self._cache: Any = None
        self._held = 0  # tokens in the cache; fewer than ids after a failed step
        self._marks = Marks(1)

    def forward(self, rows: Sequence[Row]) -> list[Any]:
        """Run the one row; for each of its outputs a float32 array [vocab] or a row on the device.

        Raises:
            OutOfMemory: the device is full; the slot is as before the call.
            InvalidRequest: more than one row, or a token outside its limits.
        """
        if len(rows) != 1 or rows[0].slot != 0 or len(rows[0].token_ids) > self.max_batch_tokens:
            raise InvalidRequest(f"{len(rows)} rows are not one step; this architecture runs one slot of at most {self.max_batch_tokens} tokens a step.")
        row = rows[0]
        self._network.check(row.token_ids, row.start + len(row.token_ids))
        if row.start != len(self._ids):
            raise InvalidRequest(f"Slot 0 holds {len(self._ids)} tokens, so it cannot go on at {row.start}.")
        if not 1 <= row.outputs <= len(row.token_ids):
            raise InvalidRequest(f"A row of {len(row.token_ids)} tokens cannot have {row.outputs} outputs.")
        ids = [*self._ids, *(int(token) for token in row.token_ids)]
        try:
            found = self._network.rows(self._logits(ids, row.outputs)[0])
        except RuntimeError as error:  # a copy of the logits may be what has no room
            self._drop()
            raise step_error(error) from error
        self._ids = ids
        return found

    def _logits(self, ids: list[int], outputs: int) -> Any:
        """Logits after the last so many of the tokens; those that the cache holds are not computed again: [1, outputs, vocab]."""
        network = self._network
        if network.model is None:
            raise AppError("This model was unloaded; load it again.")
        fresh = network.torch.tensor([ids[self._held :]], device=network.device)
        if not self._cached:
            return network.run(fresh, outputs=outputs)
        if self._cache is None:
            from transformers import DynamicCache

            self._cache = DynamicCache(config=network.model.config)
        try:
            logits = network.run(fresh, outputs=outputs, past_key_values=self._cache, use_cache=True)
        except AppError:
            self._drop()  # half written: the next step computes the sequence again
            raise
        self._held = len(ids)
        return logits

    def _drop(self) -> None:
        self._cache = None
        self._held = 0

    def score(self, token_ids: Sequence[int], chunk_done: Callable[[], None] | None = None) -> NDArray[np.float32]:
        """Log-probabilities [len - 1] of each token given those before it. Empties the slot; `chunk_done` hears of each chunk.

        Raises:
            ContextOverflow: more tokens than the context.
        """
        ids = [int(token) for token in token_ids]
        self.truncate(0, 0)
        if len(ids) < 2:
            return np.zeros(0, np.float32)
        self._network.check(ids, len(ids))
        parts = []
        step = SCORE_TOKENS if self._cached else len(ids)
        try:
            for begin in range(0, len(ids) - 1, step):
                end = min(begin + step, len(ids) - 1)
                logits = self._logits(ids[:end], end - begin)[0]
                parts.append(self._network.log_probabilities(logits, self._network.torch.tensor(ids[begin + 1 : end + 1])))
                if chunk_done is not None:
                    chunk_done()
        finally:
            self.truncate(0, 0)
        return np.concatenate(parts)

    def truncate(self, slot: int, length: int) -> int:
        """Forget positions >= length; where the cache cannot be cut back (recurrent states, a full sliding window) what the last mark has is kept."""
        if length >= len(self._ids) and length > 0:
            return len(self._ids)
        kept = length if length > 0 and self._cut_cache(length) else self._return(length)
        self._ids = self._ids[:kept]
        self._marks.set(0, self._marks.of(0, kept))
        if not kept:
            self._drop()
        return kept

    def mark_within(self, budget_bytes: int) -> int:
        """From now on earlier ends of the slot may be remembered in a part of so much main memory; how much is left of it."""
        self._marks.budget_bytes = budget_bytes // MARKS_SHARE if self._cached else 0
        self.can_mark = self._marks.budget_bytes > 0
        return budget_bytes - self._marks.budget_bytes

    def mark(self, slot: int) -> None:
        """Copy the cache as it is; nothing where it can be cut anywhere, or there is no room for that."""
        size, length = self.state_bytes(slot), len(self._ids)
        if not self.can_mark or not 0 < length == self._held:
            return
        self.can_mark = any(hasattr(layer, "record_past") for layer in self._cache.layers)  # states, and windows
        if self.can_mark and size <= self._marks.budget_bytes:
            with contextlib.suppress(MemoryError, RuntimeError):  # no room: then there is none
                self._marks.put(0, Mark(length, mapped(self._cache, lambda tensor: tensor.to("cpu", copy=True)), size))

    def marks_bytes(self, slot: int) -> int:
        """How large the marks are that a state has."""
        return sum(mark.size_bytes for mark in self._marks.of_state(0, len(self._ids)))

    def cuts(self, slot: int) -> tuple[int, ...]:
        """The lengths that were marked."""
        return tuple(mark.length for mark in self._marks.of(0, len(self._ids)))

    def _return(self, length: int) -> int:
        """Take back the cache of the last mark up to a length; 0 where there is none."""
        mark, device = self._marks.last(0, length), self._network.device
        if mark is None:
            return 0
        try:
            self._cache = mapped(mark.data, lambda tensor: tensor.to(device, copy=True))
        except (MemoryError, RuntimeError):  # no room for it on the device
            return 0
        self._held = mark.length
        return mark.length

    def _cut_cache(self, length: int) -> bool:
        surplus = self._held - length
        if not self._cached or surplus <= 0:
            return True
        try:
            self._cache.crop(-surplus)
        except (RuntimeError, ValueError, NotImplementedError, AttributeError):
            return False
        self._held = length
        return True

    def copy_prefix(self, source: int, target: int, length: int) -> bool:
        """There is no second slot."""
        return False

    def state_bytes(self, slot: int) -> int:
        """How large the state of the slot is; 0 if there is none."""
        tensors: list[Any] = []
        mapped(self._cache, lambda tensor: tensors.append(tensor))
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def save_state(self, slot: int) -> Any:
        """The cache, copied into main memory, the ids it was computed from, and its marks."""
        marks = [(mark.length, mark.data, mark.size_bytes) for mark in self._marks.of_state(0, len(self._ids))]
        return list(self._ids), self._held, mapped(self._cache, lambda tensor: tensor.to("cpu", copy=True)), marks

    def restore_state(self, slot: int, state: Any, length: int) -> int:
        """Take a saved cache back and cut it to `length`; 0 where it cannot be cut."""
        ids, held, cache, marks = state
        device = self._network.device
        self._ids, self._held = list(ids), held
        self._cache = mapped(cache, lambda tensor: tensor.to(device, copy=True))
        self._marks.hold(0, (Mark(*one) for one in marks))
        kept = self.truncate(0, length)
        self._marks.set(0, self._marks.of(0, kept))
        return kept

    def close(self) -> None:
        """Drop cache and model."""
        self._ids = []
        self._drop()
        if self._network.model is not None:
            release(self._network)
