"""How likely texts are to a model, for whoever asks: each token's log-probability given all before it, and nothing is written."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from modules.core.errors import ContextOverflow, NotOffered
from modules.core.generation import Usage
from modules.core.model import AdapterChoice
from modules.engine.prefixes import common_prefix
from modules.services.adapters import AdapterService
from modules.services.model_engine import ModelEngine
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
        known = await self._ids(engine, context) if context else []
        found: list[Score] = []
        read = 0
        try:
            with self._queues.reading(engine, person):
                for text in texts:
                    await self._usage.check()  # each of them may have been the last
                    ids = await self._ids(engine, context + text)
                    start = common_prefix(known, ids, min(len(known), len(ids))) or int(ids[:1] == [engine.card.bos_id])
                    values: list[float | None] = [None, *await engine.score(ids, chosen, person)]
                    found.append(Score(tuple(ids[start:]), tuple(values[start : len(ids)])))
                    read += len(ids)
        finally:
            self._usage.spent(engine.name, Usage(prompt_tokens=read), time.monotonic() - begun_s)
        return Scores(engine.name, tuple(found), read)

    async def _ids(self, engine: ModelEngine, text: str) -> list[int]:
        """As a prompt is read: behind the token for that, unless it begins with it."""
        try:
            ids = await engine.tokenize(text)
        except ContextOverflow as error:
            told = f"A text has {len(text):,} characters, with its context, which is more than {engine.name} reads. Shorten it, or load the model with a longer context."
            raise ContextOverflow(told, field="text", **{name: value for name, value in error.details.items() if name != "field"}) from error
        bos = engine.card.bos_id
        return ids if bos is None or ids[:1] == [bos] else [bos, *ids]
