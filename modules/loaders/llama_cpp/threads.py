"""How many processor threads a model is given: the rule, without the measuring. Knows times only; imports no library."""

from __future__ import annotations

import math
from collections.abc import Callable

MEASURE_BELOW_BYTES = 1 << 30  # larger models gain from every core, and measuring them would take long
CLEARLY_FASTER = 1.2
ALL_CORES_DELAY_S = 0.002  # what a step loses when its threads need every core and something else, like the server, needs one too: measured


def thread_counts(cores: int) -> tuple[int, ...]:
    """The numbers of threads that are compared: one, half and all of the cores."""
    return tuple(sorted({1, (cores + 1) // 2, cores}))


def fastest_threads(step_times: Callable[[int, float], tuple[float, float]], cores: int) -> tuple[int, int]:
    """Threads for writing and for reading the prompt, by what one, half and all of the cores take.

    Args:
        step_times: seconds of a one-token step and of a prefill step with so many threads; more than the second argument need not be exact.
        cores: how many there are, at least 2.
    """
    decode = batch = 1
    best = step_times(1, math.inf)
    for count in thread_counts(cores)[1:]:
        decode_s, prefill_s = step_times(count, 2 * best[0])
        delay_s = ALL_CORES_DELAY_S if count == cores else 0.0
        times = decode_s + delay_s, prefill_s + delay_s
        # threads that wait for each other suffer first when the machine gets busy, so a small gain does not count
        decode = count if times[0] * CLEARLY_FASTER < best[0] else decode
        batch = count if times[1] * CLEARLY_FASTER < best[1] else batch
        best = min(best[0], times[0]), min(best[1], times[1])
    return decode, batch
