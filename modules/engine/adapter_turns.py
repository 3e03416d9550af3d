"""The LoRA adapters of the next step: a model has one set for all of its slots, and this decides which one it is.

Knows the scheduler and the loader's function; knows no files. The engine thread alone uses it, between steps.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

from modules.core.errors import AppError, InvalidRequest
from modules.core.model import Adapter, in_use
from modules.engine.scheduler import Scheduler
from modules.engine.sequence import Sequence as Running
from modules.engine.shares import Share, decode_share

log = logging.getLogger(__name__)
Result = TypeVar("Result")
Apply = Callable[[Sequence[Adapter]], None]


class AdapterTurns:
    """Puts adapters into use. What a scheduler has cached stays with the adapters that it was computed with."""

    def __init__(self, scheduler: Scheduler, apply: Apply | None, name: str) -> None:
        self._scheduler = scheduler
        self._apply = apply
        self._name = name
        self._lent_tokens = 0  # that something else than a sequence has in the memory
        self.is_lent = False  # whether it is at work
        self._on_model: tuple[Adapter, ...] | None = scheduler.adapters  # None after a change that failed: any of them, or none

    def check_possible(self, adapters: Sequence[Adapter]) -> tuple[Adapter, ...]:
        """The adapters that act, of those that were asked for.

        Raises:
            InvalidRequest: this model takes none.
        """
        if adapters and self._apply is None:
            raise InvalidRequest(f"{self._name} was loaded in a way that takes no LoRA adapters; load it with another loader.", field="adapters")
        return in_use(adapters)

    def begin(self, fail: Callable[[Running, AppError], None]) -> None:
        """Before a step: give who is next the turn where nothing runs, and see that the model has the adapters of this turn.

        `fail` ends those whose adapters cannot be used, also who runs with some that cannot be put back.
        """
        while (sequence := self._scheduler.begins_turn()) is not None:
            try:
                self._put(sequence.adapters)
                self._scheduler.adapters = sequence.adapters
            except AppError as error:
                fail(sequence, error)
        try:
            self._put(self._scheduler.adapters)
        except AppError as error:
            for sequence in list(self._scheduler.running):
                fail(sequence, AppError(f"The adapters of this reply could not be put back into use: {error.message} The text so far is kept."))
            self._scheduler.adapters = ()
            self._put(())
            self.begin(fail)

    def lend(self, adapters: Sequence[Adapter], function: Callable[[], Result], tokens: int = 0) -> Result:
        """Do something with other adapters between two steps, with so many tokens in the memory; running replies go on with their own.

        Raises:
            AppError: they cannot be used; nothing has changed then.
        """
        wanted = self.check_possible(adapters)
        self._lent_tokens, self.is_lent = tokens, True
        try:
            self._put(wanted)
            return function()
        finally:
            self._lent_tokens, self.is_lent = 0, False
            self._give_back()

    def beside(self) -> list[Share]:
        """A step of the replies that run, while the model is lent; of none where it has other adapters meanwhile, or too little room."""
        decoding = self._scheduler.decoding() if self._on_model == self._scheduler.adapters else []
        has_room = decoding and self._scheduler.table.make_room(self._lent_tokens + len(decoding))
        return [decode_share(sequence) for sequence in decoding] if has_room else []

    def _give_back(self) -> None:
        """Put those of this turn back. Where that fails, `begin` tries once more, and tells who runs with them: it is nothing to who borrowed."""
        try:
            self._put(self._scheduler.adapters)
        except Exception:
            log.warning("Putting adapters back into use failed", exc_info=True)

    def _put(self, adapters: tuple[Adapter, ...]) -> None:
        if self._apply is None or adapters == self._on_model:
            return
        self._on_model = None
        self._apply(adapters)
        self._on_model = adapters
