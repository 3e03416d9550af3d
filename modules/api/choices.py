"""One finished choice of an answer, and OpenAI's words for how it ended, and vLLM's table of a prompt. Knows no route and no shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from modules.core.generation import Delta, TokenLogprob, Usage
from modules.services.generation import ClientGeneration

CALLED = "tool_calls"  # a reply that ended with calls of tools
FINISH_WORDS = MappingProxyType({"stop": "stop", "length": "length", "cancelled": "stop", "error": "stop", None: None})


@dataclass
class Whole:
    """One finished choice; `finish_reason` is OpenAI's word."""

    text: str = ""
    thinking: str = ""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprob] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    finish_reason: str | None = None
    usage: Usage = field(default_factory=Usage)
    seed: int = 0

    def add(self, thinking: str, text: str, delta: Delta) -> None:
        """Take in what one delta brought."""
        self.thinking += thinking
        self.text += text
        self.logprobs.extend(delta.logprobs)
        self.prompt_logprobs.extend(delta.prompt_logprobs)
        self.token_ids.extend(delta.written_ids)
        if delta.finish_reason is not None:
            self.finish_reason = FINISH_WORDS[delta.finish_reason]
            self.usage = delta.usage or self.usage


def prompt_ids(generation: ClientGeneration) -> list[int]:
    """Token ids of the prompt, once it has been read and where they were asked for."""
    return list(generation.started.prompt_ids) if generation.started else []


def prompt_table(entries: Sequence[TokenLogprob]) -> list[dict[str, Any] | None]:
    """The tokens of a prompt as vLLM tells them: nothing for the first, then by token id; a rank where it is known."""
    return [None if place == 0 else _ranked(entry) for place, entry in enumerate(entries)]


def _ranked(entry: TokenLogprob) -> dict[str, Any]:
    rows = {other.token_id: _row(other, rank) for rank, other in enumerate(entry.top, 1)}
    rows.setdefault(entry.token_id, _row(entry, None))
    return {str(token_id): row for token_id, row in rows.items()}


def _row(entry: TokenLogprob, rank: int | None) -> dict[str, Any]:
    return {"logprob": entry.logprob, "rank": rank, "decoded_token": entry.text}
