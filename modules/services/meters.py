"""What was done since the server started: requests with their times, what engines counted, answers by route.

Everything that only grows is kept here, in the web process, so that it goes on growing when an engine is unloaded, crashes and comes back.
Knows no format that others read it in. One event loop calls it.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

import psutil

from modules.core.errors import AppError
from modules.core.generation import EngineCounters, FinishReason, Usage, figures
from modules.engine.client_generation import ClientGeneration, Ending
from modules.loaders.machine import graphics_bytes_by_process
from modules.services.model_engine import ModelEngine
from modules.services.models import ModelService

KEPT_REQUESTS = 50  # of each model, the newest
LOOK_S = 2.0  # an engine that takes longer to say what it counts is shown as it was last heard
SHORT_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
LONG_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


@dataclass(frozen=True, slots=True)
class Timeline:
    """One request that has ended."""

    model: str
    ended_s: float  # seconds since 1970
    outcome: FinishReason
    first_token_s: float | None  # after the request
    usage: Usage


@dataclass(frozen=True, slots=True)
class TimeKind:
    """A time of every request that is kept in buckets; `of` leaves out requests that have none."""

    name: str
    meaning: str
    bounds: tuple[float, ...]
    of: Callable[[Ending], float | None]
    seen_from_here: bool = True  # also of a model of another server, which does not tell what happens inside


def _of_whole(value: Callable[[Usage], float]) -> Callable[[Ending], float | None]:
    return lambda ending: value(ending.usage) if ending.whole else None


def _per_token(ending: Ending) -> float | None:
    speed = ending.usage.tokens_per_s if ending.whole else 0.0
    return 1 / speed if speed else None


TIMES: tuple[TimeKind, ...] = (
    TimeKind("time_to_first_token", "From a request to its first token, without the loading of a model.", LONG_S, lambda ending: ending.first_token_s),
    TimeKind("time_per_output_token", "Time for each token after the first, a mean for each request.", SHORT_S, _per_token),
    TimeKind("queue_time", "Wait for a slot.", LONG_S, _of_whole(lambda usage: usage.queue_s), seen_from_here=False),
    TimeKind("prefill_time", "From the slot to the first token: the computation of the prompt.", LONG_S, _of_whole(lambda usage: usage.prefill_s), seen_from_here=False),
    TimeKind("longest_gap", "Longest pause between two tokens of a request.", LONG_S, _of_whole(lambda usage: usage.longest_gap_s), seen_from_here=False),
)


class Buckets:
    """How many values were at most each bound, and their sum."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self.sum = 0.0

    def note(self, value: float) -> None:
        """One more value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        """How many values."""
        return sum(self._counts)

    def cumulative(self) -> tuple[tuple[float, int], ...]:
        """Each bound with the number of values at most that; infinity, which counts all, is left out."""
        return tuple(zip(self._bounds, accumulate(self._counts), strict=False))


class Meters:
    """Counts and remembers. Front ends read it, services tell it."""

    def __init__(self, models: ModelService) -> None:
        self._models = models
        self._begun_s = time.monotonic()
        self._watched: weakref.WeakSet[ModelEngine] = weakref.WeakSet()
        self._counted: dict[str, Counter[str]] = {}
        self._known: weakref.WeakKeyDictionary[ModelEngine, Counter[str]] = weakref.WeakKeyDictionary()  # what of an engine is counted already
        self._heard: weakref.WeakKeyDictionary[ModelEngine, EngineCounters] = weakref.WeakKeyDictionary()
        self._times: dict[str, tuple[Buckets, ...]] = {}
        self._recent: dict[str, deque[Timeline]] = {}
        self.outcomes: Counter[tuple[str, str]] = Counter()  # by model and how they ended
        self.refused: Counter[str] = Counter()  # requests that no engine took, by kind of error
        self.answers: Counter[tuple[str, int]] = Counter()  # by route and status

    def start(self) -> None:
        """Listen to every engine from now on."""
        self._models.watch(self._changed)

    @property
    def uptime_s(self) -> float:
        """Since the server started."""
        return time.monotonic() - self._begun_s

    # ---- told by others --------------------------------------------------------------------------------------------

    def begun(self, generation: ClientGeneration) -> None:
        """An engine took a request."""
        engine = self._models.loaded(generation.model)
        is_elsewhere = engine is not None and bool(engine.card.host)
        if generation.model not in self._times:
            self._times[generation.model] = tuple(Buckets(kind.bounds) for kind in TIMES)
        generation.when_ended(partial(self._ended, generation.model, is_elsewhere))

    def _ended(self, model: str, is_elsewhere: bool, ending: Ending) -> None:
        self.outcomes[model, ending.outcome] += 1
        for kind, buckets in zip(TIMES, self._times[model], strict=True):
            value = kind.of(ending) if kind.seen_from_here or not is_elsewhere else None
            if value is not None:
                buckets.note(value)
        timeline = Timeline(model, time.time(), ending.outcome, ending.first_token_s, ending.usage)
        self._recent.setdefault(model, deque(maxlen=KEPT_REQUESTS)).append(timeline)

    def _changed(self) -> None:
        for name in self._models.loaded_names():
            engine = self._models.loaded(name)
            if engine is not None and engine not in self._watched:
                self._watched.add(engine)
                self._counted.setdefault(name, Counter())
                engine.on_counters = partial(self._hear, weakref.ref(engine))

    def _hear(self, which: weakref.ref[ModelEngine], counters: EngineCounters) -> None:
        """Add what is new since this engine last told; answers may overtake each other, so a smaller number is an older one."""
        engine = which()
        if engine is None:
            return
        self._heard[engine] = counters
        counted, known = self._counted.setdefault(engine.name, Counter()), self._known.setdefault(engine, Counter())
        for figure in figures():
            value = getattr(counters, figure.name)
            if figure.kind == "counter":
                counted[figure.name] += max(0, value - known[figure.name])
                known[figure.name] = max(value, known[figure.name])

    # ---- read ------------------------------------------------------------------------------------------------------

    async def look(self) -> Mapping[str, EngineCounters]:
        """What every loaded engine is doing now, by model; what they have counted is added to the totals."""
        engines = {name: engine for name in self._models.loaded_names() if (engine := self._models.loaded(name)) is not None}
        await asyncio.gather(*(self._ask(engine) for engine in engines.values()))
        return {name: self._heard[engine] for name, engine in engines.items() if engine in self._heard}

    async def _ask(self, engine: ModelEngine) -> None:
        try:
            counters = await asyncio.wait_for(engine.counters(), LOOK_S)
        except (AppError, TimeoutError):
            return  # it is about to end, or held up
        self._hear(weakref.ref(engine), counters)

    def totals(self) -> Mapping[str, Mapping[str, int]]:
        """What was counted since the server started, by model and name of the figure."""
        return self._counted

    def times(self) -> Mapping[str, tuple[Buckets, ...]]:
        """Times of the requests by model, as `TIMES` lists them."""
        return self._times

    def recent(self, model: str = "") -> tuple[Timeline, ...]:
        """Requests that have ended, the newest first; those of all models if none is named."""
        lists = self._recent.values() if not model else [self._recent.get(model, ())]
        return tuple(sorted((entry for kept in lists for entry in kept), key=lambda entry: -entry.ended_s))

    async def resident_bytes(self) -> Mapping[str, int]:
        """Memory of this process, under an empty name, and of the engines' processes by model."""
        return await asyncio.to_thread(_resident, {"": 0, **self._pids()})

    async def graphics_bytes(self) -> Mapping[str, int]:
        """Memory of graphics cards by model, where their driver tells it."""
        pids = self._pids()
        found = await asyncio.to_thread(graphics_bytes_by_process)
        return {name: found[pid] for name, pid in pids.items() if pid in found}

    def _pids(self) -> dict[str, int]:
        return {card.name: card.pid for card in self._models.status().loaded if card.pid and not card.host}


def _resident(pids: Mapping[str, int]) -> dict[str, int]:
    found = {}
    for name, pid in pids.items():
        try:
            found[name] = int(psutil.Process(pid or None).memory_info().rss)
        except psutil.Error:  # it ended meanwhile
            continue
    return found
