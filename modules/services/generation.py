"""One way to ask a model for text, for the page and the API alike.

Chooses the engine and hands the request on; what happens inside is the engine's business.
"""

from __future__ import annotations

from collections.abc import Sequence

from modules.core.errors import NoModelLoaded
from modules.core.generation import ChatPrompt, EngineCounters, GenerationRequest, TextPrompt, TokenLogprob
from modules.core.model import AdapterChoice
from modules.engine.client_generation import ClientGeneration
from modules.services.adapters import AdapterService
from modules.services.model_engine import ModelEngine
from modules.services.models import ModelService
from modules.services.templates import TemplateService

__all__ = ["ClientGeneration", "GenerationService"]

FALLBACK_TEMPLATE = "Plain"


class GenerationService:
    """Submits requests to the engine of a model, loading it when needed."""

    def __init__(self, models: ModelService, templates: TemplateService, adapters: AdapterService) -> None:
        self._models = models
        self._adapters = adapters
        self._templates = templates

    async def submit(
        self, request: GenerationRequest, model: str = "", adapters: Sequence[AdapterChoice] | None = None
    ) -> ClientGeneration:
        """Start a generation with exactly these adapters; iterate the result for deltas, `cancel()` or close it to stop.

        None takes the adapters in use on the model; an empty sequence takes none.

        Raises:
            NoModelLoaded: nothing to answer with.
            InvalidRequest: an adapter does not fit the model.
            Busy: the queue is full.
        """
        engine = await self._models.get(model)
        prompt = request.prompt
        if isinstance(prompt, ChatPrompt):
            request = request.model_copy(update={"prompt": await self._with_template(prompt, engine)})
        return await engine.submit(request.model_copy(update={"adapters": await self._adapters.resolve(engine.card, adapters)}))

    async def _with_template(self, prompt: ChatPrompt, engine: ModelEngine) -> ChatPrompt:
        """A model without a chat template of its own gets the plainest prompt template, so that a base model can be talked to."""
        if prompt.template is not None or engine.card.template_origin:
            return prompt
        return prompt.model_copy(update={"template": await self._templates.source(FALLBACK_TEMPLATE)})

    async def count(self, prompt: ChatPrompt, model: str = "") -> tuple[int, int]:
        """Tokens of a rendered chat and the context length."""
        engine = await self._models.get(model)
        return await engine.count(await self._with_template(prompt, engine)), engine.card.context_length

    async def tokenize(self, text: str, model: str = "") -> list[int]:
        """Token ids of a text."""
        engine = await self._models.get(model)
        return await engine.tokenize(text)

    async def next_tokens(
        self, text: str, count: int, model: str = "", adapters: Sequence[AdapterChoice] | None = None
    ) -> tuple[TokenLogprob, ...]:
        """The likeliest next tokens after a text; adapters as in `submit`."""
        engine = await self._models.get(model)
        return await engine.next_tokens(TextPrompt(text=text), count, await self._adapters.resolve(engine.card, adapters))

    async def counters(self, model: str = "") -> EngineCounters:
        """What the engine of a loaded model is doing; a look loads and wakes nothing.

        Raises:
            NoModelLoaded: it is not loaded.
        """
        engine = self._models.loaded(model)
        if engine is None:
            raise NoModelLoaded("No model is loaded, so nothing is counted; load one on the Models page, or send a request that names one.")
        return await engine.counters()
