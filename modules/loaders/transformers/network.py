"""A causal language model as a function from token ids to logits, with what its signature and config say about masks.

Knows the differences between architectures that matter for batching; knows nothing of slots or text.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from modules.core.errors import AppError, ContextOverflow, InvalidRequest, OutOfMemory
from modules.loaders.transformers.logits import TorchRows

if TYPE_CHECKING:
    import torch

FULL, SLIDING = "full_attention", "sliding_attention"
CHECK_WINDOW = 3


class Network:
    """The model, its device and the ways it may be called."""

    def __init__(self, model: Any, context_length: int) -> None:
        import torch

        self.torch = torch
        self.model = model
        self.context_length = context_length
        self.config = model.config.get_text_config()
        self.vocab_size = int(self.config.vocab_size)
        embedding = model.get_input_embeddings().weight
        hook = getattr(model, "_hf_hook", None)  # accelerate's, where parts lie elsewhere: weights beyond memory are on no device at all
        self.device = torch.device(getattr(hook, "execution_device", None) or embedding.device) if embedding.device.type == "meta" else embedding.device
        self.dtype = embedding.dtype if embedding.dtype.is_floating_point else torch.float32
        accepted = inspect.signature(model.forward).parameters
        self.takes_cache = "past_key_values" in accepted
        self.takes_positions = "position_ids" in accepted
        self._keeps_last = "logits_to_keep" in accepted
        self._layer_kinds = frozenset(getattr(self.config, "layer_types", None) or ())
        # on a processor PyTorch turns a mask of yes and no into numbers, in every layer anew
        self._float_mask = getattr(self.config, "_attn_implementation", "eager") != "sdpa" or self.device.type == "cpu"

    @property
    def window(self) -> int:
        """Sliding window of the attention, 0 where it sees everything."""
        if self._layer_kinds and SLIDING not in self._layer_kinds:
            return 0
        return int(getattr(self.config, "sliding_window", None) or 0)

    @property
    def may_batch(self) -> bool:
        """Whether several sequences of different lengths can share a pass, as far as config and signature tell."""
        if not (self.takes_cache and self.takes_positions) or not self._layer_kinds <= {FULL, SLIDING}:
            return False
        # GPT-Neo's local layers take positions from the shape of the batch; harmless while the window spans the context
        local = "local" in (getattr(self.config, "attention_layers", None) or ())
        return not local or int(getattr(self.config, "window_size", 0)) >= self.context_length

    @contextmanager
    def small_window(self) -> Iterator[None]:
        """Shrink a sliding window while the batch is checked, so that a few tokens go beyond it."""
        held = getattr(self.config, "sliding_window", None)
        if not self.window:
            yield
            return
        self.config.sliding_window = CHECK_WINDOW
        try:
            yield
        finally:
            self.config.sliding_window = held

    def mask(self, positions: torch.Tensor, length: int, also: torch.Tensor | None = None) -> Any:
        """Who sees whom: [rows, 1, tokens, length], or one per kind of layer. A token at position p sees keys 0 … p, and those that `also` says."""
        keys = self.torch.arange(length, device=positions.device)[None, None, None, :]
        queries = positions[:, None, :, None]
        causal = keys <= queries if also is None else (keys <= queries) | also
        if not self.window:
            return self._as_mask(causal)
        near = self._as_mask(causal & (keys > queries - self.window))
        return {FULL: self._as_mask(causal), SLIDING: near} if SLIDING in self._layer_kinds else near

    def _as_mask(self, seen: torch.Tensor) -> torch.Tensor:
        if not self._float_mask:
            return seen
        lowest = self.torch.finfo(self.dtype).min
        return self.torch.zeros(seen.shape, dtype=self.dtype, device=seen.device).masked_fill_(~seen, lowest)

    def run(self, ids: torch.Tensor, *, outputs: int = 1, **inputs: Any) -> torch.Tensor:
        """Logits [rows, outputs, vocab] after the last so many tokens.

        Raises:
            OutOfMemory: the device ran out of memory.
        """
        if self._keeps_last:
            inputs["logits_to_keep"] = outputs
        try:
            with self.torch.inference_mode():
                logits = self.model(input_ids=ids, **inputs).logits
        except RuntimeError as error:
            raise step_error(error) from error
        return logits[:, -outputs:]

    def rows(self, logits: torch.Tensor) -> list[Any]:
        """One entry per row of [rows, vocab]: float32 arrays in main memory, or rows that stay on the GPU."""
        if logits.device.type == "cpu":
            return list(logits.float().numpy())
        return TorchRows(logits.float()).rows()

    def log_probabilities(self, logits: torch.Tensor, targets: torch.Tensor) -> NDArray[np.float32]:
        """[tokens] log-probabilities of the targets under logits [tokens, vocab]."""
        chosen = logits.float().log_softmax(-1).gather(1, targets.to(logits.device)[:, None])[:, 0]
        return np.asarray(chosen.cpu().numpy(), np.float32)

    def check(self, token_ids: Sequence[int], end: int) -> None:
        """Refuse what would end in an index error, or on a GPU poison the whole process.

        Raises:
            ContextOverflow: beyond the context.
            InvalidRequest: a token id outside the vocabulary, or none.
        """
        if end > self.context_length:
            raise ContextOverflow(f"{end} tokens are more than the context of {self.context_length}.")
        if len(token_ids) == 0 or min(token_ids) < 0 or max(token_ids) >= self.vocab_size:
            raise InvalidRequest(f"A row needs tokens between 0 and {self.vocab_size - 1}.")


def step_error(error: RuntimeError) -> AppError:
    """What a failed pass means."""
    text = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
    if type(error).__name__ == "OutOfMemoryError" or "out of memory" in text.lower() or "can't allocate memory" in text.lower():
        return OutOfMemory(f"There is no memory left for this step ({text}); load the model with a smaller context or fewer slots.")
    return AppError(f"The model could not run this step: {text}. Load it again.")
