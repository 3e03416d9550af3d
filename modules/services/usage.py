"""What each person has the models compute, by day, and how much of that they may: counted while it is computed, looked at before the next request.

Where nobody is told apart all of it is one person's. What came last is written every few seconds: a crash loses at most that. Days are those of UTC.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

from modules.core.errors import AppError, NotFound, QuotaExceeded
from modules.core.generation import Usage
from modules.core.person import FIRST_PERSON, asking
from modules.core.settings import Settings
from modules.services.storage import Storage, Stores
from modules.store.usage_records import Spender, Spent

if TYPE_CHECKING:
    from modules.engine.client_generation import ClientGeneration, Ending

__all__ = ["Quota", "Spender", "Spent", "UsageService"]

log = logging.getLogger(__name__)

WRITE_S = 2.0  # between two writes
DAY_S = 24 * 3600
LOOK_AGAIN_S = 2.5  # at the limits of those for whom something is being written
THE_SERVER = ""  # what it computes by itself, such as the look at a template


@dataclass(frozen=True, slots=True)
class Quota:
    """A person's day: what is used, what may be (0: no limit), and when the count begins anew."""

    used_tokens: int
    limit_tokens: int
    resets_in_s: int


@dataclass(frozen=True, slots=True)
class _Open:
    """A generation that runs or waits: whose it is, and whether a quota of theirs may end it."""

    person: str
    generation: weakref.ref[ClientGeneration]
    limited: bool


class UsageService:
    """Counts for everybody, and refuses who has had enough for today."""

    def __init__(self, storage: Storage, settings: Settings, now_s: Callable[[], float] = time.time) -> None:
        self._storage = storage
        self._settings = settings
        self._now_s = now_s
        self._fresh: dict[Spender, Spent] = {}  # not written yet
        self._lock = asyncio.Lock()  # what is on its way is neither here nor there: who reads waits for it
        self._numbers = itertools.count()
        self._open: dict[int, _Open] = {}
        self._task: asyncio.Task[None] | None = None
        self._watch: asyncio.Task[None] | None = None

    # ---- told by others --------------------------------------------------------------------------------------------

    def begun(self, generation: ClientGeneration, *, by_itself: bool = False) -> None:
        """A generation of who asks now; what it costs is counted when it has ended. One that nobody asked for is the server's own.

        It ends with an error once its person has reached their limit.
        """
        person = THE_SERVER if by_itself and asking() is None else _who()
        number = next(self._numbers)
        limited = person != THE_SERVER and (asking() is not None or bool(self._settings.daily_tokens))
        self._open[number] = _Open(person, weakref.ref(generation), limited)
        if limited and self._watch is None:
            self._watch = asyncio.get_running_loop().create_task(self._end_beyond_limits())
        generation.when_ended(partial(self._ended, number, person, generation.model))

    def spent(self, model: str, usage: Usage, compute_s: float) -> None:
        """Something else than a generation was computed for who asks."""
        self.note(_who(), model, Spent(1, usage.prompt_tokens, usage.reused_tokens, usage.completion_tokens, compute_s))

    def note(self, person: str, model: str, spent: Spent) -> None:
        """Count a request that has ended."""
        who = Spender(person, self.today, model)
        self._fresh[who] = self._fresh.get(who, Spent()) + spent
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._write_later())

    def _ended(self, number: int, person: str, model: str, ending: Ending) -> None:
        usage = ending.usage
        del self._open[number]
        self.note(person, model, Spent(1, usage.prompt_tokens, usage.reused_tokens, usage.completion_tokens, ending.slot_s or 0.0))

    # ---- quotas ----------------------------------------------------------------------------------------------------

    async def check(self) -> None:
        """Whether who asks may have more computed today.

        Raises:
            QuotaExceeded: no; with the limit, what was used, and when it begins anew.
        """
        if asking() is None and not self._settings.daily_tokens:
            return
        refusal = _refusal(await self.quota())
        if refusal is not None:
            raise refusal

    async def _end_beyond_limits(self) -> None:
        """Look every few seconds, as long as something is written, whether its person may have more."""
        try:
            while people := {one.person for one in self._open.values() if one.limited}:
                await asyncio.sleep(LOOK_AGAIN_S)
                for person in people:
                    with contextlib.suppress(AppError):  # the store is busy: seen the next time
                        await self._end_beyond_limit(person)
        finally:
            self._watch = None

    async def _end_beyond_limit(self, person: str) -> None:
        refusal = _refusal(await self._quota_of(person))
        for one in tuple(self._open.values()) if refusal is not None else ():
            generation = one.generation()
            if one.person == person and generation is not None and refusal is not None:
                await generation.end_with(refusal)

    async def quota(self) -> Quota:
        """The present day of who asks."""
        return await self._quota_of(_who())

    async def _quota_of(self, person: str) -> Quota:
        day = self.today
        async with self._lock:
            limit, stored = await self._storage.run(lambda stores: (self._limit(stores, person), stores.usage.counted_tokens(person, day)))
            fresh = sum(spent.counted_tokens for who, spent in self._fresh.items() if (who.person, who.day) == (person, day))
            running = sum(_so_far(one.generation()) for one in self._open.values() if one.person == person)
        return Quota(stored + fresh + running, limit, DAY_S - int(self._now_s()) % DAY_S)

    def _limit(self, stores: Stores, person: str) -> int:
        """What somebody may: as their account says, or where that says nothing, as the settings do."""
        try:
            own = stores.users.get(person).user.daily_tokens
        except NotFound:
            own = None
        return self._settings.daily_tokens if own is None else own

    # ---- read ------------------------------------------------------------------------------------------------------

    @property
    def today(self) -> str:
        """The present day, of UTC."""
        return _day(self._now_s())

    async def own(self, days: int) -> Mapping[Spender, Spent]:
        """Of who asks, of so many days, the newest first."""
        return await self._read(days, _who())

    async def everybody(self, days: int) -> Mapping[Spender, Spent]:
        """Of all people."""
        return await self._read(days, None)

    async def _read(self, days: int, person: str | None) -> Mapping[Spender, Spent]:
        first = _day(self._now_s() - timedelta(days=days - 1).total_seconds())
        async with self._lock:
            found = await self._storage.run(lambda stores: stores.usage.read(first, person))
            for who, spent in self._fresh.items():
                if who.day >= first and person in (None, who.person):
                    found[who] = found.get(who, Spent()) + spent
        return dict(sorted(found.items(), key=lambda row: (-int(row[0].day.replace("-", "")), *row[0])))

    # ---- writing ---------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Write what is not written yet."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._write()

    async def _write_later(self) -> None:
        try:
            while self._fresh:
                await asyncio.sleep(WRITE_S)
                await asyncio.shield(self._write())
        finally:
            self._task = None

    async def _write(self) -> None:
        async with self._lock:
            spent, self._fresh = self._fresh, {}
            if not spent:
                return
            try:
                await self._storage.run(lambda stores: stores.usage.add(spent))
            except AppError as error:
                log.warning("What was used could not be saved: %s", error.message)
                for who, much in spent.items():  # tried again
                    self._fresh[who] = self._fresh.get(who, Spent()) + much


def _refusal(quota: Quota) -> QuotaExceeded | None:
    """What is said to who has had enough for today."""
    if not quota.limit_tokens or quota.used_tokens < quota.limit_tokens:
        return None
    return QuotaExceeded(
        f"Your limit of {quota.limit_tokens:,} tokens a day is reached: {quota.used_tokens:,} were computed for you today. "
        f"The count begins anew at 00:00 UTC, in {_time_words(quota.resets_in_s)}; an administrator can raise the limit.",
        limit=quota.limit_tokens,
        used=quota.used_tokens,
        retry_after_s=quota.resets_in_s,
    )


def _who() -> str:
    person = asking()
    return person.id if person is not None else FIRST_PERSON


def _so_far(generation: ClientGeneration | None) -> int:
    """What a generation that has not ended has had computed, as a quota counts it."""
    if generation is None or generation.started is None:
        return 0
    return generation.started.prompt_tokens - generation.started.reused_tokens + generation.tokens


def _day(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d")


def _time_words(seconds: int) -> str:
    minutes = -(-seconds // 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
