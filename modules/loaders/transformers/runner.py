"""The batching transformers runner: ragged rows of many slots in few passes, each at its own position.

Rows are padded on the left, so that the last tokens of every row stand at the same place and only their logits are computed. Knows slots and
the cache; nothing of text or sampling. Whether an architecture really computes the same this way is checked once, on load.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from modules.core.errors import AppError, InvalidRequest, OutOfMemory
from modules.core.model import Row
from modules.loaders.transformers.network import Network, step_error
from modules.loaders.transformers.recorded import RecordedSteps
from modules.loaders.transformers.slot_cache import SlotCache
from modules.loaders.transformers.states import StatesInMemory

if TYPE_CHECKING:
    import torch

PADDING_FACTOR = 1.5  # a pass may be this much larger than its tokens
PADDING_FREE = 48  # below this many tokens a second pass costs more than the padding
SCORE_TOKENS = 128
MOST_ROW_OUTPUTS = 17  # of a row that decodes: its token and the most drafts


class SlotRunner(StatesInMemory):
    """A Runner over one `SlotCache`."""

    def __init__(self, network: Network, slots: int, batch_tokens: int) -> None:
        self._network = network
        self.n_slots = slots
        self.context_length = network.context_length
        self.capacity_tokens = slots * network.context_length
        self.max_batch_tokens = batch_tokens
        self.max_outputs = max(SCORE_TOKENS, slots * MOST_ROW_OUTPUTS)
        self.vocab_size = network.vocab_size
        self.keeps_parts, self.mixes_slots, self.tile_rows = True, True, 0
        self._lengths = [0] * slots
        self._cache: SlotCache | None = SlotCache(slots, network.context_length)
        self.recorded: RecordedSteps | None = None

    def forward(self, rows: Sequence[Row]) -> list[Any]:
        """Run the rows; one float32 array [vocab] (or a row on the device) per output.

        Raises:
            OutOfMemory: the device is full; the slots are as before the call.
            InvalidRequest: a token, slot or length outside its limits.
        """
        self._check(rows)
        return [entry for entries in self._run(rows) for entry in entries]

    def _run(self, rows: Sequence[Row]) -> list[list[Any]]:
        """Run checked rows; the outputs of each."""
        results: list[list[Any]] = [[]] * len(rows)
        for group in _groups([len(row.token_ids) for row in rows]):
            try:
                found = self._pass([rows[place] for place in group])
            except (RuntimeError, OutOfMemory) as error:  # around the pass: a mask or a copy of the logits may be what has no room
                if self.recorded is not None:
                    self.recorded.forget()  # what recordings hold may be needed more elsewhere
                if isinstance(error, OutOfMemory):
                    raise
                raise step_error(error) from error
            for place, logits in zip(group, found, strict=True):
                results[place] = logits
        for row in rows:
            self._lengths[row.slot] = row.start + len(row.token_ids)
        return results

    def _held_length(self, slot: int) -> int:
        """How many ids a slot holds."""
        return self._lengths[slot]

    def _check(self, rows: Sequence[Row]) -> None:
        total = 0
        for row in rows:
            total += len(row.token_ids)
            self._network.check(row.token_ids, row.start + len(row.token_ids))
            held = self._held_length(row.slot) if 0 <= row.slot < self.n_slots else None
            if row.start != held:
                raise InvalidRequest(f"Slot {row.slot} of {self.n_slots} holds {held or 0} tokens, so it cannot go on at {row.start}.")
            if not 1 <= row.outputs <= len(row.token_ids):
                raise InvalidRequest(f"A row of {len(row.token_ids)} tokens cannot have {row.outputs} outputs.")
        if total > self.max_batch_tokens or not rows or len({row.slot for row in rows}) != len(rows):
            raise InvalidRequest(f"{total} tokens in {len(rows)} rows are not one step; the limit is {self.max_batch_tokens} tokens, one row a slot.")

    def _pass(self, rows: Sequence[Row]) -> list[list[Any]]:
        """One forward pass of rows that share a width; the outputs of each."""
        if self.recorded is not None and self._is_plain_step(rows):
            played = self.recorded.logits(rows, self._open_cache())
            if played is not None:
                return [[entry] for entry in self._network.rows(played)]
        if len(rows) == 1:
            return [self._network.rows(self._logits(rows, rows[0].outputs)[0])]
        most = max(row.outputs for row in rows)
        logits = self._logits(sorted(rows, key=lambda row: row.slot), most)
        order = np.argsort(np.argsort([row.slot for row in rows]))
        entries = self._network.rows(logits.flatten(0, 1))
        return [entries[(place + 1) * most - row.outputs : (place + 1) * most] for place, row in zip(order, rows, strict=True)]

    def _is_plain_step(self, rows: Sequence[Row]) -> bool:
        """Whether each row goes on by one token of text."""
        return all(len(row.token_ids) == 1 for row in rows)

    def _logits(self, rows: Sequence[Row], outputs: int) -> Any:
        """Pad on the left, place, mask and run: [rows, outputs, vocab]."""
        cache, network, torch = self._open_cache(), self._network, self._network.torch
        width = max(len(row.token_ids) for row in rows)
        length = max(row.start + len(row.token_ids) for row in rows)
        with cache.room(length):
            ids = np.zeros((len(rows), width), np.int64)
            positions = np.zeros((len(rows), width), np.int64)  # padding sees the first key only: a row that sees none is NaN
            written = np.full((len(rows), width), cache.scratch, np.int64)
            for place, row in enumerate(rows):
                count = len(row.token_ids)
                ids[place, width - count :] = row.token_ids
                positions[place, width - count :] = written[place, width - count :] = np.arange(row.start, row.start + count)
            where = torch.from_numpy(positions).to(network.device)
            one = (rows[0].start, length) if len(rows) == 1 else None
            with torch.inference_mode():
                cache.plan([row.slot for row in rows], torch.from_numpy(written).to(network.device), length, one=one)
                inputs = self._inputs(rows, ids, where, length)
            return network.run(torch.from_numpy(ids).to(network.device), outputs=outputs, past_key_values=cache, use_cache=True, **inputs)

    def _inputs(self, rows: Sequence[Row], ids: NDArray[np.int64], where: torch.Tensor, length: int) -> dict[str, Any]:
        """What a pass is given beside ids and cache: where its tokens stand and whom they see."""
        # a single row needs no padding: the library then masks by itself, or not at all, which takes faster kernels
        return {"position_ids": where, "attention_mask": None if len(rows) == 1 else self._network.mask(where, length)}

    def _open_cache(self) -> SlotCache:
        if self._cache is None:
            raise AppError("This model was unloaded; load it again.")
        return self._cache

    def score(self, token_ids: Sequence[int], chunk_done: Callable[[], None] | None = None) -> NDArray[np.float32]:
        """Log-probabilities [len - 1] of each token given those before it. Uses and empties slot 0; `chunk_done` hears of each chunk.

        Raises:
            ContextOverflow: more tokens than the context.
        """
        ids = [int(token) for token in token_ids]
        if len(ids) < 2:
            return np.zeros(0, np.float32)
        self._network.check(ids, len(ids))
        self.truncate(0, 0)
        parts = []
        for begin in range(0, len(ids) - 1, SCORE_TOKENS):
            chunk = ids[begin : min(begin + SCORE_TOKENS, len(ids) - 1)]
            logits = self._logits([Row(0, begin, chunk)], len(chunk))[0]
            targets = self._network.torch.tensor(ids[begin + 1 : begin + 1 + len(chunk)])
            parts.append(self._network.log_probabilities(logits, targets))
            if chunk_done is not None:
                chunk_done()
        return np.concatenate(parts)

    def truncate(self, slot: int, length: int) -> int:
        """Forget positions >= length; always possible."""
        self._lengths[slot] = min(self._lengths[slot], max(0, length))
        return self._lengths[slot]

    def copy_prefix(self, source: int, target: int, length: int) -> bool:
        """Let `target` begin with the first positions of `source`."""
        self.truncate(target, 0)
        if source == target or not 0 < length <= self._lengths[source]:
            return False
        with self._network.torch.inference_mode():
            self._open_cache().copy(source, target, length)
        self._lengths[target] = length
        return True

    def state_bytes(self, slot: int) -> int:
        """How large the state of a slot is; 0 if it holds nothing."""
        return self._cache.state_bytes(self._lengths[slot]) if self._cache is not None else 0

    def save_state(self, slot: int) -> Any:
        """Keys and values of a slot, copied into main memory."""
        with self._network.torch.inference_mode():
            return self._open_cache().save(slot, self._lengths[slot])

    def restore_state(self, slot: int, state: Any, length: int) -> int:
        """Let an empty slot hold the first positions of a state; 0 where the device has no room for them."""
        self.truncate(slot, 0)
        try:
            with self._network.torch.inference_mode():
                self._open_cache().restore(slot, state, length)
        except RuntimeError:  # a graphics card without room; the slot is computed anew
            return 0
        self._lengths[slot] = length
        return length

    def close(self) -> None:
        """Drop cache and model; memory of a GPU goes back with them."""
        if self._cache is None:
            return
        self._cache = self.recorded = None
        release(self._network)


def release(network: Network) -> None:
    """Let go of the weights."""
    network.model = None
    if network.device.type == "cuda":  # the allocator keeps what is not collected; main memory goes back by reference counts
        import gc

        gc.collect()
        network.torch.cuda.empty_cache()


def _groups(widths: Sequence[int]) -> list[list[int]]:
    """Places of rows that run together: by width, so that a long prompt does not pad every decoding row."""
    order = sorted(range(len(widths)), key=lambda place: widths[place])
    groups: list[list[int]] = []
    tokens = 0
    for place in order:
        padded = widths[place] * (len(groups[-1]) + 1) if groups else 0
        tokens += widths[place]
        if groups and (padded <= PADDING_FREE or padded <= PADDING_FACTOR * tokens):
            groups[-1].append(place)
        else:
            groups.append([place])
            tokens = widths[place]
    return groups
