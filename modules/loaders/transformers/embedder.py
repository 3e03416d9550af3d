"""Vectors of texts through transformers: the last states of an encoder, or of a model that also writes, pooled in the way its files say.

Knows the inner model and its tokenizer; knows no slots. The engine's thread calls it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from modules.core.errors import AppError, ContextOverflow
from modules.core.model import Pooling
from modules.loaders.pooling import Recipe, pool
from modules.loaders.transformers.network import step_error

if TYPE_CHECKING:
    from modules.loaders.transformers.tokenizer import TransformersTokenizer

PASS_TOKENS = 1024  # of several texts together, padding not counted
PASS_TEXTS = 32


class TransformersEmbedder:
    """Texts of a pass are padded to the longest, and the padding is masked. `inner` gives the model without what chooses tokens."""

    batch_tokens, batch_texts = PASS_TOKENS, PASS_TEXTS
    in_slot = False

    def __init__(self, inner: Callable[[], Any], tokenizer: TransformersTokenizer, context_length: int, recipe: Recipe, device: Any) -> None:
        self._inner: Callable[[], Any] | None = inner
        self._tokenizer = tokenizer
        self._device = device
        self.context_length = context_length
        self.pooling = recipe.pooling
        self.normalizes = recipe.normalizes
        self._before, self._behind = tokenizer.around()

    def encode(self, text: str) -> list[int]:
        """Token ids with the special tokens that this model wants around a text.

        Raises:
            InvalidRequest: a text that the tokenizer fails on, or longer than the safe limit.
        """
        return [*self._before, *self._tokenizer.encode(text, add_special=False, parse_special=False), *self._behind]

    def embed(
        self, texts: Sequence[Sequence[int]], pooling: Pooling, chunk_done: Callable[[], None] | None = None
    ) -> NDArray[np.float32]:
        """Vectors [texts, size], not normalised, in one pass.

        Raises:
            ContextOverflow: longer than the model has positions for.
            OutOfMemory: no room.
        """
        import torch

        model = self._inner() if self._inner is not None else None
        if model is None:
            raise AppError("This model was unloaded; load it again.")
        width = max(map(len, texts))
        if width > self.context_length:
            raise ContextOverflow(f"{width} tokens are more than the {self.context_length} that this model reads.")
        ids, mask = np.zeros((len(texts), width), np.int64), np.zeros((len(texts), width), np.int64)
        for place, text in enumerate(texts):
            ids[place, : len(text)] = text
            mask[place, : len(text)] = 1
        taken = inspect.signature(model.forward).parameters
        inputs: dict[str, Any] = {"input_ids": torch.from_numpy(ids).to(self._device)}
        if "attention_mask" in taken:
            inputs["attention_mask"] = torch.from_numpy(mask).to(self._device)
        if "use_cache" in taken:
            inputs["use_cache"] = False
        try:
            with torch.inference_mode():
                states = model(**inputs).last_hidden_state.float().cpu().numpy()
        except RuntimeError as error:
            raise step_error(error) from error
        return np.stack([pool(states[place, : len(text)], pooling) for place, text in enumerate(texts)])

    def close(self) -> None:
        """Let go of the model."""
        self._inner = None
