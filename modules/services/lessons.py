"""What engines tell is kept: whether a model's own chat template fits it, and when an adapter was last in use.

Follows the status of the loaded models. Knows no page.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection

from modules.core.generation import EngineCard
from modules.services.library_facts import DOUBTS_LIMIT, FactStore, Learned
from modules.services.models import ModelService

log = logging.getLogger(__name__)

USE_GRAIN_S = 60.0


class EngineLessons:
    """Writes down what is new whenever the status changes. One event loop calls it."""

    def __init__(self, models: ModelService, model_facts: FactStore, adapter_facts: FactStore) -> None:
        self._models = models
        self._model_facts = model_facts
        self._adapter_facts = adapter_facts
        self._seen: frozenset[int] = frozenset()
        self._in_use: frozenset[tuple[int, str]] = frozenset()
        self._noted_s: dict[str, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Learn from every load from now on."""
        self._models.watch(self._changed)

    async def close(self) -> None:
        """Finish what is being written."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _changed(self) -> None:
        cards = self._models.status().loaded
        new = [card for card in cards if card.template_doubts is not None and card.pid not in self._seen]
        in_use = frozenset((card.pid, used.name) for card in cards for used in card.adapters)
        begun = {name for _, name in in_use - self._in_use}
        self._seen, self._in_use = frozenset(card.pid for card in cards), in_use
        if new or begun:
            self._begin(lambda: self._write(new, begun))

    def adapter_used(self, name: str) -> None:
        """A reply is being written with an adapter; kept once a minute."""
        now_s = time.monotonic()
        if now_s - self._noted_s.get(name, -USE_GRAIN_S) >= USE_GRAIN_S:
            self._noted_s[name] = now_s
            self._begin(lambda: self._write((), (name,)))

    def _begin(self, work: Callable[[], None]) -> None:
        task = asyncio.get_running_loop().create_task(asyncio.to_thread(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _write(self, cards: Collection[EngineCard], adapters: Collection[str]) -> None:
        now_s = round(time.time(), 3)
        try:
            for card in cards:
                self._model_facts.learn(Learned(name=card.name, examined_s=now_s, template_doubts=(card.template_doubts or ())[:DOUBTS_LIMIT]))
            for name in adapters:
                self._adapter_facts.learn(Learned(name=name, used_s=now_s))
        except OSError as error:
            log.warning("What was learned of %s could not be kept: %s", ", ".join([*(card.name for card in cards), *adapters]), error)
