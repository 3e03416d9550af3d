"""How likely texts are to a model, for whoever asks: each token's log-probability given all before it, and nothing is written."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from modules.core.errors import NotOffered
from modules.core.generation import Usage
from modules.core.model import AdapterChoice
from modules.engine.prefixes import common_prefix
from modules.services.adapters import AdapterService
from modules.services.models import ModelService
from modules.services.queues import Queues
from modules.services.usage import UsageService


@dataclass(frozen=True, slots=True)
class Score:
    """One text: its tokens and their log-probabilities, nats. None for a first token that nothing stands before."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float | None, ...]

    @property
    def total(self) -> float:
        """Of the text, as far as that is known: the sum."""
        return sum(value for value in self.logprobs if value is not None)

    @property
    def scored(self) -> int:
        """Tokens whose log-probability is known."""
        return sum(value is not None for value in self.logprobs)


@dataclass(frozen=True, slots=True)
class Scores:
    """Those of all texts, and what it took."""

    model: str
    texts: tuple[Score, ...]
    read_tokens: int


class ScoreService:
    """Asks the engine of a model, loading it when needed; text by text, so that others are served between them."""

    def __init__(self, models: ModelService, adapters: AdapterService, usage: UsageService, queues: Queues) -> None:
        self._models = models
        self._adapters = adapters
        self._usage = usage
        self._queues = queues

    async def score(
        self, texts: Sequence[str], person: str, *, context: str = "", model: str = "", adapters: Sequence[AdapterChoice] | None = None
    ) -> Scores:
        """Score texts, each behind the same context, whose own tokens are not counted; adapters as in a generation.

        Raises:
            NoModelLoaded: nothing to answer with.
            NotOffered: another server's model.
            ContextOverflow: a text is longer than the context of the model.
            Busy: as many requests wait as may.
            QuotaExceeded: as much was computed for this person today as may be.
        """
        await self._usage.check()
        engine = await self._models.get(model)
        if engine.card.host:
            raise NotOffered(f"{engine.name} runs on {engine.card.host}, which is not asked for scores; load a model on this machine.")
        chosen, begun_s = await self._adapters.resolve(engine.card, adapters), time.monotonic()
        before = [] if engine.card.bos_id is None else [engine.card.bos_id]
        known = await engine.tokenize(context) if context else []
        found, read = [], 0
        with self._queues.reading(engine, person):
            for text in texts:
                ids = [*before, *await engine.tokenize(context + text)]
                start = len(before) + common_prefix(known, ids[len(before) :], min(len(known), len(ids) - len(before)))
                values: list[float | None] = [None, *await engine.score(ids, chosen)]
                found.append(Score(tuple(ids[start:]), tuple(values[start : len(ids)])))
                read += len(ids)
        self._usage.spent(engine.name, Usage(prompt_tokens=read), time.monotonic() - begun_s)
        return Scores(engine.name, tuple(found), read)
