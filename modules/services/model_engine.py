"""What services need of whatever answers for a loaded model: an engine's child process, or a server somewhere else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from modules.core.generation import (
    ChatPrompt,
    EmbeddingRequest,
    Embeddings,
    EngineCard,
    EngineCounters,
    GenerationRequest,
    NextTokens,
    TextPrompt,
)
from modules.core.model import Adapter
from modules.core.params import GenerationParams
from modules.engine.client_generation import ClientGeneration


class ModelEngine(Protocol):
    """One loaded model. One event loop uses it."""

    name: str
    card: EngineCard
    on_exit: Callable[[str], None] | None  # called with a sentence when it ended by itself
    on_counters: Callable[[EngineCounters], None] | None  # called now and then with what it has counted, and at its end

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        ...

    @property
    def idle_s(self) -> float:
        """For how long nobody has used it; 0 while something runs."""
        ...

    async def ended(self) -> None:
        """Return when it has ended and everybody who waits for it was told."""
        ...

    async def submit(self, request: GenerationRequest) -> ClientGeneration:
        """Begin a generation. Returns when it was accepted; iterate the result.

        Raises:
            AppError: it cannot be begun, with the reason and the cure.
        """
        ...

    async def tokenize(self, text: str) -> list[int]:
        """Token ids of plain text.

        Raises:
            NotOffered: this engine does not tell.
        """
        ...

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        """The text of token ids, special tokens as they are written.

        Raises:
            InvalidRequest: an id outside the vocabulary.
            NotOffered: this engine does not tell.
        """
        ...

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """Vectors of texts, in their order.

        Raises:
            NotOffered: this engine makes none.
            InvalidRequest: a text, an id or the dimensions cannot be used.
        """
        ...

    async def score(self, token_ids: Sequence[int], adapters: Sequence[Adapter] | None = None, person: str = "") -> list[float]:
        """Log-probability of each token after the first, given those before it; None takes the model's own adapters.

        Raises:
            ContextOverflow: more tokens than the context holds.
            NotOffered: this engine does not tell.
        """
        ...

    async def count(self, prompt: ChatPrompt) -> int:
        """Tokens of a whole rendered conversation.

        Raises:
            NotOffered: this engine does not tell.
        """
        ...

    async def examine(self, question: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """What a prompt looks like (`render`), how a text is split (`pieces`), what the chat template is (`template`): see prompt_questions.py.

        Raises:
            InvalidRequest: it cannot be answered.
            NotOffered: this engine does not tell.
        """
        ...

    async def next_tokens(
        self, prompt: TextPrompt, k: int, adapters: Sequence[Adapter] | None = None, params: GenerationParams | None = None
    ) -> NextTokens:
        """The k likeliest next tokens after a text, best first: as the model has them, or as the samplers of `params` leave them.

        Raises:
            NotOffered: this engine does not tell.
        """
        ...

    async def set_adapters(self, adapters: Sequence[Adapter]) -> None:
        """The LoRA adapters of all requests from now on that name none.

        Raises:
            InvalidRequest: it cannot use them.
        """
        ...

    async def counters(self) -> EngineCounters:
        """What it is doing now."""
        ...

    async def close(self) -> None:
        """End it; running generations end with a sentence."""
        ...
