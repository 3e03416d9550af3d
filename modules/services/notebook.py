"""The notebook: one long text per owner that a model writes on, at its end.

The text is kept here and in the store, not in a browser: tabs follow, so a reload loses nothing. Knows no HTML.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from modules.core.errors import AppError, Conflict, InvalidRequest
from modules.core.generation import GenerationRequest, TextPrompt
from modules.core.model import AdapterChoice
from modules.services.adapters import choices_from
from modules.services.generation import ClientGeneration, GenerationService
from modules.services.presets import PresetService
from modules.services.storage import Storage

log = logging.getLogger(__name__)

SAVE_INTERVAL_S = 1.0
FOLLOW_INTERVAL_S = 0.03
EMPTY = "There is no text to go on from; write a beginning first."


@dataclass
class Writing:
    """A generation at the end of a notebook."""

    text: str  # the whole text so far
    start: int  # where the generation began
    adapters: Sequence[AdapterChoice] | None = None  # None: those in use on the model
    place: int | None = None
    tokens: int = 0
    tokens_per_s: float = 0.0
    finish_reason: str | None = None
    error: str = ""
    receipt: dict[str, Any] = field(default_factory=dict)
    generation: ClientGeneration | None = None
    task: asyncio.Task[None] | None = None
    stop_asked: bool = False
    done: bool = False


class NotebookService:
    """Reads, saves and grows the notebook of each owner."""

    def __init__(self, *, generation: GenerationService, presets: PresetService, storage: Storage) -> None:
        self._generation = generation
        self._presets = presets
        self._storage = storage
        self._writing: dict[str, Writing] = {}
        self._ended: dict[str, Writing] = {}  # the last one of each owner: also who looks a moment too late is told how it ended
        self._undoing: set[str] = set()  # owners whose last generation is being taken back to write another one
        self._news: dict[str, asyncio.Event] = {}  # set and replaced whenever a notebook changed
        self._settings: dict[str, Mapping[str, Any]] = {}  # of the last generation, for regenerate

    # ---- the text --------------------------------------------------------------------------------------------------

    async def read(self, owner: str) -> dict[str, Any]:
        """Text, revision and what can be done, ready for the page."""
        record = await self._storage.run(lambda stores: stores.notebooks.read(owner))
        writing = self._writing.get(owner)
        return {
            "text": writing.text if writing else record.text,
            "rev": record.rev,
            "running": writing is not None,
            "can_undo": record.can_undo and writing is None,
            "can_redo": record.can_redo and writing is None,
        }

    async def save(self, owner: str, text: str, rev: int | None) -> int:
        """Save what was typed; the new revision.

        Raises:
            Conflict: changed elsewhere since `rev`, or being written on.
        """
        self._refuse_while_writing(owner)
        return await self._storage.run(lambda stores: stores.notebooks.save(owner, text, rev))

    async def undo(self, owner: str) -> dict[str, Any]:
        """Go back to the text before the last generation."""
        self._refuse_while_writing(owner)
        await self._storage.run(lambda stores: stores.notebooks.undo(owner))
        self._tell(owner)
        return await self.read(owner)

    async def redo(self, owner: str) -> dict[str, Any]:
        """Take the last undo back."""
        self._refuse_while_writing(owner)
        await self._storage.run(lambda stores: stores.notebooks.redo(owner))
        self._tell(owner)
        return await self.read(owner)

    def _refuse_while_writing(self, owner: str) -> None:
        if owner in self._writing or owner in self._undoing:
            raise Conflict("The notebook is being written on; stop it or wait for it.")

    async def next_tokens(self, text: str, count: int, adapters: Any = None) -> list[dict[str, Any]]:
        """The likeliest next tokens after a text under the adapters of the settings, with their probabilities.

        Raises:
            InvalidRequest: no text.
        """
        from math import exp

        if not text:
            raise InvalidRequest(EMPTY, field="text")
        tokens = await self._generation.next_tokens(text, count, adapters=choices_from(adapters))
        return [{"text": t.text, "token_id": t.token_id, "probability": exp(t.logprob)} for t in tokens]

    # ---- writing ---------------------------------------------------------------------------------------------------

    async def generate(self, owner: str, text: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Save the text, then write on at its end.

        Raises:
            InvalidRequest: no text.
            Conflict: it is being written on already.
        """
        self._refuse_while_writing(owner)
        return await self._begin(owner, text, settings)

    async def _begin(self, owner: str, text: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        if not text:
            raise InvalidRequest(EMPTY, field="text")
        params = self._presets.merge(settings.get("preset"), settings.get("params") or {})
        adapters = choices_from(settings.get("adapters"))
        writing = self._writing[owner] = Writing(text, len(text), adapters=adapters)
        try:
            await self._storage.run(lambda stores: stores.notebooks.save(owner, text, None))
            await self._storage.run(lambda stores: stores.notebooks.push_undo(owner))
        except BaseException:
            self._writing.pop(owner, None)
            raise
        self._settings[owner] = settings
        request = GenerationRequest(prompt=TextPrompt(text=text), params=params, client=f"{owner}/notebook")
        writing.task = asyncio.create_task(self._write(owner, writing, request))
        self._tell(owner)
        return await self.read(owner)

    async def regenerate(self, owner: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Take the last generation back and write another one."""
        self._refuse_while_writing(owner)
        settings = settings or self._settings.get(owner, {})
        self._presets.merge(settings.get("preset"), settings.get("params") or {})  # refused before anything is taken back
        choices_from(settings.get("adapters"))
        self._undoing.add(owner)
        try:
            before = await self._storage.run(lambda stores: stores.notebooks.undo(owner, exact=True))
        finally:
            self._undoing.discard(owner)
        return await self._begin(owner, before.text, settings)

    async def stop(self, owner: str) -> dict[str, Any]:
        """Stop writing; the text so far is kept. Stopping nothing is no error."""
        writing = self._writing.get(owner)
        if writing is not None:
            writing.stop_asked = True
            if writing.generation is not None:
                await writing.generation.cancel()
            elif writing.task is not None:
                await asyncio.sleep(0)  # a task cancelled before its first step would never come to its end, where it is saved
                writing.task.cancel()
            if writing.task is not None:
                await asyncio.wait({writing.task}, timeout=5)
        return await self.read(owner)

    async def _write(self, owner: str, writing: Writing, request: GenerationRequest) -> None:
        try:
            await self._grow(owner, writing, request)
        except AppError as error:
            writing.error = "" if writing.stop_asked else error.message
        except asyncio.CancelledError:
            if not writing.stop_asked:
                raise
        finally:
            await asyncio.shield(self._end(owner, writing))

    async def _end(self, owner: str, writing: Writing) -> None:
        try:
            await self._storage.run(lambda stores: stores.notebooks.save(owner, writing.text, None))
        except AppError as error:
            writing.error = f"{writing.error} {error.message}".strip()
        finally:
            writing.finish_reason = writing.finish_reason or ("error" if writing.error else "cancelled")
            writing.done = True
            self._writing.pop(owner, None)
            self._ended[owner] = writing
            self._tell(owner)

    async def _grow(self, owner: str, writing: Writing, request: GenerationRequest) -> None:
        generation = await self._generation.submit(request, adapters=writing.adapters)
        writing.generation = generation
        if writing.stop_asked:
            await generation.cancel()
        saved_s = begun_s = time.monotonic()

        def on_place() -> None:
            writing.place = generation.place
            self._tell(owner)

        generation.on_place = on_place
        try:
            async for delta in generation:
                if not writing.tokens:
                    begun_s = time.monotonic()
                writing.text += delta.text
                writing.tokens += delta.tokens
                writing.place = None
                elapsed_s = time.monotonic() - begun_s
                writing.tokens_per_s = round((writing.tokens - 1) / elapsed_s, 1) if elapsed_s > 0 and writing.tokens > 1 else 0.0
                writing.finish_reason = delta.finish_reason
                if delta.usage is not None:
                    writing.tokens = delta.usage.completion_tokens
                    writing.tokens_per_s = round(delta.usage.tokens_per_s, 1)
                    writing.receipt = _receipt(generation, delta.usage.prompt_tokens, delta.usage.reused_tokens, writing)
                self._tell(owner)
                if time.monotonic() - saved_s >= SAVE_INTERVAL_S:
                    text = writing.text
                    await self._storage.run(lambda stores, text=text: stores.notebooks.save(owner, text, None))  # type: ignore[misc]
                    saved_s = time.monotonic()
        finally:
            await generation.aclose()

    # ---- following -------------------------------------------------------------------------------------------------

    def _tell(self, owner: str) -> None:
        event = self._news.pop(owner, None)
        if event is not None:
            event.set()

    def _next_news(self, owner: str) -> asyncio.Event:
        return self._news.setdefault(owner, asyncio.Event())

    async def events(self, owner: str) -> AsyncGenerator[tuple[str, dict[str, Any]], None]:
        """Names and data of events: a snapshot first, then what is appended, and a snapshot after every other change."""
        told = self._ended.get(owner)
        while True:
            news = self._next_news(owner)
            ended = self._ended.get(owner)
            writing = self._writing.get(owner) or (ended if ended is not told else None)
            snapshot = await self.read(owner)
            sent = len(snapshot["text"])
            yield "snapshot", snapshot
            if writing is not None:
                told = writing
                async for event in self._follow(owner, writing, sent):
                    yield event
                finished = await self.read(owner)
                more = {key: finished[key] for key in ("rev", "can_undo", "can_redo")}
                yield "finished", {**_outcome(writing), **more}
                news = self._next_news(owner)
            await news.wait()

    async def _follow(self, owner: str, writing: Writing, sent: int) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        place: int | None = None
        while True:
            news = self._next_news(owner)
            done = writing.done
            if writing.place is not None and writing.place != place:
                place = writing.place
                yield "queued", {"place": place}
            if len(writing.text) > sent:
                text, sent = writing.text[sent:], len(writing.text)
                yield "append", {"text": text, "completion_tokens": writing.tokens, "tokens_per_s": writing.tokens_per_s}
            if done:
                return
            await news.wait()
            await asyncio.sleep(FOLLOW_INTERVAL_S)

    async def close(self) -> None:
        """Stop all writing; the texts are saved."""
        for owner in tuple(self._writing):
            await self.stop(owner)


def _receipt(generation: ClientGeneration, prompt_tokens: int, reused_tokens: int, writing: Writing) -> dict[str, Any]:
    seed = generation.started.seed if generation.started else None
    return {
        "prompt_tokens": prompt_tokens,
        "reused_tokens": reused_tokens,
        "completion_tokens": writing.tokens,
        "tokens_per_s": writing.tokens_per_s,
        "seed": seed,
        "model": generation.model,
        "adapters": [choice.model_dump() for choice in generation.adapters],
    }


def _outcome(writing: Writing) -> dict[str, Any]:
    return {
        "text_length": len(writing.text),
        "finish_reason": writing.finish_reason,
        "error": writing.error,
        "receipt": writing.receipt,
    }
