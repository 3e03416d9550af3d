"""How many processor threads a model is given: the rules, without the measuring. Knows times only; imports no library."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

LARGE_BYTES = 1 << 30  # models from here on read the prompt with every core, and measuring more than single tokens would take long
CLEARLY_FASTER = 1.05
CLEAR_AT_ONCE = 1.25  # a difference that needs no second look
WATCHED_TOKENS = 16  # of a step; longer ones read a prompt, and take too long to be compared
JUDGED_STEPS, JUDGED_S = 5, 0.1  # as few steps, and as short a time, as say something: the system gives a core away for some milliseconds
WORSE = 1.1  # times the calmer number's steps
DISTURBED = 3.0  # times the best that was seen, where the calmer number's steps are not known
FIRST_REST_S, LONGEST_REST_S = 1.0, 64.0
QUIET_TIMES = 10  # so often judged without a disturbance, and the next rest is the first one again


@dataclass(frozen=True, slots=True)
class Threads:
    """Numbers of threads for writing and for reading the prompt."""

    decode: int
    batch: int


def thread_counts(cores: int) -> tuple[int, ...]:
    """The numbers of threads that are compared: one, half and all of the cores."""
    return tuple(sorted({1, (cores + 1) // 2, cores}))


def fastest_threads(step_times: Callable[[int, float], tuple[float, float]], cores: int) -> Threads:
    """Threads for writing and for reading the prompt, by what one, half and all of the cores take.

    Args:
        step_times: seconds of a one-token step and of a prefill step with so many threads; more than the second argument need not be exact.
        cores: how many there are, at least 2.
    """
    decode = batch = 1
    best = step_times(1, math.inf)
    for count in thread_counts(cores)[1:]:
        times = step_times(count, 2 * best[0])
        # each thread takes a core from others, so a gain within the noise does not count
        decode = count if times[0] * CLEARLY_FASTER < best[0] else decode
        batch = count if times[1] * CLEARLY_FASTER < best[1] else batch
        best = min(best[0], times[0]), min(best[1], times[1])
    return Threads(decode, batch)


def large_counts(cores: int) -> tuple[int, ...]:
    """The numbers of threads that are compared for writing with a large model, the larger one first: one thread would be far too slow."""
    return tuple(sorted({(cores + 1) // 2, cores}, reverse=True))


def fastest_of_large(step_s: Mapping[int, float]) -> int:
    """Threads for writing, by what a step takes with all and with half of the cores: half where the others only wait for memory, or are slow and waited for."""
    fewer, all_cores = min(step_s), max(step_s)
    return all_cores if step_s[all_cores] * CLEARLY_FASTER < step_s[fewer] else fewer


def is_clear(step_s: Mapping[int, float]) -> bool:
    """Whether one number is so much faster that measuring again would not change it."""
    return max(step_s.values()) > CLEAR_AT_ONCE * min(step_s.values())


def calmer_threads(fast: Threads, cores: int) -> Threads:
    """The next smaller numbers of threads: what is used while something else needs the cores."""
    fewer = max((count for count in thread_counts(cores) if count < max(fast.decode, fast.batch)), default=1)
    return Threads(min(fast.decode, fewer), min(fast.batch, fewer))


class LiveThreads:
    """The fast number of threads as long as nothing else wants their cores, and a calmer one for a while when something does.

    With every core in use each barrier of a step waits for the thread that was held up: beside a busy browser a tiny model wrote 15 tokens a second
    with two threads and a thousand with one (`docs/lab-notes.md`). Only steps of equally many tokens are compared.
    """

    def __init__(self, fast: Threads, calm: Threads, calm_step_s: float = math.inf, clock: Callable[[], float] = time.monotonic) -> None:
        self.present = fast
        self._fast, self._calm, self._clock = fast, calm, clock
        self._calm_step_s = calm_step_s  # a step of one token with the calmer number, as measured with the machine to itself
        self._seen: dict[int, tuple[int, float]] = {}  # steps and seconds since the last judgement, by tokens of a step
        self._calm_s: dict[int, float] = {}  # what a step takes with the calmer number, as seen lately
        self._best_s: dict[int, float] = {}  # with the fast one, at best
        self._changed_s = clock()
        self._rest_s = FIRST_REST_S
        self._judged = 0  # times since the last change

    def note(self, tokens: int, seconds: float) -> None:
        """A step of so many tokens took so long; `present` may be another one afterwards."""
        steps, total_s = self._seen.get(tokens, (0, 0.0))
        steps, total_s = steps + 1, total_s + seconds
        self._seen[tokens] = (steps, total_s)
        if steps >= JUDGED_STEPS and total_s >= JUDGED_S and self._fast != self._calm:
            del self._seen[tokens]
            self._judge(tokens, total_s / steps)

    def _judge(self, tokens: int, step_s: float) -> None:
        now_s = self._clock()
        self._judged += 1
        if self.present == self._calm:
            self._calm_s[tokens] = step_s
            if now_s - self._changed_s >= self._rest_s:
                self._change(self._fast, now_s)
            return
        self._best_s[tokens] = min(step_s, self._best_s.get(tokens, step_s))
        if step_s > self._worst(tokens):
            self._rest_s = FIRST_REST_S if self._judged > QUIET_TIMES else min(2 * self._rest_s, LONGEST_REST_S)
            self._change(self._calm, now_s)

    def _worst(self, tokens: int) -> float:
        """What a step may take with the fast number."""
        if tokens in self._calm_s:
            return WORSE * self._calm_s[tokens]
        return DISTURBED * min(self._best_s[tokens], tokens * self._calm_step_s)

    def _change(self, to: Threads, now_s: float) -> None:
        self.present, self._changed_s, self._judged = to, now_s, 0
        self._seen.clear()
