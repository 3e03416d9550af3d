"""The llama.cpp runner: rows in, logits out, over one context with a key-value cache that all slots share.

Knows the context and its memory; nothing of text, sampling or scheduling. One thread calls it.
"""

from __future__ import annotations

import contextlib
import ctypes
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modules.core.errors import AppError, ContextOverflow, InvalidRequest, OutOfMemory
from modules.core.model import Row
from modules.loaders.llama_cpp.c_api import Batch, FastCalls, RowViews, library, time_limit
from modules.loaders.llama_cpp.options import LlamaCppOptions
from modules.loaders.llama_cpp.spare_memory import SpareMemory
from modules.loaders.llama_cpp.threads import WATCHED_TOKENS, LiveThreads, Threads
from modules.loaders.marks import MARKS_SHARE, Mark, Marks

SCORE_BUFFER_BYTES = 32 << 20
STATES_ONLY = 1  # LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY: nothing of what attention keeps
TILE_ROWS = 64  # of flash attention on a CPU: GGML_FA_TILE_Q in its sources


def score_outputs(vocab_size: int, batch_tokens: int) -> int:
    """How many whole rows `score` asks for at once: bounded by their memory."""
    return max(16, min(batch_tokens, SCORE_BUFFER_BYTES // (4 * vocab_size)))


def most_outputs(vocab_size: int, options: LlamaCppOptions) -> int:
    """How many rows of logits a context must have room for: those of `score`, and those of a step of all slots."""
    return min(options.batch_tokens, max(options.step_outputs, score_outputs(vocab_size, options.batch_tokens)))


@dataclass(frozen=True, slots=True)
class SlotState:
    """What a slot of one context held: so many positions."""

    owner: int
    length: int
    data: NDArray[np.uint8]
    marks: tuple[Mark, ...] = ()


def _bytes_at(data: NDArray[np.uint8]) -> Any:
    return data.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))


class LlamaCppRunner:
    """A loaded GGUF model behind the Runner contract. It owns the context; `on_close` gives back what lies below."""

    def __init__(
        self, context: int, model: int, options: LlamaCppOptions, context_length: int, on_close: Callable[[], None], *, shared: bool = True
    ) -> None:
        binding = self._binding = library()
        self._context = context
        self._memory = binding.llama_get_memory(context)
        self._fast = FastCalls()
        self._on_close = on_close
        self.mixes_slots = shared  # as all have one cache together
        self._window = int(binding.llama_model_n_swa(model))  # 0 where all layers see everything
        self.keeps_parts = not (binding.llama_model_is_recurrent(model) or binding.llama_model_is_hybrid(model))
        self.can_mark = False
        self._may_be_ahead = bool(binding.llama_supports_gpu_offload())  # a processor has computed all when a call returns
        slots, batch_tokens = options.slots, options.batch_tokens
        self.n_slots = slots
        self.context_length = context_length
        self.capacity_tokens = int(binding.llama_n_ctx(context))
        self.max_batch_tokens = batch_tokens
        self.vocab_size = int(binding.llama_vocab_n_tokens(binding.llama_model_get_vocab(model)))
        on_processor = not (self._may_be_ahead and options.gpu_layers) and options.flash_attention != "off"
        self.tile_rows = TILE_ROWS if on_processor and self.keeps_parts and not self._window and options.kv_type == "f16" else 0
        self._lengths = [0] * slots
        self._marks = Marks(slots)
        self._score_rows = score_outputs(self.vocab_size, batch_tokens)
        self.max_outputs = most_outputs(self.vocab_size, options)
        self._batch = Batch(batch_tokens, slots)
        self._views = RowViews(self.vocab_size)
        self._spare = SpareMemory()
        self._live: LiveThreads | None = None
        self._steady: Threads | None = None

    def use_threads(self, live: LiveThreads, steady: Threads | None = None) -> None:
        """From now on steps run with the threads that `live` says; steady rows always with the same number."""
        self._live, self._steady = live, steady
        self.set_threads(live.present)

    def mark_within(self, budget_bytes: int) -> int:
        """From now on earlier ends of slots may be remembered in a part of so much main memory, if this model needs that; how much is left of it."""
        self._marks.budget_bytes = 0 if self.keeps_parts else budget_bytes // MARKS_SHARE
        self.can_mark = self._marks.budget_bytes > 0
        return budget_bytes - self._marks.budget_bytes

    def set_threads(self, threads: Threads) -> None:
        """Threads of the next steps."""
        self._binding.llama_set_n_threads(self._context, threads.decode, threads.batch)

    def time_limit(self, seconds: float) -> AbstractContextManager[None]:
        """Steps meanwhile fail once so much time is over; the slots are then to be emptied."""
        return time_limit(self._context, seconds)

    def forward(self, rows: Sequence[Row]) -> list[NDArray[np.float32]]:
        """Run the rows; one read-only view [vocab] per output, valid until the next call.

        Raises:
            OutOfMemory: no room in the key-value cache; the slots are as before the call.
            InvalidRequest: a token, slot or length outside its limits.
        """
        self._check(rows)
        batch = self._batch
        batch.clear()
        ends = self._fill(batch, rows)
        if rows[0].steady and self._steady is not None:
            self._decode_steadily(self._steady)
        elif self._live is not None and batch.length <= WATCHED_TOKENS:
            self._decode_watched(self._live, batch.length)
        else:
            self._decode()
        for row in rows:
            self._lengths[row.slot] = row.start + len(row.token_ids)
        at, views, context = self._fast.logits_at, self._views, self._context
        return [views.at(at(context, place)) for row, end in zip(rows, ends, strict=True) for place in range(end - row.outputs, end)]

    def _fill(self, batch: Batch, rows: Sequence[Row]) -> list[int]:
        """Put the rows into the batch; where each ends there. Only neighbouring slots in their order are computed together where caches are apart."""
        if self.mixes_slots or len(rows) == 1:
            return [batch.add(row.slot, row.start, row.token_ids, row.outputs) + 1 for row in rows]
        ends = [0] * len(rows)
        for place in sorted(range(len(rows)), key=lambda place: rows[place].slot):
            row = rows[place]
            ends[place] = batch.add(row.slot, row.start, row.token_ids, row.outputs) + 1
        return ends

    def _check(self, rows: Sequence[Row]) -> None:
        """What the native library would answer with an abort of the process, or with a bare number."""
        self._check_open()
        total = outputs = 0
        for row in rows:
            count = len(row.token_ids)
            total += count
            outputs += row.outputs
            if not 0 <= row.slot < self.n_slots or not 1 <= row.outputs <= count:
                raise InvalidRequest(f"Slot {row.slot} with {count} tokens and {row.outputs} outputs cannot run; this model has {self.n_slots} slots.")
            if row.start + count > self.context_length:
                raise ContextOverflow(f"{row.start + count} tokens are more than the context of {self.context_length}.")
            if row.start != self._lengths[row.slot]:
                raise InvalidRequest(f"Slot {row.slot} holds {self._lengths[row.slot]} tokens, so it cannot go on at {row.start}.")
            if min(row.token_ids) < 0 or max(row.token_ids) >= self.vocab_size:
                raise InvalidRequest(f"A token id lies outside 0 … {self.vocab_size - 1}.")
        if outputs > self.max_outputs:
            raise InvalidRequest(f"These rows have more than {self.max_outputs} outputs, all that this model was loaded for.")
        if not 0 < total <= self.max_batch_tokens or (len(rows) > 1 and len({row.slot for row in rows}) != len(rows)):
            raise InvalidRequest(f"{total} tokens in {len(rows)} rows are not one step; the limit is {self.max_batch_tokens} tokens, one row a slot.")

    def _check_open(self) -> None:
        if not self._context:
            raise AppError("This model was unloaded; load it again.")

    def _decode(self) -> None:
        self._finish(int(self._binding.llama_decode(self._context, self._batch.seal())))

    def _decode_watched(self, live: LiveThreads, tokens: int) -> None:
        """A short step, whose time may change the number of threads of the next ones."""
        before, begun_s = live.present, time.perf_counter()
        self._decode()
        live.note(tokens, time.perf_counter() - begun_s)
        if live.present is not before:
            self.set_threads(live.present)

    def _decode_steadily(self, threads: Threads) -> None:
        """With many tokens before it, attention sums in an order that depends on the number of threads."""
        self.set_threads(threads)
        try:
            self._decode()
        finally:
            if self._live is not None:
                self.set_threads(self._live.present)

    def _finish(self, code: int) -> None:
        """Wait for a step, or turn what llama.cpp returned for it into an error."""
        if code == 0:
            if self._may_be_ahead:
                self._binding.llama_synchronize(self._context)  # the wait belongs here, where the interpreter lock is free
            return
        if code in (1, -2):
            undone = [self._binding.llama_memory_seq_rm(self._memory, slot, length, -1) for slot, length in enumerate(self._lengths)]
            if not all(undone):  # a step in several parts, of which one failed
                raise AppError("A step failed half-way, and this model cannot go back by one.")
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
                self.chunk_done(begin + len(chunk), chunk_done)
        finally:
            self.truncate(0, 0)
        return result

    def chunk_done(self, length: int, told: Callable[[], None] | None) -> None:
        """So many tokens of something that is read stand in slot 0; others may be computed meanwhile.

        Raises:
            AppError: it was emptied by that: what would be read next would follow nothing.
        """
        self._lengths[0] = length
        if told is not None:
            told()
        if self._lengths[0] != length:
            raise AppError("This text lost its place in the model's memory while it was read; ask again.")

    def truncate(self, slot: int, length: int) -> int:
        """Forget positions >= length; returns what is really kept: a model with states keeps what it has a mark of, one with a window sometimes nothing."""
        self._check_open()
        held = self._lengths[slot]
        if length >= held and length > 0:
            return held
        kept = self._cut(slot, length) if length > 0 and self.keeps_parts else self._return(slot, length)
        if kept:
            self._lengths[slot] = kept
            self._marks.set(slot, self._marks.of(slot, kept))
            return kept
        self._binding.llama_memory_seq_rm(self._memory, slot, -1, -1)
        self._lengths[slot] = 0
        self._marks.set(slot, ())
        if not any(self._lengths):  # the next token stands in the first cell again: where it stands decides in which order attention sums
            self._binding.llama_memory_clear(self._memory, False)
        return 0

    def _sees_enough(self, slot: int, length: int) -> bool:
        """Whether all that a token at `length` sees is still there: positions behind a sliding window are given to other slots."""
        if not self._window:
            return True
        first = int(self._binding.llama_memory_seq_pos_min(self._memory, slot))  # from there on nothing is missing
        return 0 <= first <= max(0, length - self._window)

    def cuts(self, slot: int) -> tuple[int, ...]:
        """To which lengths a slot can return, where not to any."""
        return tuple(mark.length for mark in self._marks.of(slot, self._lengths[slot]))

    def mark(self, slot: int) -> None:
        """Remember the present end of a slot, so that it can return there; nothing where parts are kept anyway."""
        length = self._lengths[slot]
        if not self.can_mark or not length:
            return
        size = int(self._binding.llama_state_seq_get_size_ext(self._context, slot, STATES_ONLY))
        self.can_mark = size <= self._marks.budget_bytes
        if size and self.can_mark:
            with contextlib.suppress(MemoryError):  # no room: then there is none
                data = np.empty(size, np.uint8)
                if self._binding.llama_state_seq_get_data_ext(self._context, _bytes_at(data), size, slot, STATES_ONLY) == size:
                    self._marks.put(slot, Mark(length, data, size))

    def _cut(self, slot: int, length: int) -> int:
        """Forget positions >= length; 0 where a token there would not see all that it should."""
        return length if self._sees_enough(slot, length) and self._binding.llama_memory_seq_rm(self._memory, slot, length, -1) else 0

    def _return(self, slot: int, length: int) -> int:
        """Bring a slot that holds more back to its last mark up to `length`; 0 where there is none, or it cannot be read.

        The states go first: llama.cpp cuts off nothing as long as they stand behind the cut, and what is cut after that is what attention keeps.
        """
        mark, binding = self._marks.last(slot, length), self._binding
        if mark is None:
            return 0
        size = mark.data.nbytes
        if binding.llama_state_seq_set_data_ext(self._context, _bytes_at(mark.data), size, slot, STATES_ONLY) != size:
            return 0
        is_back = binding.llama_memory_seq_rm(self._memory, slot, mark.length, -1)
        return mark.length if is_back and binding.llama_memory_seq_pos_max(self._memory, slot) == mark.length - 1 else 0

    def _copy_marked(self, source: int, target: int, length: int) -> bool:
        """`copy_prefix` of a model with states: all of the source, or what it has a mark of."""
        marks = self._marks.of(source, length)
        if length < self._lengths[source] and (not marks or marks[-1].length != length):
            return False
        self._binding.llama_memory_seq_cp(self._memory, source, target, -1, -1)
        self._lengths[target] = self._lengths[source]
        self._marks.set(target, marks)
        return self.truncate(target, length) == length

    def copy_prefix(self, source: int, target: int, length: int) -> bool:
        """Let `target` begin with the first positions of `source`: the cells are shared in one cache, and copied from one cache to another."""
        self.truncate(target, 0)
        if source == target or not 0 < length <= self._lengths[source]:
            return False
        if not self.keeps_parts and self.mixes_slots:
            return self._copy_marked(source, target, length)
        if not self._sees_enough(source, length):
            return False
        if not self.mixes_slots:  # llama.cpp ends the process where a part is copied between caches
            state = self.save_state(source)
            kept = self.restore_state(target, state, length)
            self.drop_state(state)
            return kept == length
        self._binding.llama_memory_seq_cp(self._memory, source, target, 0, length)
        self._lengths[target] = length
        return True

    def state_bytes(self, slot: int) -> int:
        """How large the state of a slot is; 0 if it holds nothing."""
        return int(self._binding.llama_state_seq_get_size(self._context, slot)) if self._context and self._lengths[slot] else 0

    def marks_bytes(self, slot: int) -> int:
        """How large the marks are that a state has."""
        return sum(mark.size_bytes for mark in self._marks.of_state(slot, self._lengths[slot]))

    def save_state(self, slot: int) -> SlotState:
        """What a slot holds. It is of use to this context alone: llama.cpp reads a state of another kind of cache beyond its end."""
        self._check_open()
        data = self._spare.take(self.state_bytes(slot))
        if self._binding.llama_state_seq_get_data(self._context, _bytes_at(data), data.nbytes, slot) != data.nbytes:
            raise AppError("llama.cpp could not save the state of a slot.")
        return SlotState(id(self), self._lengths[slot], data, self._marks.of_state(slot, self._lengths[slot]))

    def restore_state(self, slot: int, state: SlotState, length: int) -> int:
        """Let an empty slot hold the first positions of a state; 0 where there is no room for all of it, or a part cannot be kept."""
        self.truncate(slot, 0)
        if state.owner != id(self) or not 0 < length <= state.length:
            return 0
        data = state.data
        if self._binding.llama_state_seq_set_data(self._context, _bytes_at(data), data.nbytes, slot) != data.nbytes:
            self.truncate(slot, 0)
            return 0
        self._lengths[slot] = state.length
        self._marks.hold(slot, state.marks)  # one of them is what it was taken back for
        kept = self.truncate(slot, length)
        self._marks.set(slot, self._marks.of(slot, kept))
        return kept

    def drop_state(self, state: SlotState) -> None:
        """Keep the memory of a state that is not wanted any more for the next one."""
        self._spare.give_back(state.data)

    def ready_memory(self, sizes: Sequence[int]) -> bool:
        """Have memory ready for states of about these sizes, a piece of it with each call; whether there is more to do."""
        return self._spare.make_ready(sizes)

    def pack_state(self, state: SlotState) -> tuple[Any, list[NDArray[np.uint8]]]:
        """A state is one run of bytes already, and so is each of its marks."""
        return (state.owner, state.length, [mark.length for mark in state.marks]), [state.data, *(mark.data for mark in state.marks)]

    def unpack_state(self, form: Any, parts: list[NDArray[np.uint8]]) -> SlotState:
        """The state with these bytes."""
        owner, held, marked = form
        return SlotState(owner, held, parts[0], tuple(Mark(length, part, part.nbytes) for length, part in zip(marked, parts[1:], strict=True)))

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
