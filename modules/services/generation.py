"""One way to ask a model for text, for the page and the API alike.

Chooses the engine and hands the request on; what happens inside is the engine's business.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from modules.core.errors import AppError, NoModelLoaded, NotFound
from modules.core.generation import (
    ChatPrompt,
    EngineCard,
    EngineCounters,
    GenerationRequest,
    Started,
    TextPrompt,
    TokenLogprob,
)
from modules.core.model import AdapterChoice, TemplateSource
from modules.core.params import GenerationParams
from modules.core.person import FIRST_PERSON, asking
from modules.core.tools import schemas_of
from modules.engine.client_generation import ClientGeneration
from modules.prompts.calls.formats import named
from modules.prompts.calls.stream import CallStream
from modules.prompts.fitting import character_limit
from modules.prompts.tool_use import reading
from modules.services.adapters import AdapterService
from modules.services.meters import Meters
from modules.services.model_engine import ModelEngine
from modules.services.models import ModelService
from modules.services.queues import Queues
from modules.services.templates import TemplateService
from modules.services.usage import UsageService

__all__ = ["CallStream", "ClientGeneration", "GenerationService", "call_stream"]

FALLBACK_TEMPLATE = "Plain"


def call_stream(started: Started | None, prompt: ChatPrompt) -> CallStream | None:
    """What tells calls of tools apart in the reply to a prompt; None where there are no tools, or another server does it."""
    if started is None or not started.call_format or not prompt.tools:
        return None
    return CallStream(reading(named(started.call_format), prompt.tools), schemas_of(prompt.tools), several=prompt.several_calls)


class GenerationService:
    """Submits requests to the engine of a model, loading it when needed."""

    def __init__(
        self, models: ModelService, templates: TemplateService, adapters: AdapterService, meters: Meters, queues: Queues, usage: UsageService, *, on_disk: bool = True
    ) -> None:
        """`on_disk`: what is computed for requests may be written there, where they allow it and main memory has no room."""
        self._on_disk = on_disk
        self._models = models
        self._meters = meters
        self._queues = queues
        self._usage = usage
        self._adapters = adapters
        self._templates = templates
        self._background: WeakSet[ClientGeneration] = WeakSet()  # nobody waits for these
        self._asked = 0
        self._own_templates: WeakKeyDictionary[ModelEngine, dict[str, Any]] = WeakKeyDictionary()  # as each engine told it

    async def submit(
        self, request: GenerationRequest, model: str = "", adapters: Sequence[AdapterChoice] | None = None, *, background: bool = False
    ) -> ClientGeneration:
        """Start a generation with exactly these adapters; iterate the result for deltas, `cancel()` or close it to stop.

        None takes the adapters in use on the model; an empty sequence takes none. One in the background is stopped by the next one that is not,
        and is no use of the model: it loads, wakes and keeps none.

        Raises:
            NoModelLoaded: nothing to answer with.
            InvalidRequest: an adapter does not fit the model.
            Busy: the queue is full, or as many requests of this person wait as may.
            QuotaExceeded: as much was computed for this person today as may be.
        """
        if not background:
            self._asked += 1
            for other in tuple(self._background):
                await other.cancel()
        asked = self._asked
        try:
            if not background:
                await self._usage.check()
            generation = await self._submit(self._present(model) if background else await self._models.get(model), request, adapters)
        except AppError as error:
            self._meters.refused[error.kind] += 1
            raise
        if background:
            self._background.add(generation)
            if asked != self._asked:  # somebody came meanwhile
                await generation.cancel()
        self._meters.begun(generation)
        self._usage.begun(generation, by_itself=background)
        return generation

    async def check_many(self, count: int, model: str = "") -> None:
        """Whether so many generations could be asked for at once.

        Raises:
            NoModelLoaded: nothing to answer with.
            InvalidRequest: more than may run and wait together.
        """
        self._queues.check_many(await self._models.get(model), count)

    async def _submit(self, engine: ModelEngine, request: GenerationRequest, adapters: Sequence[AdapterChoice] | None) -> ClientGeneration:
        prompt = request.prompt
        if isinstance(prompt, ChatPrompt):
            request = request.model_copy(update={"prompt": await self._with_template(prompt, engine)})
        person = request.person or (who.id if (who := asking()) is not None else FIRST_PERSON)
        more = {"adapters": await self._adapters.resolve(engine.card, adapters), "keep_on_disk": request.keep_on_disk and self._on_disk, "person": person}
        request = request.model_copy(update=more)
        with self._queues.asking_for(engine, request) as asked:
            generation = await engine.submit(request)
            self._queues.begun(asked, generation)
        return generation

    def template_in_force(self, card: EngineCard) -> str:
        """The prompt template that a loaded model gets where a request names none; empty is its own.

        One without a chat template of its own gets the plainest, so that a base model can be talked to.
        """
        return self._models.template_of(card.name) or ("" if card.template_origin else FALLBACK_TEMPLATE)

    async def _with_template(self, prompt: ChatPrompt, engine: ModelEngine) -> ChatPrompt:
        chosen = self.template_in_force(engine.card)
        if prompt.template is not None or not chosen:
            return prompt
        try:
            return prompt.model_copy(update={"template": await self._templates.source(chosen)})
        except NotFound as error:
            if not self._models.template_of(engine.name):
                raise
            raise NotFound(
                f"The prompt template “{chosen}”, chosen for {engine.name}, is no longer there. Choose another one on the Templates page.",
                field="prompt_template",
            ) from error

    async def resolved(self, request: GenerationRequest, model: str = "") -> GenerationRequest:
        """The request as `submit` would make it: with the template chosen for the model, as it is now.

        Raises:
            NoModelLoaded: nothing to answer with.
            NotFound: that template is gone.
        """
        if not isinstance(request.prompt, ChatPrompt):
            return request
        return request.model_copy(update={"prompt": await self._with_template(request.prompt, await self._models.get(model))})

    async def spelled_out(self, prompt: ChatPrompt, model: str, template_hash: str) -> ChatPrompt:
        """The prompt with the text of the model's own template, where it was written with that (as the hash tells); unchanged where it cannot be told any more."""
        engine = self._models.loaded(model)
        if prompt.template is not None or not template_hash or engine is None or engine.card.host:
            return prompt
        own = self._own_templates.get(engine)
        if own is None or own["hash"] != template_hash:
            try:
                own = self._own_templates[engine] = await engine.examine("template", {})
            except AppError:  # it ended just now
                return prompt
        if own["hash"] != template_hash:
            return prompt
        return prompt.model_copy(update={"template": TemplateSource(text=own["text"], origin=own["origin"])})

    async def count(self, prompt: ChatPrompt, model: str = "") -> tuple[int, int]:
        """Tokens of a rendered chat and the context length."""
        engine = await self._models.get(model)
        return await engine.count(await self._with_template(prompt, engine)), engine.card.context_length

    def character_limit(self) -> int | None:
        """Characters of a conversation beyond which the model that answers has no room for any; None while none is loaded, or where its server decides."""
        loaded = self._models.loaded()
        return None if loaded is None or loaded.card.host else character_limit(loaded.card.context_length)

    async def examine(self, question: str, values: Mapping[str, Any], model: str = "") -> dict[str, Any]:
        """What a prompt looks like, how a text is split, what the template is: a question of prompt_questions.py.

        Raises:
            InvalidRequest: it cannot be answered.
            NotOffered: the model is on another server.
        """
        engine = await self._models.get(model)
        return await engine.examine(question, values)

    async def render(self, prompt: ChatPrompt, params: GenerationParams, model: str = "") -> dict[str, Any]:
        """A chat prompt as the model would see it: the answer to the question `render`, with the `context_length`."""
        engine = await self._models.get(model)
        whole = await self._with_template(prompt, engine)
        seen = await engine.examine("render", {"prompt": whole.model_dump(mode="json"), "params": params.model_dump(mode="json", include={"max_tokens", "context_tokens"})})
        return {**seen, "context_length": params.context_limit(engine.card.context_length)}

    async def tokenize(self, text: str, model: str = "") -> list[int]:
        """Token ids of a text."""
        engine = await self._models.get(model)
        return await engine.tokenize(text)

    async def detokenize(self, token_ids: Sequence[int], model: str = "") -> str:
        """The text of token ids, special tokens as they are written."""
        engine = await self._models.get(model)
        return await engine.detokenize(token_ids)

    async def next_tokens(
        self, prompt: TextPrompt, count: int, model: str = "", adapters: Sequence[AdapterChoice] | None = None, params: GenerationParams | None = None
    ) -> tuple[TokenLogprob, ...]:
        """The likeliest next tokens after a text, with `params` as their samplers leave them; adapters as in `submit`. It counts as a reply of one token.

        Raises:
            QuotaExceeded: as much was computed for this person today as may be.
        """
        await self._usage.check()
        engine = await self._models.get(model)
        chosen = await self._adapters.resolve(engine.card, adapters)
        begun_s = time.monotonic()
        found = await engine.next_tokens(prompt, count, chosen, params)
        self._usage.spent(engine.name, replace(found.usage, completion_tokens=1), time.monotonic() - begun_s)
        return found.tokens

    async def counters(self, model: str = "") -> EngineCounters:
        """What the engine of a loaded model is doing; a look loads and wakes nothing.

        Raises:
            NoModelLoaded: it is not loaded.
        """
        return await self._present(model).counters()

    def _present(self, model: str) -> ModelEngine:
        """The engine of a loaded model, for what is no use of it."""
        engine = self._models.loaded(model)
        if engine is None:
            raise NoModelLoaded("No model is loaded, so nothing is counted; load one on the Models page, or send a request that names one.")
        return engine
