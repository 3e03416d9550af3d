"""One generation in a notebook: text that grows at a place of it, in one try or in several at once. Knows no store and no HTML."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from modules.core.errors import AppError
from modules.core.generation import GenerationRequest, TextPrompt, Usage
from modules.core.model import AdapterChoice
from modules.core.params import GenerationParams
from modules.services.generation import ClientGeneration, GenerationService
from modules.services.receipts import cost
from modules.store.notebook_records import Place

log = logging.getLogger(__name__)

LARGEST_SEED = 2**64 - 1
MARKS = ("add_bos", "parse_special")  # of TextPrompt


@dataclass
class Try:
    """What the model writes once."""

    text: str = ""
    version: int | None = None  # its number in the history, where it is kept as far as it was written
    kept: int = 0  # characters of it there
    place: int | None = None  # in the queue
    tokens: int = 0
    tokens_per_s: float = 0.0
    finish_reason: str | None = None
    error: str = ""
    receipt: dict[str, Any] = field(default_factory=dict)
    generation: ClientGeneration | None = None
    task: asyncio.Task[None] | None = None


@dataclass
class Writing:
    """A generation in a notebook. One try stands in the text as it grows; several, or one that is to, stand beside it until one is taken."""

    original: str  # the text before
    place: Place  # the part of it that is replaced; nothing of it is told to the model, nor what follows
    params: GenerationParams
    adapters: Sequence[AdapterChoice] | None = None  # None: those in use on the model
    tries: list[Try] = field(default_factory=lambda: [Try()])
    aside: bool = False  # beside the text also when it is one
    marks: Mapping[str, bool] = field(default_factory=dict)  # how the text becomes tokens: fields of its prompt
    task: asyncio.Task[None] | None = None
    stop_asked: bool = False
    done: bool = False

    @property
    def before(self) -> str:
        """What the model goes on from."""
        return self.original[: self.place[0]]

    @property
    def after(self) -> str:
        """What stands behind the place."""
        return self.original[self.place[1] :]

    @property
    def beside(self) -> bool:
        """Whether what is written stands beside the text until it is taken."""
        return self.aside or len(self.tries) > 1

    @property
    def text(self) -> str:
        """The whole text now."""
        return self.original if self.beside else self.with_try(0)

    def with_try(self, number: int) -> str:
        """The whole text with one of the tries in its place."""
        return self.before + self.tries[number].text + self.after

    @property
    def error(self) -> str:
        """What went wrong: nothing, as long as one try was written."""
        return next((one.error for one in self.tries if one.error), "") if all(one.error for one in self.tries) else ""

    async def stop(self) -> None:
        """Have all tries end; returns at once."""
        self.stop_asked = True
        for one in self.tries:
            if one.generation is not None:
                await one.generation.cancel()
            elif one.task is not None:
                one.task.cancel()


async def write_all(service: GenerationService, writing: Writing, owner: str, tell: Callable[[], None]) -> None:
    """Write all tries at once; the engine reads their common beginning only once. How each ended stands in it."""
    for number, one in enumerate(writing.tries):
        prompt = text_prompt(writing.before + one.text, writing.marks)
        request = GenerationRequest(prompt=prompt, params=_seeded(writing.params, number), person=owner, client=f"{owner}/notebook")
        one.task = asyncio.create_task(_write(service, writing, one, request, tell))
    for one, problem in zip(writing.tries, await asyncio.gather(*(one.task for one in writing.tries if one.task), return_exceptions=True), strict=True):
        if isinstance(problem, asyncio.CancelledError) and not writing.stop_asked:
            raise problem
        if isinstance(problem, Exception):
            log.error("A notebook could not be written on", exc_info=problem)
            one.error = f"This could not be written ({type(problem).__name__}: {problem}). Try again; if it stays, report it."
        one.finish_reason = one.finish_reason or ("error" if one.error else "cancelled")


def marks_from(settings: Mapping[str, Any]) -> dict[str, bool]:
    """How a text becomes tokens, as the settings of a notebook have it."""
    return {name: bool(settings[name]) for name in MARKS if name in settings}


def text_prompt(text: str, marks: Mapping[str, bool]) -> TextPrompt:
    """A text to go on from."""
    return TextPrompt(text=text, **marks)


def _seeded(params: GenerationParams, number: int) -> GenerationParams:
    """Parameters of one try: with a given seed each has its own, or all would say the same."""
    if params.seed is None or not number:
        return params
    return params.model_copy(update={"seed": (params.seed + number) & LARGEST_SEED})


async def _write(service: GenerationService, writing: Writing, one: Try, request: GenerationRequest, tell: Callable[[], None]) -> None:
    if writing.stop_asked:
        return
    try:
        generation = one.generation = await service.submit(request, adapters=writing.adapters)
        if writing.stop_asked:
            await generation.cancel()

        def on_place() -> None:
            one.place = generation.place
            tell()

        generation.on_place = on_place
        try:
            await _grow(generation, one, tell)
        finally:
            await generation.aclose()
    except AppError as error:
        one.error = "" if writing.stop_asked else error.message


async def _grow(generation: ClientGeneration, one: Try, tell: Callable[[], None]) -> None:
    begun_s = time.monotonic()
    async for delta in generation:
        if not one.tokens:
            begun_s = time.monotonic()
        one.text += delta.text
        one.tokens += delta.tokens
        one.place = None
        elapsed_s = time.monotonic() - begun_s
        one.tokens_per_s = round((one.tokens - 1) / elapsed_s, 1) if elapsed_s > 0 and one.tokens > 1 else 0.0
        one.finish_reason = delta.finish_reason
        if delta.usage is not None:
            one.tokens = delta.usage.completion_tokens
            one.tokens_per_s = round(delta.usage.tokens_per_s, 1)
            one.receipt = _receipt(generation, delta.usage)
        tell()


def _receipt(generation: ClientGeneration, usage: Usage) -> dict[str, Any]:
    return {
        **cost(usage),
        "seed": generation.started.seed if generation.started else None,
        "model": generation.model,
        "adapters": [choice.model_dump() for choice in generation.adapters],
    }
