"""How many of the running sequences decode in one step: as many as write the most tokens in a second on this machine.

On a graphics card all of them. Not so on every processor: a step of two rows can take three times as long as one of a single row, where the
library computes single rows in another way (`docs/lab-notes.md`), and then sequences that take turns are all sooner done. Measured while replies run.
Knows numbers of rows and seconds; no sequence, no model.
"""

from __future__ import annotations

from collections import deque
from statistics import median

FEWEST_TIMES, KEPT_TIMES = 3, 5  # of one number of rows, until it is judged and at most
GAIN = 0.9  # time for each token that is worth taking turns
RENEW_STEPS = 256  # after so many, one of the other numbers is measured anew: contexts grow, and machines become busy and idle


class Crew:
    """Step times of one model by the number of rows."""

    def __init__(self) -> None:
        self._times: dict[int, deque[float]] = {}
        self._chosen = 0  # since something was measured anew
        self.is_whole = False  # whether everybody decodes in every step, whatever that costs

    def note(self, rows: int, seconds: float) -> None:
        """A step that only decoded so many rows took so long."""
        times = self._times.get(rows)
        if times is None:
            times = self._times[rows] = deque(maxlen=KEPT_TIMES)
        times.append(seconds)

    def size(self, decoding: int) -> int:
        """How many rows the next step has where so many sequences could decode."""
        if decoding < 2 or self.is_whole:
            return decoding
        sizes = [decoding]
        while sizes[-1] > 1:
            sizes.append((sizes[-1] + 1) // 2)
        for size in sizes:
            if len(self._times.get(size, ())) < FEWEST_TIMES:
                return size
        costs = {size: median(self._times[size]) / size for size in sizes}
        best = min(sizes, key=lambda size: costs[size])
        best = best if costs[best] < GAIN * costs[decoding] else decoding
        self._renew([size for size in sizes if size != best])
        return best

    def _renew(self, others: list[int]) -> None:
        self._chosen += 1
        if self._chosen % RENEW_STEPS == 0:
            self._times[others[self._chosen // RENEW_STEPS % len(others)]].clear()
