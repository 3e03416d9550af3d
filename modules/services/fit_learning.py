"""Learns from use: the peak of every engine's process and the speed of its replies, beside what was predicted for the way it was loaded.

Knows engines by their cards; knows no formula and no page.
"""

from __future__ import annotations

import asyncio
import statistics
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from modules.core.errors import AppError
from modules.core.generation import EngineCard, Usage
from modules.core.model import LoadOptions
from modules.engine.client import EngineClient
from modules.loaders.llama_cpp.memory import HELD_WIDE, was_mapped
from modules.loaders.llama_cpp.options import LlamaCppOptions
from modules.loaders.machine import graphics_bytes, peak_bytes
from modules.services.fit_expected import Expected, local_shape
from modules.services.fit_records import FitRecord, FitRecords
from modules.services.machine_speed import MachineSpeed

if TYPE_CHECKING:
    from modules.services.models import ModelService

LEAST_TOKENS = 24  # of a reply whose speed counts
SPEEDS_KEPT = 25
PAUSE_S = 1.0  # between the end of a reply and a look, so that many short ones cost one look
QUIET_S = 2.0


@dataclass
class _Seen:
    """One engine since it was loaded."""

    card: EngineCard
    speeds: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=SPEEDS_KEPT))  # tokens/s of a reply, tokens before its middle
    most_tokens: int = 0  # whose cache it holds
    spilled: bool = False  # whether conversations without a slot were kept in main memory
    used: bool = False
    looking: bool = False


class FitLearner:
    """Watches loads and replies. One event loop calls it."""

    def __init__(self, models: ModelService, records: FitRecords, speed: MachineSpeed) -> None:
        self._models = models
        self._records = records
        self._speed = speed
        self._seen: dict[int, _Seen] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """From now on."""
        self._models.watch(self._changed)

    async def close(self) -> None:
        """Finish what is being stored."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _changed(self) -> None:
        cards = {card.pid: card for card in self._models.status().loaded if card.pid and not card.host}
        self._seen = {pid: seen for pid, seen in self._seen.items() if pid in cards}
        for pid, card in cards.items():
            if pid in self._seen:
                continue
            engine = self._models.loaded(card.name)
            if not isinstance(engine, EngineClient):
                continue
            seen = self._seen[pid] = _Seen(card)
            engine.on_usage = partial(self._replied, seen)
            self._look(seen, 0.0)

    def _replied(self, seen: _Seen, usage: Usage, alone: bool) -> None:
        seen.used = True
        if alone and usage.completion_tokens >= LEAST_TOKENS and usage.tokens_per_s and not usage.drafted_tokens:  # with drafts it says nothing of the model
            seen.speeds.append((usage.tokens_per_s, usage.prompt_tokens + usage.completion_tokens // 2))
        self._look(seen, PAUSE_S)

    def _look(self, seen: _Seen, after_s: float) -> None:
        if seen.looking:
            return
        seen.looking = True
        task = asyncio.get_running_loop().create_task(self._learn(seen, after_s))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _learn(self, seen: _Seen, after_s: float) -> None:
        try:
            await asyncio.sleep(after_s)
            seen.looking = False
            engine = self._models.loaded(seen.card.name)
            if engine is None:
                return
            counters = await engine.counters()
            holds_all = seen.card.loader == "llama.cpp"  # it makes its cache at once, the other's grows with use
            seen.most_tokens = max(seen.most_tokens, counters.capacity_tokens if holds_all else counters.cached_tokens)
            seen.spilled |= counters.spilled_bytes + counters.disk_bytes + counters.moves > 0
            info = await self._models.find(seen.card.name)
            await asyncio.to_thread(self._store, seen, Path(info.path))
        except (AppError, ValueError):  # the model, or the way it was loaded, changed meanwhile
            seen.looking = False

    def _store(self, seen: _Seen, path: Path) -> None:
        card, real = seen.card, peak_bytes(seen.card.pid)
        if graphics_bytes(card.loader) or not real or seen.spilled:
            return  # a part lies where it is not measured, or saved conversations are measured too
        options = {**self._models.remembered(card.name).options, "slots": card.slots}
        if card.vision or LoadOptions(**{name: options[name] for name in ("draft_model", "draft_lookup") if name in options}).drafts_widely:
            return  # a projector or a second model is in the process, or a step writes several tokens: that says nothing of this model alone
        is_wide = any(HELD_WIDE in note for note in card.notes)
        mapped = was_mapped(LlamaCppOptions(**options), card.notes) if card.loader == "llama.cpp" else None
        expected = Expected(local_shape(path), card.loader, options, "float32", self._speed.known(card.loader), wide=is_wide, mapped=mapped)
        predicted = expected.needs.peak(seen.most_tokens)
        speeds = list(seen.speeds)
        told = [expected.tokens_per_s(tokens) for _, tokens in speeds]
        self._records.remember(
            FitRecord(
                card.name, card.loader, predicted, real, seen.used,
                statistics.median(told) if told else 0.0, statistics.median(speed for speed, _ in speeds) if speeds else 0.0,
            )
        )  # fmt: skip


def is_quiet(models: ModelService) -> bool:
    """Whether no model is loading or at work, nor was a moment ago."""
    status = models.status()
    engines = [models.loaded(card.name) for card in status.loaded]
    return status.loading is None and all(engine is None or engine.idle_s >= QUIET_S for engine in engines)
