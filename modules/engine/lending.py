"""How long calls and steps share the model: after each call those who are answered have as much time as it took. Knows neither."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")

LOOK_S = 0.02  # between two looks whether anybody is answered


class LendingPace:
    """For one engine. The thread that wants a call waits, the engine's makes it."""

    def __init__(self) -> None:
        self._until_s = 0.0

    def wait(self, is_busy: Callable[[], bool]) -> None:
        """Until the next call may begin: at once where nobody is answered."""
        while (left_s := self._until_s - time.monotonic()) > 0 and is_busy():
            time.sleep(min(left_s, LOOK_S))

    def timed(self, call: Callable[[], Result]) -> Result:
        """Make a call, and hold the next one back for as long."""
        begun_s = time.monotonic()
        try:
            return call()
        finally:
            ended_s = time.monotonic()
            self._until_s = 2 * ended_s - begun_s
