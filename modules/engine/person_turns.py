"""Work of several people for one thread: one piece each in turn, however many requests each has. Knows neither the work nor the model."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Executor


class PersonTurns:
    """Hands work to a thread, in which what else it has to do keeps its place."""

    def __init__(self, thread: Executor) -> None:
        self._thread = thread
        self._lock = threading.Lock()
        self._waiting: OrderedDict[str, deque[Callable[[], None]]] = OrderedDict()

    def submit(self, person: str, work: Callable[[], None]) -> None:
        """Have it done when it is this person's turn; who was not waiting takes theirs after the others."""
        with self._lock:
            self._waiting.setdefault(person, deque()).append(work)
        self._thread.submit(self._next)

    def _next(self) -> None:
        """Called once for each piece of work, whichever it was called for."""
        with self._lock:
            person, line = self._waiting.popitem(last=False)
            work = line.popleft()
            if line:
                self._waiting[person] = line
        work()
