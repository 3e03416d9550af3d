"""What was written before, kept so that penalising it costs little per token: how often each token came, and what repeats.

Knows token ids; knows no logits. The penalties themselves are in `sampling.py`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence, Set
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

LARGEST_EXPONENT = 88.0  # natural logarithm: a DRY penalty beyond e^88 would only overflow


class TokenCounts:
    """How often each token stands in the last `window` tokens (0: all) of prompt and completion, by ascending id.

    `ids`, `seen` (prompt and completion) and `written` (completion) are arrays of equal length. Tokens of the prompt are left out
    when `with_prompt` is False, but they still count for the window.
    """

    def __init__(self, prompt_ids: Sequence[int], window: int, with_prompt: bool) -> None:
        self._window = window
        self._with_prompt = with_prompt
        recent = np.asarray(prompt_ids[-window:] if window else prompt_ids, np.int64)
        self._recent: deque[tuple[int, int]] = deque((token_id, 0) for token_id in (recent.tolist() if window else ()))
        ids, counts = np.unique(recent, return_counts=True) if with_prompt else (recent[:0], recent[:0])
        self._length = len(ids)
        self._table = np.zeros((3, 2 * self._length + 64), np.int64)  # rows: ids, seen, written
        self._table[0, : self._length] = ids
        self._table[1, : self._length] = counts

    @property
    def ids(self) -> NDArray[np.int64]:
        """The tokens."""
        return self._table[0, : self._length]

    @property
    def seen(self) -> NDArray[np.int64]:
        """How often they came, at least 1."""
        return self._table[1, : self._length]

    @property
    def written(self) -> NDArray[np.int64]:
        """How often they came in the completion."""
        return self._table[2, : self._length]

    def accept(self, token_id: int) -> None:
        """Take note of a new token of the completion."""
        self._add(token_id, 1, 1)
        if not self._window:
            return
        self._recent.append((token_id, 1))
        if len(self._recent) > self._window:
            old, written = self._recent.popleft()
            if written or self._with_prompt:
                self._add(old, -1, -written)

    def _add(self, token_id: int, seen: int, written: int) -> None:
        place = int(self.ids.searchsorted(token_id))
        end = self._length
        if place == end or self._table[0, place] != token_id:
            if end == self._table.shape[1]:
                self._table = np.concatenate((self._table, np.zeros_like(self._table)), axis=1)
            self._table[:, place + 1 : end + 1] = self._table[:, place:end]
            self._table[:, place] = (token_id, 0, 0)
            self._length += 1
        self._table[1, place] += seen
        self._table[2, place] += written
        if not self._table[1, place]:
            self._table[:, place : self._length - 1] = self._table[:, place + 1 : self._length]
            self._length -= 1


class Repeats:
    """Where the end of the text repeats an earlier part of its last `window` tokens (0: all), for DRY.

    For every earlier position it keeps how many tokens up to there equal the last tokens of the text, no breaker among them. A new
    token prolongs or ends each of these matches, so one comparison of the text with that token keeps them all.
    """

    def __init__(self, prompt_ids: Sequence[int], window: int, breakers: Iterable[int]) -> None:
        self._window = window
        self._breakers = frozenset(breakers)
        recent = list(prompt_ids[-window:] if window else prompt_ids)
        self._length = len(recent)
        self._text = np.zeros(2 * len(recent) + 256, np.int64)
        self._text[: len(recent)] = recent
        self._matched = np.zeros(len(self._text) + 1, np.int64)  # at i + 1: length of the match that ends at position i
        self._matched[1 : len(recent) + 1] = self._match_lengths(recent)
        self._ends = self._matched.nonzero()[0] - 1  # positions where a match ends

    def accept(self, token_id: int) -> None:
        """Take note of a new last token."""
        end = self._length
        if end == len(self._text):
            self._text = np.concatenate((self._text, np.zeros_like(self._text)))
            self._matched = np.concatenate((self._matched, np.zeros(end, np.int64)))
        start = max(0, end + 1 - self._window) if self._window else 0
        if token_id in self._breakers:
            ends = self._ends[:0]
        else:
            ends = (self._text[start:end] == token_id).nonzero()[0] + start
        lengths = self._matched[ends] + 1  # what ended one position before is one longer now
        self._matched[self._ends + 1] = 0
        self._matched[ends + 1] = lengths
        self._ends = ends
        self._text[end] = token_id
        self._length += 1

    def next_tokens(self, shortest: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Tokens that would prolong a match of at least `shortest` tokens, ascending, with the longest such match of each."""
        start = max(0, self._length - self._window) if self._window else 0
        lengths = np.minimum(self._matched[self._ends + 1], self._ends + 1 - start)
        long = lengths >= shortest
        if not long.any():
            return self._ends[:0], self._ends[:0]
        # Sorted by token, then length: the last of each token is its longest
        keys = np.sort((self._text[self._ends[long] + 1] << 32) | lengths[long], kind="stable")  # quick where lengths ascend
        tokens = keys >> 32
        last = np.append(tokens[1:] != tokens[:-1], True)
        tokens, lengths = tokens[last], keys[last] & 0xFFFFFFFF
        if self._breakers:
            free = np.array([token_id not in self._breakers for token_id in tokens.tolist()], bool)
            tokens, lengths = tokens[free], lengths[free]
        return tokens, lengths

    def _match_lengths(self, text: list[int]) -> NDArray[np.int64]:
        """For each position but the last, how many tokens up to it equal the last tokens: the Z function of the reversed text."""
        size = len(text)
        unbroken = next((n for n, token_id in enumerate(reversed(text)) if token_id in self._breakers), size)
        if not unbroken:
            return np.zeros(size, np.int64)
        backward = text[::-1]
        lengths = [0] * size
        left = right = 0  # the match that reaches farthest is backward[left:right]
        for i in range(1, size):
            n = min(right - i, lengths[i - left]) if i < right else 0
            while i + n < size and backward[n] == backward[i + n]:
                n += 1
            if i + n > right:
                left, right = i, i + n
            lengths[i] = n
        return np.minimum(np.array(lengths[::-1], np.int64), unbroken)


class Ngrams:
    """Which tokens would write a sequence of `size` tokens a second time, in prompt and completion. Those that end a text never count: it must be able to end."""

    def __init__(self, prompt_ids: Iterable[int], size: int, end_ids: Set[int]) -> None:
        self._end_ids = end_ids
        self._last: deque[int] = deque(maxlen=size - 1)
        self._wanted = size - 1
        self._followers: dict[tuple[int, ...], set[int]] = {}
        for token_id in prompt_ids:
            self.accept(token_id)

    def accept(self, token_id: int) -> None:
        """Take note of a new last token."""
        if len(self._last) == self._wanted and token_id not in self._end_ids:
            self._followers.setdefault(tuple(self._last), set()).add(token_id)
        self._last.append(token_id)

    def next_tokens(self) -> NDArray[np.int64]:
        """What must not come next, ascending."""
        return np.array(sorted(self._followers.get(tuple(self._last), ())), np.int64)


def dry_amounts(lengths: NDArray[np.int64], allowed: int, multiplier: float, base: float) -> NDArray[np.float64]:
    """The DRY penalty for matches of these lengths: multiplier * base ** (length - allowed), kept finite."""
    exponents = np.minimum((lengths - allowed) * np.log(base), LARGEST_EXPONENT)
    amounts: NDArray[np.float64] = multiplier * np.exp(exponents)
    return amounts


def breaker_tokens(pieces: Iterable[bytes], breakers: Iterable[str]) -> frozenset[int]:
    """Ids of the tokens whose piece contains one of the sequence breakers.

    Looks at the whole vocabulary: let the caller keep the result. A breaker that no single token contains breaks nothing.
    """
    wanted = [breaker.encode() for breaker in breakers]
    return frozenset(i for i, piece in enumerate(pieces) if any(text in piece for text in wanted))
