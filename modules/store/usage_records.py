"""Values that the store of usage takes and hands out. Plain and frozen; knows no SQL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Spender(NamedTuple):
    """Who had something computed, on which day, by which model."""

    person: str
    day: str
    model: str


@dataclass(frozen=True, slots=True)
class Spent:
    """How much that was."""

    requests: int = 0
    prompt_tokens: int = 0
    reused_tokens: int = 0
    completion_tokens: int = 0
    compute_s: float = 0.0

    @property
    def counted_tokens(self) -> int:
        """Tokens that a quota counts: those that were computed."""
        return self.prompt_tokens - self.reused_tokens + self.completion_tokens

    def __add__(self, other: Spent) -> Spent:
        return Spent(*(getattr(self, name) + getattr(other, name) for name in Spent.__slots__))
