"""The bookkeeping of engines: which models are loaded, crashed or asleep, when each was used, and which one makes room.

Starts and ends nothing itself. One event loop calls it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from modules.core.errors import EngineCrashed, NoModelLoaded
from modules.core.generation import EngineCard
from modules.core.model import Adapter
from modules.services.model_choices import LoadChoice
from modules.services.model_engine import ModelEngine

RESTART_LIMIT = 3
RESTART_WINDOW_S = 600.0


@dataclass
class Loaded:
    """A running engine and how it came to be."""

    client: ModelEngine
    choice: LoadChoice
    used_s: float

    @property
    def takes_room(self) -> bool:
        """Whether it holds memory of this machine; a model of another server does not."""
        return not self.client.card.host

    @property
    def idle_s(self) -> float:
        """For how long nobody has used it; running and waiting replies are use."""
        return min(self.client.idle_s, time.monotonic() - self.used_s)


@dataclass(frozen=True)
class Away:
    """A model that holds no memory and is loaded again when it is used."""

    choice: LoadChoice
    used_s: float
    cause: str = ""  # sentence of its crash
    sees: bool | None = None  # whether it took images; None: not known

    @property
    def asleep(self) -> bool:
        """Whether it was unloaded because nobody used it; otherwise it crashed."""
        return not self.cause


class LoadedModels:
    """Loaded models by name, and those that come back when they are used.

    Both together are at most `limit`, but for pinned ones and those of other servers.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._loaded: dict[str, Loaded] = {}
        self._away: dict[str, Away] = {}
        self._crashes: dict[str, deque[float]] = {}

    # ---- look ------------------------------------------------------------------------------------------------------

    def all(self) -> tuple[Loaded, ...]:
        """All engines, also one whose end is not known yet."""
        return tuple(self._loaded.values())

    def cards(self) -> tuple[EngineCard, ...]:
        """What the loaded models tell about themselves, the most recently used first."""
        return tuple(self._loaded[name].client.card for name in self.names())

    def names(self) -> tuple[str, ...]:
        """Names of the loaded models, most recently used first."""
        alive = [name for name, entry in self._loaded.items() if entry.client.alive]
        return tuple(sorted(alive, key=lambda name: -self._loaded[name].used_s))

    def asleep(self) -> tuple[str, ...]:
        """Names of the models that sleep, most recently used first."""
        names = [name for name, away in self._away.items() if away.asleep]
        return tuple(sorted(names, key=lambda name: -self._away[name].used_s))

    def coming_back_with(self) -> dict[str, tuple[Adapter, ...]]:
        """The adapters that models which sleep or crashed have again when they are used."""
        return {name: away.choice.adapters for name, away in self._away.items() if away.choice.adapters}

    def current(self) -> str:
        """The model used last, loaded or asleep; else the one that crashed last; else nothing."""
        used_s = {name: self._loaded[name].used_s for name in self.names()} | {name: self._away[name].used_s for name in self.asleep()}
        return max(used_s, key=lambda name: used_s[name], default=next(reversed(self._away), ""))

    def sees(self) -> bool | None:
        """Whether the current model takes images, also while it is away; None: not known."""
        name = self.current()
        entry, away = self.get(name), self._away.get(name)
        return entry.client.card.vision if entry is not None else away.sees if away is not None else None

    def get(self, name: str) -> Loaded | None:
        """A loaded model whose engine runs."""
        entry = self._loaded.get(name)
        return entry if entry is not None and entry.client.alive else None

    def to_revive(self, name: str) -> LoadChoice | None:
        """How a model that crashed or sleeps is loaded again; None if it does neither.

        Raises:
            EngineCrashed: too often lately.
        """
        away = self._away.get(name)
        if away is None:
            return None
        crashes = sum(time.monotonic() - at_s < RESTART_WINDOW_S for at_s in self._crashes.get(name, ()))
        if crashes > RESTART_LIMIT and not away.asleep:
            raise EngineCrashed(
                f"The engine of {name} crashed {crashes} times in {RESTART_WINDOW_S / 60:.0f} minutes and is not started again by itself. "
                f"Last cause: {away.cause} Load it from the Models page with a smaller context, or choose another model."
            )
        return away.choice

    def as_it_was(self, choice: LoadChoice) -> LoadChoice:
        """The same choice with the adapters the model had when it fell asleep."""
        away = self._away.get(choice.name)
        return away.choice if away is not None and away.asleep and away.choice == choice else choice

    # ---- room ------------------------------------------------------------------------------------------------------

    def leaving(self, coming: str, pinned: Collection[str]) -> list[str]:
        """Names that make room for `coming`: itself if loaded, dead ones, then the least recently used that is not pinned.

        Raises:
            NoModelLoaded: only pinned models could make room.
        """
        leaving = [name for name, entry in self._loaded.items() if name == coming or not entry.client.alive]
        others = [name for name, entry in self._loaded.items() if entry.takes_room and name not in leaving]
        others.sort(key=lambda name: self._loaded[name].used_s)
        surplus = max(0, len(others) + 1 - self._limit)
        free = [name for name in others if name not in pinned]
        if surplus > len(free):
            held = " and ".join(f"“{name}”" for name in others if name in pinned)
            raise NoModelLoaded(
                f"There is no room for “{coming}”: the most models that may be loaded at the same time is {self._limit}, and {held} "
                f"{'is' if len(others) - len(free) == 1 else 'are'} pinned. Unpin or unload one on the Models page, or raise --loaded-models."
            )
        return leaving + free[:surplus]

    def idle(self, limit_s: float, pinned: Collection[str]) -> list[str]:
        """Names of the models that nobody used for so long and that are not pinned."""
        return [name for name, entry in self._tiring(pinned) if entry.idle_s >= limit_s]

    def next_idle_s(self, limit_s: float, pinned: Collection[str]) -> float:
        """After how many seconds `idle` may have something to say: at most `limit_s`, as nobody can be idle before."""
        left_s = (limit_s - entry.idle_s for _, entry in self._tiring(pinned))
        return max(0.0, min(left_s, default=limit_s))

    def _tiring(self, pinned: Collection[str]) -> list[tuple[str, Loaded]]:
        """Those that fall asleep when nobody uses them."""
        return [(name, entry) for name, entry in self._loaded.items() if name not in pinned and entry.client.alive and entry.takes_room]

    # ---- change ----------------------------------------------------------------------------------------------------

    def put(self, client: ModelEngine, choice: LoadChoice) -> None:
        """A model has been loaded."""
        self._loaded[choice.name] = Loaded(client, choice, time.monotonic())
        self._away.pop(choice.name, None)

    def use(self, name: str) -> None:
        """Somebody uses a loaded model."""
        if name in self._loaded:
            self._loaded[name].used_s = time.monotonic()

    def take(self, name: str) -> Loaded | None:
        """Take a loaded model out, to end its engine; it does not come back by itself."""
        return self._loaded.pop(name, None)

    def crash(self, choice: LoadChoice, cause: str) -> None:
        """Its engine ended by itself, with a sentence."""
        self._crashes.setdefault(choice.name, deque(maxlen=RESTART_LIMIT + 1)).append(time.monotonic())
        self._leave(choice, cause)

    def sleep(self, name: str) -> Loaded:
        """Take a loaded model out, to end its engine; it comes back when it is used."""
        entry = self._loaded[name]
        self._leave(entry.choice)
        return entry

    def _leave(self, choice: LoadChoice, cause: str = "") -> None:
        entry = self._loaded.pop(choice.name, None)
        self._away.pop(choice.name, None)  # the last that went stands last
        if entry is None:
            self._away[choice.name] = Away(choice, time.monotonic(), cause)
        else:
            self._away[choice.name] = Away(entry.choice, entry.used_s, cause, entry.client.card.vision)

    def forget(self, name: str) -> bool:
        """A model that crashed or sleeps does not come back by itself any more; whether it would have."""
        return self._away.pop(name, None) is not None

    def forget_surplus(self, pinned: Collection[str]) -> None:
        """Those that crashed or sleep make room too, the longest gone first."""
        for name in [name for name in self._away if name not in pinned]:
            if len(self._away) + sum(entry.takes_room for entry in self._loaded.values()) <= self._limit:
                return
            del self._away[name]

    def rename(self, names: Mapping[str, str]) -> None:
        """Models have other names now, old → new, or are gone: old → nothing. None of them is loaded."""
        moved = [replace(away, choice=replace(away.choice, name=names.get(name, name))) for name, away in self._away.items()]
        self._away = {away.choice.name: away for away in moved if away.choice.name}
