"""How much of this process's cores others take: what is measured beside a busy process says nothing of the machine.

Knows the system's counters; knows nothing of what is measured.
"""

from __future__ import annotations

import os
import time

import psutil

from modules.loaders.machine import usable_cores

MOST_CORES = 0.25  # of others' work, on average; each barrier of a step waits for the thread that was held up
COUNTED_S = 0.03  # the counters go in steps of a hundredth of a second, for each core
IDLE_TIMES = ("idle", "iowait", "guest", "guest_nice")  # guests are counted as user time too


class Neighbours:
    """Looks at what other processes, and other machines on the same host, do from when it was made."""

    def __init__(self) -> None:
        self._begun = _now()

    @property
    def disturb(self) -> bool:
        """Whether they have taken cores that this process could have used; also where the system does not tell."""
        begun, now = self._begun, _now()
        if begun is None or now is None:
            return True
        seconds, own_s, all_s = (after - before for before, after in zip(begun, now, strict=True))
        return all_s - own_s > COUNTED_S + max(MOST_CORES, _spare_cores() / 2) * seconds


def _now() -> tuple[float, float, float] | None:
    """Seconds of the clock, of this process's work, and of all work on its cores; None where that is not told."""
    try:
        times = psutil.cpu_times(percpu=True)
    except (OSError, RuntimeError, psutil.Error):
        return None
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(len(times)))
    used = [core for place, core in enumerate(times) if place in allowed] or times
    busy_s = sum(sum(core) - sum(getattr(core, name, 0.0) for name in IDLE_TIMES) for core in used)
    return time.perf_counter(), time.process_time(), float(busy_s)


def _spare_cores() -> int:
    """Cores beyond those whose time this process may use, as where a container has a share of a large machine: others may well work on them."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return max(0, min(allowed, psutil.cpu_count(logical=False) or allowed) - usable_cores())
