"""The llama.cpp runner: rows in, logits out, over one context with a key-value cache that all slots share.

Knows the context and its memory; nothing of text, sampling or scheduling. One thread calls it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modules.core.errors import AppError, ContextOverflow, InvalidRequest, OutOfMemory
from modules.core.model import Row
from modules.loaders.llama_cpp.c_api import Batch, FastCalls, RowViews, library
from modules.loaders.llama_cpp.options import LlamaCppOptions

SCORE_BUFFER_BYTES = 32 << 20


def score_outputs(vocab_size: int, batch_tokens: int) -> int:
    """How many whole rows `score` asks for at once: bounded by their memory."""
    return max(16, min(batch_tokens, SCORE_BUFFER_BYTES // (4 * vocab_size)))


def most_outputs(vocab_size: int, options: LlamaCppOptions) -> int:
    """How many rows of logits a context must have room for: those of `score`, and those of a step of all slots."""
    return min(options.batch_tokens, max(options.step_outputs, score_outputs(vocab_size, options.batch_tokens)))


class LlamaCppRunner:
    """A loaded GGUF model behind the Runner contract. It owns the context; `on_close` gives back what lies below."""

    def __init__(self, context: int, model: int, options: LlamaCppOptions, context_length: int, on_close: Callable[[], None]) -> None:
        binding = self._binding = library()
        self._context = context
        self._memory = binding.llama_get_memory(context)
        self._fast = FastCalls()
        self._on_close = on_close
        self._window = int(binding.llama_model_n_swa(model))  # 0 where all layers see everything
        self.keeps_parts = not (binding.llama_model_is_recurrent(model) or binding.llama_model_is_hybrid(model))
        slots, batch_tokens = options.slots, options.batch_tokens
        self.n_slots = slots
        self.context_length = context_length
        self.capacity_tokens = int(binding.llama_n_ctx(context))
        self.max_batch_tokens = batch_tokens
        self.vocab_size = int(binding.llama_vocab_n_tokens(binding.llama_model_get_vocab(model)))
        self._lengths = [0] * slots
        self._score_rows = score_outputs(self.vocab_size, batch_tokens)
        self._most_outputs = most_outputs(self.vocab_size, options)
        self._batch = Batch(batch_tokens, slots)
        self._views = RowViews(self.vocab_size)

    def forward(self, rows: Sequence[Row]) -> list[NDArray[np.float32]]:
        """Run the rows; one read-only view [vocab] per output, valid until the next call.

        Raises:
            OutOfMemory: no room in the key-value cache; the slots are as before the call.
            InvalidRequest: a token, slot or length outside its limits.
        """
        self._check(rows)
        batch = self._batch
        batch.clear()
        ends = [batch.add(row.slot, row.start, row.token_ids, row.outputs) + 1 for row in rows]
        self._decode()
        for row in rows:
            self._lengths[row.slot] = row.start + len(row.token_ids)
        at, views, context = self._fast.logits_at, self._views, self._context
        return [views.at(at(context, place)) for row, end in zip(rows, ends, strict=True) for place in range(end - row.outputs, end)]

    def _check(self, rows: Sequence[Row]) -> None:
        """What the native library would answer with an abort of the process, or with a bare number."""
        self._check_open()
        total = 0
        for row in rows:
            count = len(row.token_ids)
            total += count
            if not 0 <= row.slot < self.n_slots or not 1 <= row.outputs <= count:
                raise InvalidRequest(f"Slot {row.slot} with {count} tokens and {row.outputs} outputs cannot run; this model has {self.n_slots} slots.")
            if row.start + count > self.context_length:
                raise ContextOverflow(f"{row.start + count} tokens are more than the context of {self.context_length}.")
            if row.start != self._lengths[row.slot]:
                raise InvalidRequest(f"Slot {row.slot} holds {self._lengths[row.slot]} tokens, so it cannot go on at {row.start}.")
            if min(row.token_ids) < 0 or max(row.token_ids) >= self.vocab_size:
                raise InvalidRequest(f"A token id lies outside 0 … {self.vocab_size - 1}.")
        if sum(row.outputs for row in rows) > self._most_outputs:
            raise InvalidRequest(f"These rows have more than {self._most_outputs} outputs, all that this model was loaded for.")
        if total > self.max_batch_tokens or total == 0 or len({row.slot for row in rows}) != len(rows):
            raise InvalidRequest(f"{total} tokens in {len(rows)} rows are not one step; the limit is {self.max_batch_tokens} tokens, one row a slot.")

    def _check_open(self) -> None:
        if not self._context:
            raise AppError("This model was unloaded; load it again.")

    def _decode(self) -> None:
        self._finish(int(self._binding.llama_decode(self._context, self._batch.seal())))

    def _finish(self, code: int) -> None:
        """Wait for a step, or turn what llama.cpp returned for it into an error."""
        if code == 0:
            self._binding.llama_synchronize(self._context)  # on a GPU the wait belongs here, where the interpreter lock is free
            return
        if code in (1, -2):
            for slot, length in enumerate(self._lengths):  # what a step in several parts had done before one failed
                self._binding.llama_memory_seq_rm(self._memory, slot, length, -1)
            raise OutOfMemory(
                f"The key-value cache of {self.capacity_tokens} tokens is full; end another reply, or load the model with more cache_tokens."
            )
        raise AppError(f"llama.cpp could not run this step (code {code}); load the model again.")

    def score(self, token_ids: Sequence[int], chunk_done: Callable[[], None] | None = None) -> NDArray[np.float32]:
        """Log-probabilities [len - 1] of each token given those before it. Uses and empties slot 0; `chunk_done` hears of each chunk.

        Raises:
            ContextOverflow: more tokens than the context.
        """
        self._check_open()
        ids = np.asarray(token_ids, np.int32)
        if len(ids) > self.context_length:
            raise ContextOverflow(f"{len(ids)} tokens are more than the context of {self.context_length}; score shorter pieces.")
        if len(ids) and (int(ids.min()) < 0 or int(ids.max()) >= self.vocab_size):
            raise InvalidRequest(f"A token id lies outside 0 … {self.vocab_size - 1}.")
        result = np.zeros(max(0, len(ids) - 1), np.float32)
        self.truncate(0, 0)
        try:
            for begin in range(0, len(result), self._score_rows):
                chunk = ids[begin : min(begin + self._score_rows, len(result))]
                self._batch.clear()
                self._batch.add(0, begin, chunk, len(chunk))
                self._decode()
                for place in range(len(chunk)):
                    row = self._views.at(self._fast.logits_at(self._context, place))
                    result[begin + place] = log_probability(row, int(ids[begin + place + 1]))
                if chunk_done is not None:
                    chunk_done()
        finally:
            self.truncate(0, 0)
        return result

    def truncate(self, slot: int, length: int) -> int:
        """Forget positions >= length; returns what is really kept: a recurrent model keeps all or nothing, one with a window sometimes too."""
        self._check_open()
        held = self._lengths[slot]
        if length >= held and length > 0:
            return held
        if length > 0 and self._sees_enough(slot, length) and self._binding.llama_memory_seq_rm(self._memory, slot, length, -1):
            self._lengths[slot] = length
            return length
        self._binding.llama_memory_seq_rm(self._memory, slot, -1, -1)
        self._lengths[slot] = 0
        return 0

    def _sees_enough(self, slot: int, length: int) -> bool:
        """Whether all that a token at `length` sees is still there: positions behind a sliding window are given to other slots."""
        if not self._window:
            return True
        first = int(self._binding.llama_memory_seq_pos_min(self._memory, slot))  # from there on nothing is missing
        return 0 <= first <= max(0, length - self._window)

    def copy_prefix(self, source: int, target: int, length: int) -> bool:
        """Let `target` begin with the first positions of `source`; the cells are shared, not copied."""
        self.truncate(target, 0)
        if not self.keeps_parts or source == target or not 0 < length <= self._lengths[source]:
            return False
        if not self._sees_enough(source, length):
            return False
        self._binding.llama_memory_seq_cp(self._memory, source, target, 0, length)
        self._lengths[target] = length
        return True

    def set_adapters(self, adapters: Sequence[tuple[int, float]]) -> bool:
        """Put exactly these loaded adapters, with their scales, into use."""
        self._check_open()
        count = len(adapters)
        addresses = (ctypes.c_void_p * max(count, 1))(*(pointer for pointer, _ in adapters))
        pointers = ctypes.cast(addresses, self._binding.llama_set_adapters_lora.argtypes[1])
        scales = (ctypes.c_float * max(count, 1))(*(scale for _, scale in adapters))
        return int(self._binding.llama_set_adapters_lora(self._context, pointers, count, scales)) == 0

    def close(self) -> None:
        """Free the context, then what lies below it; a second call does nothing."""
        context, self._context = self._context, 0
        if not context:
            return
        self._views = RowViews(self.vocab_size)
        self._binding.llama_free(context)
        self._on_close()


def log_probability(row: Any, token_id: int) -> float:
    """Logarithm of the softmax of a logits row at one token."""
    highest = float(row.max())
    return float(row[token_id]) - highest - float(np.log(np.exp(row - highest).sum(dtype=np.float64)))
