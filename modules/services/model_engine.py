"""What services need of whatever answers for a loaded model: an engine's child process, or a server somewhere else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from modules.core.generation import (
    ChatPrompt,
    EngineCard,
    EngineCounters,
    GenerationRequest,
    TextPrompt,
    TokenLogprob,
)
from modules.core.model import Adapter
from modules.engine.client_generation import ClientGeneration


class ModelEngine(Protocol):
    """One loaded model. One event loop uses it."""

    name: str
    card: EngineCard
    on_exit: Callable[[str], None] | None  # called with a sentence when it ended by itself

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

    async def count(self, prompt: ChatPrompt) -> int:
        """Tokens of a whole rendered conversation.

        Raises:
            NotOffered: this engine does not tell.
        """
        ...

    async def next_tokens(
        self, prompt: TextPrompt, k: int, adapters: Sequence[Adapter] | None = None
    ) -> tuple[TokenLogprob, ...]:
        """The k likeliest next tokens after a text, best first.

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
