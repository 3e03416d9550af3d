"""What turns requests into prompts, as the engine's process needs it. Contract only: templates and vocabularies are the maker's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from modules.core.generation import ChatPrompt, GenerationRequest
from modules.core.text_shape import CallText


@dataclass(frozen=True, slots=True)
class Prepared:
    """A prompt as the engine takes it, and what the asker should know about it."""

    token_ids: Sequence[int]
    stop: tuple[str, ...] = ()
    dropped_messages: int = 0
    starts_thinking: str = ""
    dropped: tuple[int, ...] = ()  # their places in the conversation
    prompt_hash: str = ""
    template_origin: str = ""
    template_hash: str = ""
    call_format: str = ""
    calls: CallText | None = None  # how they come in the text
    begun: str = ""  # what the prompt has of the reply already
    prompt_ids: tuple[int, ...] = ()  # the same ids once more, where they are to be told


class PromptMaker(Protocol):
    """Turns requests into token ids. Called by one thread."""

    def prepare(self, request: GenerationRequest) -> Prepared:
        """The prompt of a request, made to fit the context."""
        ...

    def count(self, prompt: ChatPrompt) -> int:
        """How many tokens a whole conversation has."""
        ...

    def tokenize(self, text: str) -> list[int]:
        """Token ids of plain text as it stands."""
        ...

    def examine(self, question: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a question about prompts, in plain values."""
        ...

    def close(self) -> None:
        """End what was started for it."""
        ...
