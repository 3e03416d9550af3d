"""What an engine tells about its generations, gathered and delivered in few messages.

Knows sequences and their news; knows no model, no scheduler and no process.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from modules.core.errors import AppError
from modules.core.generation import Delta, Started
from modules.engine.sequence import Sequence

FLUSH_S = 0.05  # between deliveries, twenty times a second: each takes a millisecond of the cores, where a model computes on all of them, and has a browser draw
SOON_S = 0.05  # what so short a step will bring is waited for
TAKEN_SHARE, TAKEN_S = 0.15, 0.002  # of the step that brought a first token, and at most: so long its reader has the cores to himself
ALONE_TAKEN_S = 0.0008  # and at least, where nobody else is written for
PLACES_S = 0.1  # between reports of places in the queue


@dataclass(slots=True, eq=False)
class Generation:
    """Handle of one submitted generation. `cancel` may be called from any thread, also twice."""

    key: Any  # the caller's own name for it
    seed: int
    prompt_tokens: int
    cancelled: bool = False
    place: int = 0  # in the queue, 1 is next; 0 is not waiting
    probe: bool = False  # only asked for the likeliest next tokens
    send: Callable[[Generation], None] | None = field(default=None, repr=False)

    def cancel(self) -> None:
        """Stop it: no further token is written, and its slot is free before the next step."""
        self.cancelled = True
        if self.send is not None:
            self.send(self)


@dataclass(slots=True, eq=False)
class Event:
    """One piece of news about a generation; exactly one field after `generation` is set."""

    generation: Generation
    started: Started | None = None
    delta: Delta | None = None
    place: int | None = None
    error: AppError | None = None


Sink = Callable[[list[Event]], None]


class Outbox:
    """Gathers news and hands it to the sink: at once when something began or ended, else some twenty times a second."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._events: list[Event] = []
        self._changed: dict[Sequence, None] = {}  # with something new to deliver
        self._delivered_s = self._looked_s = 0.0
        self._places_s = 0.0
        self.urgent = False
        self.places_changed = False

    def add(self, event: Event, urgent: bool = True) -> None:
        """News that must not wait, or that may for so long as tokens do."""
        self._events.append(event)
        self.urgent = self.urgent or urgent

    def changed(self, sequence: Sequence) -> None:
        """A sequence has new tokens."""
        self._changed[sequence] = None

    def forget(self, sequence: Sequence) -> None:
        """A sequence ended; its last delta is added by itself."""
        self._changed.pop(sequence, None)

    def deliver(self, waiting: Iterable[Sequence], at_once: bool = False, begun_s: float = math.inf) -> None:
        """After a step, which began at `begun_s`, hand over what is due now rather than after the next one, or `at_once`; `waiting` is the queue in order."""
        now_s = time.monotonic()
        step_s, self._looked_s = now_s - self._looked_s, now_s
        if self.places_changed:
            self._report_places(waiting, now_s)
        if not (self.urgent or at_once) and now_s + step_s / 2 - self._delivered_s < FLUSH_S:
            return
        least_s = ALONE_TAKEN_S if len(self._changed) == 1 else 0.0
        for sequence in self._changed:
            self._events.append(Event(sequence.generation, delta=sequence.take_delta()))
        self._changed.clear()
        self.urgent = False
        if self._events:
            events, self._events = self._events, []
            self._delivered_s = now_s
            self._sink(events)
            # who passes a first token on would otherwise wait for the next step, which takes all cores: 5 of 26 ms (docs/lab-notes.md)
            if now_s > begun_s and any(event.started is not None for event in events):
                time.sleep(max(least_s, min(TAKEN_SHARE * (now_s - begun_s), TAKEN_S)))

    def before_step(self, waiting: Iterable[Sequence], expected_s: float) -> None:
        """Before the model runs: hand over what must not wait, or all there is where the prefill of the step will take long."""
        if self.places_changed:
            self._report_places(waiting, time.monotonic())
        self.urgent = self.urgent or expected_s > SOON_S
        if self.urgent:
            self.deliver(waiting)

    def _report_places(self, waiting: Iterable[Sequence], now_s: float) -> None:
        if now_s - self._places_s < PLACES_S:
            return
        self._places_s, self.places_changed = now_s, False
        for place, sequence in enumerate(waiting, 1):
            generation: Generation = sequence.generation
            if generation.place != place and not sequence.announced:
                generation.place = place
                self.add(Event(generation, place=place))
