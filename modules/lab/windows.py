"""A long text through a short context: windows that overlap, so that every token is scored once and has others before it.

Knows numbers only; tokens lie in a file, log-probabilities come from a runner.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGEST_EXPONENT = 700.0  # beyond it a float is infinite


@dataclass(frozen=True, slots=True)
class Span:
    """One window: the tokens from `begin` to `end`, of which those from `first` on count."""

    begin: int
    first: int
    end: int


@dataclass(frozen=True, slots=True)
class Frame:
    """How a text is laid out. With a BOS token one stands in front of every window and takes a place of it.

    The first token of a text without BOS has nothing before it, so it is the only one that is not scored.
    """

    window: int
    stride: int
    tokens: int  # of the text
    has_bos: bool

    @classmethod
    def fitted(cls, window: int, stride: int, tokens: int, *, has_bos: bool) -> Frame:
        """With a stride that leaves at least one token of context."""
        return cls(window, min(stride, window - 1), tokens, has_bos)

    @property
    def scored(self) -> int:
        """How many tokens count."""
        return max(0, self.tokens - (not self.has_bos))

    @property
    def count(self) -> int:
        """How many windows there are."""
        beyond = self.tokens - self._held
        return (1 + max(0, -(-beyond // self.stride))) if self.scored else 0

    @property
    def _held(self) -> int:
        """Tokens of the text in one window."""
        return self.window - self.has_bos

    def span(self, number: int) -> Span:
        """The window of that number, from 0."""
        begin = number * self.stride
        first = begin - self.stride + self._held if number else int(not self.has_bos)
        return Span(begin, first, min(begin + self._held, self.tokens))

    def spans(self, begin: int = 0) -> Iterator[tuple[int, Span]]:
        """Windows with their numbers, from one on."""
        return ((number, self.span(number)) for number in range(begin, self.count))


@dataclass(frozen=True, slots=True)
class Sums:
    """What the windows so far came to."""

    windows: int = 0
    scored: int = 0
    surprise: float = 0.0  # negative logarithms of the probabilities, added up
    squares: float = 0.0  # of each of them
    seconds: float = 0.0

    def plus(self, log_probabilities: NDArray[np.float32], seconds: float) -> Sums:
        """With one window more."""
        found = -log_probabilities.astype(np.float64)
        return Sums(
            self.windows + 1,
            self.scored + len(found),
            self.surprise + float(found.sum()),
            self.squares + float(np.square(found).sum()),
            self.seconds + seconds,
        )

    @property
    def perplexity(self) -> float:
        """How many equally likely tokens the model hesitated between, on average."""
        return math.exp(min(LARGEST_EXPONENT, self.surprise / self.scored)) if self.scored else 0.0

    @property
    def deviation(self) -> float:
        """The standard error of the perplexity, as if tokens were independent."""
        if self.scored < 2:
            return 0.0
        mean = self.surprise / self.scored
        return self.perplexity * math.sqrt(max(0.0, self.squares / self.scored - mean * mean) / (self.scored - 1))

    def bits_per_byte(self, scored_bytes: int) -> float:
        """The same for each byte of the text, which models with other tokens have in common."""
        return self.surprise / math.log(2) / scored_bytes if scored_bytes > 0 else 0.0

    def to_dict(self) -> dict[str, Any]:
        """As it is written down; floats come back as they were."""
        return asdict(self)
