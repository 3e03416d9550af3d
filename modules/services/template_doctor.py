"""Chat templates under examination, for the page: how one writes a conversation, what speaks against it, which others fit, whether replies end.

Asks the engine of the loaded model, which has the tokenizer. Without one the text alone is shown. What a person types is run here first,
in a process with limits, so that a template that never ends does not hold up the model's own prompts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from modules.core.errors import AppError, NoModelLoaded
from modules.core.model import TemplateSource
from modules.prompts.renderer import TemplateRenderer
from modules.prompts.samples import SAMPLES, find_sample
from modules.services.characters import Casting
from modules.services.conversations import ConversationService
from modules.services.generation import GenerationService
from modules.services.model_engine import ModelEngine
from modules.services.models import ModelService
from modules.services.template_look import LookRequest, look
from modules.services.template_trial import TRIED, TRIED_TOKENS, tried
from modules.services.templates import TemplateService

EDITED = "template in the editor"  # where it is from, in sentences


class TemplateDoctor:
    """Looks at templates with the model that is loaded."""

    def __init__(
        self, models: ModelService, generation: GenerationService, templates: TemplateService, conversations: ConversationService, casting: Casting
    ) -> None:
        self._models = models
        self._generation = generation
        self._templates = templates
        self._conversations = conversations
        self._casting = casting
        self._renderer = TemplateRenderer()

    async def close(self) -> None:
        """End the process that runs templates."""
        await asyncio.to_thread(self._renderer.close)

    def samples(self) -> tuple[str, ...]:
        """Names of the sample conversations."""
        return tuple(sample.name for sample in SAMPLES)

    def model(self) -> dict[str, Any] | None:
        """The loaded model as the page needs it; None where none is loaded on this machine."""
        engine = self._engine()
        if engine is None:
            return None
        return {"name": engine.name, "template": self._models.template_of(engine.name), "own": engine.card.template_origin}

    async def variables(self, template: str = "") -> tuple[str, ...] | None:
        """The options that a prompt template reads, or for an empty name the one in force for the model that answers; None where that is not known."""
        engine = self._models.loaded()
        name = template or (self._generation.template_in_force(engine.card) if engine is not None and not engine.card.host else "")
        if not name:
            return engine.card.template_variables if engine is not None else None
        try:
            return await asyncio.to_thread(self._renderer.options, await self._templates.source(name))
        except AppError:  # gone or broken: told where it is used
            return None

    async def own(self) -> dict[str, Any]:
        """The chat template that the loaded model brings.

        Raises:
            NoModelLoaded: none is loaded here.
            InvalidRequest: it has none.
        """
        return await self._own_source(self._needed())

    async def look(self, owner: str, template: TemplateSource | None, *, sample: str = "", conversation: str = "") -> dict[str, Any]:
        """How a template (None: the model's own) writes a sample or a conversation of the person, and what the doctor finds.

        Raises:
            NotFound: no such conversation.
            NoModelLoaded: the model's own template is asked for and no model is loaded.
        """
        request = await self._request(owner, template, sample, conversation)
        engine = self._engine()
        if template is not None:
            here = await asyncio.to_thread(look, self._renderer, request, template, None, None)
            if here["error"] is not None or engine is None:
                return {**here, "model": ""}
        engine = engine or self._needed()
        return {**await engine.examine("look", request.model_dump(mode="json")), "model": engine.name}

    async def _request(self, owner: str, template: TemplateSource | None, sample: str, conversation: str) -> LookRequest:
        if conversation:
            record = await self._conversations.read(owner, conversation)
            if record.messages:
                last = record.messages[-1]
                messages = await self._conversations.messages_for_prompt(owner, last.id)
                plain = tuple(message.model_copy(update={"images": ()}) for message in messages)
                variables = {**await self._casting.variables(record.settings), **record.settings.template_variables}
                return LookRequest(template=template, messages=plain, asks=last.role != "assistant", variables=variables)
        chosen = find_sample(sample)
        return LookRequest(template=template, messages=chosen.messages, tools=chosen.tools, asks=chosen.asks)

    async def fitting(self) -> list[dict[str, Any]]:
        """The prompt templates without a problem for the loaded model, those that write what its own does first.

        Raises:
            NoModelLoaded: none is loaded here.
        """
        engine = self._needed()
        names, sources = await self._usable()
        answer = await engine.examine("fitting", {"templates": [source.model_dump(mode="json") for source in sources]})
        rows = [{"name": name, **row} for name, row in zip(names, answer["templates"], strict=True)]
        return sorted((row for row in rows if row["problems"] == 0), key=lambda row: (not row["same"], str(row["name"]).casefold()))

    async def _usable(self) -> tuple[Sequence[str], Sequence[TemplateSource]]:
        names = [row.name for row in await self._templates.list() if not row.problem]
        return names, [await self._templates.source(name) for name in names]

    async def try_out(self, template: TemplateSource | None) -> dict[str, Any]:
        """Let the loaded model write twenty tokens under a template (None: its own), to see whether it ends its reply.

        Raises:
            NoModelLoaded: none is loaded here.
            AppError: the model refuses.
        """
        engine = self._needed()
        chosen = template
        if template is None and self._models.template_of(engine.name):  # where none is named, that one would be taken
            chosen = TemplateSource.model_validate(await self._own_source(engine))
        reply = await tried(self._generation, engine.name, chosen)
        told = {"asked": TRIED[0].content, "text": reply.text, "stopped": reply.ended, "limit": TRIED_TOKENS}
        return {**told, "tokens": reply.tokens, "model": engine.name}

    async def _own_source(self, engine: ModelEngine) -> dict[str, Any]:
        """Text and origin of the template that a model brings."""
        answer = await engine.examine("template", {})
        return {"text": answer["text"], "origin": answer["origin"]}

    async def choose(self, template: str) -> dict[str, Any] | None:
        """Choose a prompt template for the loaded model; empty takes its own again.

        Raises:
            NoModelLoaded: none is loaded here.
            NotFound: no such template.
        """
        engine = self._needed()
        if template:
            await self._templates.source(template)
        await self._models.choose_template(engine.name, template)
        return self.model()

    async def delete(self, name: str) -> dict[str, Any]:
        """Put an own template into the bin; models for which it was chosen have their own again, unless a shipped one takes its place.

        Raises:
            NotFound: there is none, or it comes with Paddock.
        """
        entry = await self._templates.delete(name)
        left = {row.name for row in await self._templates.list()}
        models = () if entry.name in left else self._models.with_template(entry.name)
        for model in models:
            try:
                await self._models.choose_template(model, "")
            except AppError:  # the model itself is gone
                continue
        return {**entry.model_dump(exclude={"text"}), "models": list(models)}

    def _engine(self) -> ModelEngine | None:
        engine = self._models.loaded()
        return engine if engine is not None and not engine.card.host and engine.alive else None

    def _needed(self) -> ModelEngine:
        engine = self._engine()
        if engine is None:
            raise NoModelLoaded("No model is loaded on this machine; load one on the Models page.")
        return engine
