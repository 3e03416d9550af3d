"""Who waits and runs at each loaded model, as the web process knows it: how long a wait will be, how many of them one person may have, and stopping them.

The order is the engine's (`engine/waiting.py`). An expected wait comes from how long the last requests of a model held a slot; before some have ended nothing is said.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import time
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from modules.core.errors import Busy, InvalidRequest, NotFound
from modules.core.generation import GenerationRequest
from modules.core.person import asking
from modules.core.settings import Settings
from modules.engine.client_generation import ClientGeneration, Ending
from modules.services.model_engine import ModelEngine

MEASURED = 16  # requests that ended last, of each model
ENOUGH = 3  # measured before anything is expected


@dataclass(eq=False)
class Asked:
    """One request that an engine has or is about to get."""

    model: str
    person: str
    owner: str | None  # the person who asked, where people are told apart
    client: str
    slots: int  # of its engine; 0 where another server decides
    asked_s: float = field(default_factory=time.time)
    answer_id: str = ""  # of the API's answer that it is a part of
    _generation: weakref.ref[ClientGeneration] | None = None

    @property
    def generation(self) -> ClientGeneration | None:
        """Its handle, as long as anybody has it."""
        return self._generation() if self._generation is not None else None

    @property
    def runs(self) -> bool:
        """Whether it has a slot."""
        generation = self.generation
        return generation is not None and generation.started is not None

    @property
    def place(self) -> int | None:
        """In the queue, 1 is next; None when it does not wait, or that is not known yet."""
        generation = self.generation
        return generation.place if generation is not None else None


class Queues:
    """What all engines were asked and have not ended."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._numbers = itertools.count()
        self._asked: dict[int, Asked] = {}
        self._measured: dict[str, deque[float]] = {}  # seconds with a slot, by model
        self._reading: list[tuple[str, str]] = []  # model and person of each request that has texts read, and none written

    @contextmanager
    def asking_for(self, engine: ModelEngine, request: GenerationRequest) -> Iterator[Asked]:
        """A place for a request, which `begun` has to be told of before this ends.

        Raises:
            Busy: as many of this person wait as may, or the engine's queue is full; with `retry_after_s` where that can be told.
        """
        who = asking()
        asked = Asked(engine.name, request.person, who.id if who is not None else None, request.client, 0 if engine.card.host else engine.card.slots)
        self._check(asked)
        number = next(self._numbers)
        self._asked[number] = asked
        try:
            yield asked
        except Busy as error:
            raise Busy(f"{error.message}{self._when_free(engine.name)}", **{"retry_after_s": self.retry_after_s(engine.name), **error.details}) from error
        finally:
            generation = asked.generation
            if generation is None:
                del self._asked[number]
            else:
                generation.expect = partial(self._expected_s, asked)
                generation.when_ended(partial(self._ended, number))

    def check_many(self, engine: ModelEngine, count: int) -> None:
        """Whether so many texts of one request could all run or wait, if nobody else asked for any.

        Raises:
            InvalidRequest: no; trying again would change nothing.
        """
        slots, limit = engine.card.slots, self._limit
        if not engine.card.host and count > slots + limit:
            raise InvalidRequest(
                f"This request asks for {count} texts; {engine.name} writes {slots} at once and {limit} more may wait (queue_limit, queue_limit_per_person). "
                f"Ask for at most {slots + limit} in one request.",
                field="prompt",
            )

    @contextmanager
    def reading(self, engine: ModelEngine, person: str) -> Iterator[None]:
        """A place for a request that has texts read and none written, for vectors or scores; a model works on one of them at a time.

        Raises:
            Busy: as many of this person, or of all, wait as may.
        """
        of_model = [who for model, who in self._reading if model == engine.name]
        for waiting, limit, whose in ((of_model.count(person), self._limit, "of your "), (len(of_model), self._settings.queue_limit, "")):
            if not engine.card.host and waiting > limit:
                raise Busy(
                    f"{waiting} {whose}requests for vectors and scores wait for {engine.name}; the limit is {limit} (queue_limit, queue_limit_per_person). "
                    "Wait until one of them has ended, or send more texts in one request.",
                    place=waiting + 1,
                    limit=limit,
                    retry_after_s=1,
                )
        place = (engine.name, person)
        self._reading.append(place)
        try:
            yield
        finally:
            self._reading.remove(place)

    def begun(self, asked: Asked, generation: ClientGeneration) -> None:
        """The engine took it."""
        asked._generation = weakref.ref(generation)

    def expected_s(self, model: str, place: int | None) -> float | None:
        """How long who is at a place will wait for a slot, in seconds; None where that cannot be told."""
        measured = self._measured.get(model, ())
        if place is None or len(measured) < ENOUGH:
            return None
        same = [asked for asked in self._asked.values() if asked.model == model]
        slots = max((asked.slots for asked in same), default=0)
        at_once = max(1, min(slots, sum(asked.runs for asked in same)))
        return place * (sum(measured) / len(measured)) / at_once

    def retry_after_s(self, model: str) -> int:
        """After how many seconds a place in a full queue should have become free; at least one."""
        return max(1, math.ceil(self.expected_s(model, 1) or 1.0))

    def name(self, generations: Sequence[ClientGeneration], answer_id: str) -> None:
        """These make up the answer of that id."""
        for asked in self._asked.values():
            if asked.generation in generations:
                asked.answer_id = answer_id

    def _when_free(self, model: str) -> str:
        """A sentence to follow a refusal, where something can be told."""
        return "" if self.expected_s(model, 1) is None else f" A place should be free in about {self.retry_after_s(model)} s."

    def rows(self) -> tuple[Asked, ...]:
        """What who asks now has asked, those that run first, then by place: all, where nobody is told apart, or for who manages the server."""
        who = asking()
        theirs = [asked for asked in self._asked.values() if who is None or who.manages or asked.owner == who.id]
        return tuple(sorted(theirs, key=lambda asked: (not asked.runs, asked.place or math.inf, asked.asked_s)))

    async def stop(self, answer_id: str = "") -> None:
        """Stop the answer of that id, whoever knows it, or without one everything of who asks, and nothing of others. They end as cancelled, with the text so far.

        Raises:
            NotFound: none of that id runs.
        """
        who = asking()
        found = [asked for asked in self._asked.values() if (asked.answer_id == answer_id if answer_id else who is None or asked.owner == who.id)]
        if answer_id and not found:
            raise NotFound(f"No answer with the id “{answer_id[:100]}” is being written; it may have ended.", field="id")
        await asyncio.gather(*(generation.cancel() for asked in found if (generation := asked.generation) is not None))

    def _expected_s(self, asked: Asked) -> float | None:
        return self.expected_s(asked.model, asked.place)

    def _ended(self, number: int, ending: Ending) -> None:
        asked = self._asked.pop(number)
        if ending.slot_s is not None:
            self._measured.setdefault(asked.model, deque(maxlen=MEASURED)).append(ending.slot_s)

    @property
    def _limit(self) -> int:
        """How many requests of one person may wait for one model."""
        settings = self._settings
        if settings.queue_limit_per_person:
            return min(settings.queue_limit_per_person, settings.queue_limit)
        is_shared = settings.multi_user or not settings.is_local or asking() is not None
        return max(1, settings.queue_limit // 2) if is_shared else settings.queue_limit

    def _check(self, asked: Asked) -> None:
        """Whether this person may have one more waiting. An engine's own limit, for all together, is the engine's."""
        if not asked.slots:
            return
        same = [other for other in self._asked.values() if other.model == asked.model]
        own = [other for other in same if other.person == asked.person]
        have = max(sum(other.runs for other in own), asked.slots - (len(same) - len(own)))  # slots, taken or free to take
        waiting, limit = len(own) - have, self._limit
        if limit < self._settings.queue_limit and waiting >= limit:
            raise Busy(
                f"{waiting} of your requests wait for {asked.model}, and one person may have {limit} waiting (queue_limit_per_person), so that others get their turn. "
                f"Wait until one of them has ended, then try again.{self._when_free(asked.model)}",
                place=waiting + 1,
                limit=limit,
                retry_after_s=self.retry_after_s(asked.model),
            )
