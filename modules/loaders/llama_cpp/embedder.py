"""Vectors of texts through llama.cpp: with a context of its own for an embedding model, in a slot of the runner for a model that writes.

A model that writes lends its own context for the moment, so that vectors take no memory beside it. The states of the tokens are pooled outside of
llama.cpp, in one way for all back ends. Knows contexts; knows no text but the special tokens around it. The engine's thread calls it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from modules.core.errors import AppError, ContextOverflow, OutOfMemory
from modules.core.model import Pooling
from modules.loaders.llama_cpp.c_api import Batch, library
from modules.loaders.llama_cpp.runner import LlamaCppRunner
from modules.loaders.llama_cpp.tokenizer import LlamaCppTokenizer
from modules.loaders.pooling import Recipe, pool

PASS_TOKENS = 512  # of several texts together: llama.cpp keeps a row of logits for each
PASS_TEXTS = 16
# Draft heads and the like, whose graphs name no last states: llama.cpp aborts the process when it is asked for them
WITHOUT_STATES = frozenset({"eagle3", "dflash", "gemma4-assistant", "deepseek2-ocr", "qwen3tts"})


class _States:
    """The states of the tokens after a decode, and what is put around a text."""

    def __init__(self, context: int, model: int, tokenizer: LlamaCppTokenizer, recipe: Recipe) -> None:
        self._binding = library()
        self._context = context
        self._size = int(self._binding.llama_model_n_embd_out(model))
        self._tokenizer = tokenizer
        self.pooling = recipe.pooling
        self.normalizes = recipe.normalizes
        self._before, self._behind = self._around(self._binding.llama_model_get_vocab(model))

    def _around(self, vocab: int) -> tuple[list[int], list[int]]:
        """The special tokens before and behind a text: those of an empty one."""
        buffer = (ctypes.c_int32 * 8)()
        count = max(0, int(self._binding.llama_tokenize(vocab, b"", 0, buffer, 8, True, False)))
        first = int(count > 0 and self._tokenizer.adds_bos and buffer[0] == self._tokenizer.bos_id)  # one token can be both BOS and EOS
        return list(buffer[:first]), list(buffer[first:count])

    def encode(self, text: str) -> list[int]:
        """Token ids with the special tokens that this model wants around a text.

        Raises:
            InvalidRequest: a text that this vocabulary cannot hold, or longer than the safe limit.
        """
        return [*self._before, *self._tokenizer.encode(text, add_special=False, parse_special=False), *self._behind]

    def _decode(self, batch: Batch) -> None:
        code = int(self._binding.llama_decode(self._context, batch.seal()))
        if code in (1, -2):
            raise OutOfMemory("There is no memory left for this text; send shorter ones.")
        if code != 0:
            raise AppError(f"llama.cpp could not read this text (code {code}); load the model again.")
        self._binding.llama_synchronize(self._context)

    def _read(self, begin: int, end: int) -> NDArray[np.float32]:
        """Copies of the states [tokens, size] from one place of the batch to another."""
        rows = []
        for place in range(begin, end):
            address = ctypes.cast(self._binding.llama_get_embeddings_ith(self._context, place), ctypes.c_void_p).value
            if not address:
                raise AppError("This architecture gives no vectors; choose another model.")
            rows.append(np.ctypeslib.as_array((ctypes.c_float * self._size).from_address(address)).copy())
        return np.stack(rows)


class SlotEmbedder(_States):
    """Vectors of a model that writes: one text at a time in slot 0, which is empty, in chunks as large as those of `score`."""

    batch_texts = 1
    in_slot = True

    def __init__(self, runner: LlamaCppRunner, context: int, model: int, tokenizer: LlamaCppTokenizer, recipe: Recipe) -> None:
        super().__init__(context, model, tokenizer, recipe)
        self._runner = runner
        self.context_length = self.batch_tokens = runner.context_length
        self._chunk = min(runner.max_outputs, runner.max_batch_tokens)  # every token has an output
        self._batch: Batch | None = None

    def embed(
        self, texts: Sequence[Sequence[int]], pooling: Pooling, chunk_done: Callable[[], None] | None = None
    ) -> NDArray[np.float32]:
        """Vectors [texts, size], not normalised.

        Raises:
            OutOfMemory: no room.
        """
        return np.stack([self._embed(np.asarray(ids, np.int32), pooling, chunk_done) for ids in texts])

    def _embed(self, ids: NDArray[np.int32], pooling: Pooling, chunk_done: Callable[[], None] | None) -> NDArray[np.float32]:
        batch = self._batch = self._batch or Batch(self._chunk, 1)
        parts = []
        self._runner.truncate(0, 0)
        try:
            for begin in range(0, len(ids), self._chunk):
                chunk = ids[begin : begin + self._chunk]
                batch.clear()
                batch.add(0, begin, chunk, len(chunk))
                self._binding.llama_set_embeddings(self._context, True)
                self._decode(batch)
                parts.append(self._read(0, len(chunk)))
                self._binding.llama_set_embeddings(self._context, False)  # replies go on meanwhile
                self._runner.chunk_done(begin + len(chunk), chunk_done)
        finally:
            self._binding.llama_set_embeddings(self._context, False)
            self._runner.truncate(0, 0)
        return pool(np.concatenate(parts), pooling)

    def close(self) -> None:
        """Nothing is its own."""


class ContextEmbedder(_States):
    """Vectors of an embedding model: several texts in one pass, each whole. It owns the context; `on_close` gives back what lies below."""

    in_slot = False
    batch_tokens, batch_texts = PASS_TOKENS, PASS_TEXTS

    def __init__(
        self, context: int, model: int, tokenizer: LlamaCppTokenizer, recipe: Recipe, context_length: int, on_close: Callable[[], None]
    ) -> None:
        super().__init__(context, model, tokenizer, recipe)
        self.context_length = context_length
        self._memory = self._binding.llama_get_memory(context)
        self._batch = Batch(max(context_length, PASS_TOKENS), PASS_TEXTS)
        self._on_close = on_close

    def embed(
        self, texts: Sequence[Sequence[int]], pooling: Pooling, chunk_done: Callable[[], None] | None = None
    ) -> NDArray[np.float32]:
        """Vectors [texts, size], not normalised, in one pass.

        Raises:
            ContextOverflow: more than one pass can hold.
            OutOfMemory: no room.
        """
        if not self._context:
            raise AppError("This model was unloaded; load it again.")
        total = sum(map(len, texts))
        if total > self._batch.capacity or len(texts) > self.batch_texts or not all(0 < len(ids) <= self.context_length for ids in texts):
            raise ContextOverflow(f"{total} tokens in {len(texts)} texts are not one pass; the limit is {self._batch.capacity}.")
        batch = self._batch
        batch.clear()
        ends = [batch.add(slot, 0, np.asarray(ids, np.int32), len(ids)) + 1 for slot, ids in enumerate(texts)]
        try:
            self._decode(batch)
            return np.stack([pool(self._read(end - len(ids), end), pooling) for ids, end in zip(texts, ends, strict=True)])
        finally:
            if self._memory:
                self._binding.llama_memory_clear(self._memory, True)

    def close(self) -> None:
        """Free the context, then what lies below it; a second call does nothing."""
        context, self._context = self._context, 0
        if context:
            self._binding.llama_free(context)
            self._on_close()
