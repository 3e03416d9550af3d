"""What is done when the model runs out of memory: others make room, and for a while no more is asked for than there was.

Knows the scheduler and the room that was promised; knows no model.
"""

from __future__ import annotations

import logging
import time

from modules.core.errors import OutOfMemory
from modules.engine.scheduler import Scheduler
from modules.engine.sequence import Sequence

log = logging.getLogger(__name__)

IS_LESS_S = 60.0  # so long after running out of memory no more is asked for than there was


class Room:
    """How many tokens are believed to fit."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._promised_tokens = scheduler.capacity_tokens
        self._ran_out_s = 0.0  # when it was lowered; 0 while all of it is believed in

    def believe(self) -> None:
        """Before a step: some time after the memory ran out, believe again in all that was promised."""
        if self._ran_out_s and time.monotonic() - self._ran_out_s >= IS_LESS_S:
            self._restore()

    def ran_out(self, error: OutOfMemory) -> Sequence | None:
        """Make room; the one that has all of it and still does not fit."""
        scheduler = self._scheduler
        log.warning("Out of memory with %d tokens cached: %s", scheduler.used_tokens, error.message)
        scheduler.capacity_tokens = max(1, min(scheduler.capacity_tokens, scheduler.used_tokens))
        self._ran_out_s = time.monotonic()
        if scheduler.evict_idle() or scheduler.preempt_youngest() is not None or not scheduler.running:
            return None
        self._restore()  # it had all of it, so this says nothing about the room of shorter ones
        return scheduler.running[0]

    def _restore(self) -> None:
        self._scheduler.capacity_tokens = self._promised_tokens
        self._ran_out_s = 0.0
