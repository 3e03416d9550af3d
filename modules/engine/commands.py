"""What the engine's thread is to do between two steps, in order. Knows no command."""

from __future__ import annotations

import logging
import queue
from collections.abc import Callable

log = logging.getLogger(__name__)

Command = Callable[[], None]

REST_S = 0.05  # without a command, before what has time is done: who asks again at once must not find the processor's caches and a core taken


class Commands(queue.SimpleQueue[Command]):
    """Any thread puts them in; one takes them out."""

    def next(self, at_leisure: Callable[[Callable[[], bool]], None]) -> Command:
        """The next one. Where none comes for a moment, `at_leisure` is called first, with a question whether there is still none."""
        try:
            return self.get(timeout=REST_S)
        except queue.Empty:
            try:
                at_leisure(self.empty)
            except Exception:
                log.exception("What was to be done at leisure failed")  # it was nobody's request
            return self.get()
