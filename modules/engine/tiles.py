"""When few tokens of a prompt are read sooner as part of many.

On a CPU llama.cpp computes flash attention in tiles of 64 rows, and a step with fewer of them row by row: behind 2,048 tokens each of 48 rows takes 1 to 9 times as
long as one of 64 (docs/lab-notes.md). So some tokens that are known already are read once more with those that are not. Whether that pays depends on model, depth,
processor and how llama.cpp was compiled, and is measured while replies run. Knows numbers of tokens and seconds.
"""

from __future__ import annotations

LEAST_TOKENS = 8  # fewer say more about the step than about its rows
DEPTH_TOKENS = 512  # positions before a row that are as good as the same
WORTH = 0.9  # of the time, at most, that the few tokens take
WORTH_BESIDE = 0.6  # of the time for each token, beside replies that flow: a longer pause must bring more than that
LONGER = 2.0  # times as long as the few tokens take, and a tile may take longer than a pause should be
RENEW_TIMES = 32  # after so many the few are read alone and so measured anew
NEW_SHARE = 0.3  # of the newest measurement in what is known


class Tiles:
    """Seconds for each token of a prompt, in tiles and without, by depth. Of no use where `rows` is 0: nothing is computed in tiles."""

    def __init__(self, rows: int = 0) -> None:
        self.rows = rows
        self._whole: dict[int, float] = {}
        self._parts: dict[int, float] = {}
        self._taken = 0

    def note(self, tokens: int, depth: int, seconds: float) -> None:
        """So many tokens behind `depth` others took so long."""
        if not self.rows or tokens < LEAST_TOKENS:
            return
        known, place = self._whole if tokens >= self.rows else self._parts, depth // DEPTH_TOKENS
        new = seconds / tokens
        known[place] = (1 - NEW_SHARE) * known[place] + NEW_SHARE * new if place in known else new

    def pays(self, tokens: int, depth: int) -> bool:
        """Whether a whole tile behind so many tokens is read sooner than these few."""
        if not 1 < tokens < self.rows <= depth:
            return False
        whole, parts = self._known(depth)
        if not whole or not parts or self.rows * whole >= WORTH * tokens * parts:
            return False
        self._taken += 1
        return self._taken % RENEW_TIMES > 0

    def at_least(self, tokens: int, depth: int, limit_s: float) -> int:
        """So many tokens, or a whole tile if each of its tokens takes much less time, and all of them no more than `limit_s` or hardly longer than the few."""
        if tokens >= self.rows:
            return tokens
        whole, parts = self._known(depth)
        longest_s = max(limit_s, LONGER * tokens * parts) if depth // DEPTH_TOKENS in self._parts else limit_s  # a guess is no reason for a long pause
        if not parts or self.rows * (whole or parts) > longest_s or whole >= WORTH_BESIDE * parts:  # where no tile was measured yet one is tried
            return tokens
        return self.rows

    def cut(self, pending: int, most: int) -> int:
        """How many of the tokens that a prompt lacks are read now, at most so many: what is left is a whole tile, if that costs nothing."""
        if 0 < pending - most < self.rows and most >= 2 * self.rows:
            return pending - self.rows
        return min(pending, most)

    def _known(self, depth: int) -> tuple[float, float]:
        """Seconds for each token there, in tiles and without; zero where that is not known."""
        place = depth // DEPTH_TOKENS
        deeper, flatter = [one for one in self._whole if one >= place], [one for one in self._whole if one < place]
        whole = self._whole.get(min(deeper) if deeper else max(flatter, default=0), 0.0)
        measured = max((one for one in self._parts if one <= place), default=None)
        if measured is None:
            return whole, 0.0
        beside = self._whole.get(measured, whole)  # where few were measured last; behind more tokens they take as many times as long as there, or more
        return whole, self._parts[measured] * max(1.0, whole / beside if beside else 1.0)
