"""Texts to vectors, for whoever asks: chooses the engine and hands the texts on."""

from __future__ import annotations

import time
from collections.abc import Sequence

from modules.core.errors import NotOffered
from modules.core.generation import EmbeddingRequest, Embeddings, Usage
from modules.core.model import AdapterChoice
from modules.services.adapters import AdapterService
from modules.services.models import ModelService
from modules.services.queues import Queues
from modules.services.usage import UsageService


class EmbeddingService:
    """Asks the engine of a model for vectors, loading it when needed."""

    def __init__(self, models: ModelService, adapters: AdapterService, usage: UsageService, queues: Queues) -> None:
        self._models = models
        self._adapters = adapters
        self._usage = usage
        self._queues = queues

    async def embed(self, request: EmbeddingRequest, model: str = "", adapters: Sequence[AdapterChoice] | None = None) -> Embeddings:
        """The vectors of texts, in their order; adapters as in a generation.

        Raises:
            NoModelLoaded: nothing to answer with.
            NotOffered: the model makes no vectors.
            InvalidRequest: a text, an id or the dimensions cannot be used.
            Busy: as many requests for vectors wait as may.
            QuotaExceeded: as much was computed for this person today as may be.
        """
        await self._usage.check()
        engine = await self._models.get(model)
        if not engine.card.can_embed:
            raise NotOffered(f"{engine.name} makes no vectors here; choose an embedding model, or any model of this machine.")
        begun_s = time.monotonic()
        with self._queues.reading(engine, request.person):
            made = await engine.embed(request.model_copy(update={"adapters": await self._adapters.resolve(engine.card, adapters)}))
        self._usage.spent(engine.name, Usage(prompt_tokens=made.prompt_tokens), time.monotonic() - begun_s)
        return made
