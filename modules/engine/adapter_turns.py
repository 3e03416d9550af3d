"""The LoRA adapters of the next step: a model has one set for all of its slots, and this decides which one it is.

Knows the scheduler and the loader's function; knows no files. The engine thread alone uses it, between steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from modules.core.errors import AppError, InvalidRequest
from modules.core.model import Adapter, in_use
from modules.engine.scheduler import Scheduler
from modules.engine.sequence import Sequence as Running

Result = TypeVar("Result")
Apply = Callable[[Sequence[Adapter]], None]


class AdapterTurns:
    """Puts adapters into use. What a scheduler has cached stays with the adapters that it was computed with."""

    def __init__(self, scheduler: Scheduler, apply: Apply | None, name: str) -> None:
        self._scheduler = scheduler
        self._apply = apply
        self._name = name
        self._sure = True  # that the model has what the scheduler says: not after a change that failed and could not be taken back

    def check_possible(self, adapters: Sequence[Adapter]) -> tuple[Adapter, ...]:
        """The adapters that act, of those that were asked for.

        Raises:
            InvalidRequest: this model takes none.
        """
        if adapters and self._apply is None:
            raise InvalidRequest(f"{self._name} was loaded in a way that takes no LoRA adapters; load it with another loader.", field="adapters")
        return in_use(adapters)

    def begin(self, fail: Callable[[Running, AppError], None]) -> None:
        """Before a step: where nothing runs, give the turn to who is next; `fail` ends those whose adapters cannot be used."""
        if not self._sure:
            self._use(self._scheduler.adapters)
        while (sequence := self._scheduler.begins_turn()) is not None:
            try:
                self._use(sequence.adapters)
            except AppError as error:
                fail(sequence, error)

    def lend(self, adapters: Sequence[Adapter], function: Callable[[], Result]) -> Result:
        """Do something with other adapters between two steps; running replies go on with their own.

        Raises:
            AppError: they cannot be used; nothing has changed then.
        """
        before = self._scheduler.adapters
        self._use(self.check_possible(adapters))
        try:
            return function()
        finally:
            self._use(before)

    def _use(self, adapters: tuple[Adapter, ...]) -> None:
        if self._apply is None or (self._sure and adapters == self._scheduler.adapters):
            return
        self._sure = False
        try:
            self._apply(adapters)
            self._scheduler.adapters = adapters
        except AppError:
            self._apply(self._scheduler.adapters)  # they were in use a moment ago; what failed is told
            self._sure = True
            raise
        self._sure = True
