"""Notebooks: long texts that a model writes on, at their end or in their middle.

Texts are kept here and in the store, not in a browser: tabs follow, so a reload loses nothing. An empty id means the notebook that was
opened last. Knows no HTML.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from modules.core.errors import AppError, Conflict, InvalidRequest
from modules.services.adapters import choices_from
from modules.services.generation import GenerationService
from modules.services.notebook_probabilities import EMPTY, NotebookProbabilities
from modules.services.notebook_shelf import NotebookShelf, name_of
from modules.services.notebook_writing import Try, Writing, marks_from, write_all
from modules.services.presets import PresetService
from modules.services.storage import Storage, Stores
from modules.store.notebook_records import NotebookRecord, Place, VersionKind

SAVE_INTERVAL_S = 0.7  # with the time of a write, text is on disk at most a second after it was written
FOLLOW_INTERVAL_S = 0.03
TYPED_INTERVAL_S = 60.0  # between two versions of a text that is only typed
MOST_TRIES = 6


@dataclass(frozen=True, slots=True)
class Order:
    """Where and how to write."""

    settings: Mapping[str, Any]
    place: Place | None = None  # None: at the end
    tries: int = 1
    aside: bool = False  # beside the text, also one
    begun: str = ""  # what already stands beside it, to go on from


class News(asyncio.Event):
    """Set when a notebook changed."""

    typed = False  # whether that was a text that somebody typed, and nothing else


class NotebookService:
    """Reads, saves and grows the notebooks of each owner."""

    def __init__(self, *, generation: GenerationService, presets: PresetService, storage: Storage) -> None:
        self.shelf = NotebookShelf(storage)
        self.probabilities = NotebookProbabilities(generation, presets)
        self._generation = generation
        self._presets = presets
        self._storage = storage
        self._writing: dict[str, Writing] = {}  # by the notebook's id, as all below
        self._ended: dict[str, Writing] = {}  # the last one: also who looks a moment too late is told how it ended
        self._news: dict[str, News] = {}  # set and replaced whenever a notebook changed
        self._last: dict[str, Order] = {}  # for regenerate
        self._changing: dict[str, asyncio.Lock] = {}  # by owner: who stops waits until what begins has begun

    # ---- the text --------------------------------------------------------------------------------------------------

    async def read(self, owner: str, notebook_id: str = "") -> dict[str, Any]:
        """Text, revision and what can be done, ready for the page.

        Raises:
            NotFound: there is none, or it is another owner's; so for every verb.
        """
        return self._shown(await self._storage.run(lambda stores: stores.notebooks.read(owner, notebook_id)))

    def writing(self) -> int:
        """In how many notebooks the model writes just now."""
        return len(self._writing)

    def _shown(self, record: NotebookRecord) -> dict[str, Any]:
        writing = self._writing.get(record.id)
        return {
            "id": record.id,
            "name": name_of(record.name, record.text),
            "text": writing.text if writing else record.text,
            "rev": record.rev,
            "running": writing is not None,
            "behind": len(writing.after) if writing and not writing.beside else 0,  # characters after the place where it grows
            "can_undo": record.can_undo and writing is None,
            "can_redo": record.can_redo and writing is None,
            "settings": record.settings,
            "alternatives": _alternatives(writing or self._ended.get(record.id)),
        }

    async def save(self, owner: str, text: str, rev: int | None, notebook_id: str = "") -> int:
        """Save what was typed; the new revision. Now and then what is typed becomes a version.

        Raises:
            Conflict: changed elsewhere since `rev`, or being written on.
        """
        async with self._lock(owner):
            now = await self._free(owner, notebook_id)
            saved = await self._storage.run(lambda stores: stores.notebooks.save(owner, text, rev, notebook_id))
            await self._keep(owner, "typed", text, notebook_id, after_s=TYPED_INTERVAL_S)
        self._tell(now.id, typed=True)
        return saved

    async def undo(self, owner: str, notebook_id: str = "") -> dict[str, Any]:
        """Go back to the text before the last generation."""
        return await self._step(owner, notebook_id, back=True)

    async def redo(self, owner: str, notebook_id: str = "") -> dict[str, Any]:
        """Take the last undo back."""
        return await self._step(owner, notebook_id, back=False)

    async def _step(self, owner: str, notebook_id: str, *, back: bool) -> dict[str, Any]:
        async with self._lock(owner):
            now = await self._free(owner, notebook_id)
            if now.text:  # what was typed since would be gone at the next generation
                await self._keep(owner, "typed", now.text, now.id)
            verb = "undo" if back else "redo"
            record = await self._storage.run(lambda stores: getattr(stores.notebooks, verb)(owner, notebook_id))
        self._tell(record.id)
        return self._shown(record)

    async def take(self, owner: str, text: str, rev: int | None, notebook_id: str = "") -> dict[str, Any]:
        """Replace the text by one that was chosen, an alternative or a version, so that one Undo brings the present one back.

        Raises:
            Conflict: changed elsewhere since `rev`, or being written on.
        """
        async with self._lock(owner):
            now = await self._free(owner, notebook_id)
            if rev is not None and rev != now.rev:
                raise Conflict("The notebook was changed in another window meanwhile.", text=now.text, rev=now.rev)
            await self._keep(owner, "typed", now.text, notebook_id)
            ended = self._ended.get(now.id)
            place = ended.place if ended and ended.beside and ended.original == now.text else None  # another try goes there too
            await self._storage.run(lambda stores: stores.notebooks.push_undo(owner, notebook_id, place))
            await self._storage.run(lambda stores: stores.notebooks.save(owner, text, None, notebook_id))
            await self._keep(owner, "written", text, notebook_id)
            self._ended.pop(now.id, None)
        self._tell(now.id)
        return await self.read(owner, notebook_id)

    async def dismiss(self, owner: str, notebook_id: str = "") -> dict[str, Any]:
        """Take none of the alternatives; they stay among the versions."""
        now = await self.read(owner, notebook_id)
        if not now["running"]:
            self._ended.pop(now["id"], None)
            self._tell(now["id"])
        return await self.read(owner, notebook_id)

    async def restore_version(self, owner: str, number: int, notebook_id: str = "") -> dict[str, Any]:
        """Go back to a version; the present text becomes one too."""
        version = await self.shelf.version(owner, number, notebook_id)
        return await self.take(owner, version.text, None, notebook_id)

    def _lock(self, owner: str) -> asyncio.Lock:
        return self._changing.setdefault(owner, asyncio.Lock())

    async def _free(self, owner: str, notebook_id: str) -> NotebookRecord:
        """The notebook, if nobody writes on it."""
        record = await self._storage.run(lambda stores: stores.notebooks.read(owner, notebook_id))
        if record.id in self._writing:
            raise Conflict("The notebook is being written on; stop it or wait for it.")
        return record

    async def _keep(self, owner: str, kind: VersionKind, text: str, notebook_id: str, after_s: float = 0.0) -> None:
        await self._storage.run(lambda stores: stores.notebooks.keep_version(owner, kind, text, notebook_id, after_s=after_s))

    # ---- writing ---------------------------------------------------------------------------------------------------

    async def generate(self, owner: str, text: str, order: Order | Mapping[str, Any], notebook_id: str = "") -> dict[str, Any]:
        """Save the text, then write on; settings alone mean at its end.

        Raises:
            InvalidRequest: no text before the place, or a place outside it.
            Conflict: it is being written on already.
        """
        async with self._lock(owner):
            await self._free(owner, notebook_id)
            return await self._begin(owner, text, order if isinstance(order, Order) else Order(order), notebook_id)

    async def _begin(self, owner: str, text: str, order: Order, notebook_id: str) -> dict[str, Any]:
        writing = self._planned(text, order)
        notebook_id = await self.shelf.open(owner, notebook_id)
        self._writing[notebook_id] = writing
        try:
            await self._storage.run(lambda stores: stores.notebooks.save(owner, text, None, notebook_id))
            await self._keep(owner, "typed", text, notebook_id)
            if not writing.beside:
                await self._storage.run(lambda stores: stores.notebooks.push_undo(owner, notebook_id, order.place))
        except BaseException:
            self._writing.pop(notebook_id, None)
            raise
        self._last[notebook_id] = order
        writing.task = asyncio.create_task(self._write(owner, notebook_id, writing))
        self._tell(notebook_id)
        return await self.read(owner, notebook_id)

    def _planned(self, text: str, order: Order) -> Writing:
        start, stop = order.place or (len(text), len(text))
        if not 0 <= start <= stop <= len(text):
            raise InvalidRequest(f"The place from {start} to {stop} is not in the text, which has {len(text)} characters.", field="place")
        if order.begun and order.tries > 1:
            raise InvalidRequest("Only one text can be gone on with at a time; ask for one.", field="tries")
        if not text[:start]:
            raise InvalidRequest(EMPTY, field="text")
        if not 1 <= order.tries <= MOST_TRIES:
            raise InvalidRequest(f"{order.tries} alternatives were asked for; 1 to {MOST_TRIES} can be written at once.", field="tries")
        settings = order.settings
        params = self._presets.merge(settings.get("preset"), settings.get("params") or {})
        tries = [Try(order.begun, kept=len(order.begun)) for _ in range(order.tries)]
        adapters = choices_from(settings.get("adapters"))
        return Writing(text, (start, stop), params, adapters, tries, aside=order.aside or bool(order.begun), marks=marks_from(settings))

    async def regenerate(self, owner: str, settings: Mapping[str, Any], notebook_id: str = "") -> dict[str, Any]:
        """Take the last generation back and write another one at the same place."""
        async with self._lock(owner):
            now = await self._free(owner, notebook_id)
            last = self._last.get(now.id)
            order = Order(settings or (last.settings if last else {}))
            self._planned("checked", order)  # refused before anything is taken back
            if now.can_undo:
                await self._keep(owner, "typed", now.text, notebook_id)
            before = await self._storage.run(lambda stores: stores.notebooks.undo(owner, notebook_id, exact=True))
            return await self._begin(owner, before.text, Order(order.settings, before.place), notebook_id)

    async def stop(self, owner: str, notebook_id: str = "") -> dict[str, Any]:
        """Stop writing; the text so far is kept. Stopping nothing is no error."""
        async with self._lock(owner):
            record = await self._storage.run(lambda stores: stores.notebooks.read(owner, notebook_id))
            await self._end_of(record.id)
        return await self.read(owner, notebook_id)

    async def stop_all(self, owner: str) -> None:
        """Stop writing on all notebooks of an owner."""
        for row in await self.shelf.list(owner):
            await self.stop(owner, row.id)

    async def _end_of(self, notebook_id: str) -> None:
        writing = self._writing.get(notebook_id)
        if writing is not None and writing.task is not None:
            await writing.stop()
            await asyncio.wait({writing.task}, timeout=5)

    async def _write(self, owner: str, notebook_id: str, writing: Writing) -> None:
        saving = asyncio.create_task(self._save_now_and_then(owner, notebook_id, writing))
        try:
            await write_all(self._generation, writing, owner, lambda: self._tell(notebook_id))
        finally:
            saving.cancel()
            await asyncio.shield(self._end(owner, notebook_id, writing, saving))

    async def _save_now_and_then(self, owner: str, notebook_id: str, writing: Writing) -> None:
        """By the clock, not when more comes: what a slow model wrote last is on disk too."""
        while True:
            await asyncio.sleep(SAVE_INTERVAL_S)
            with contextlib.suppress(AppError):  # tried again in a moment, and told at the end
                await self._save_written(owner, notebook_id, writing)

    async def _save_written(self, owner: str, notebook_id: str, writing: Writing) -> None:
        """What was written since the last time: in the text, or beside it as versions."""
        if not writing.beside:
            text = writing.text
            await self._storage.run(lambda stores: stores.notebooks.save(owner, text, None, notebook_id))
            return
        for number, one in enumerate(writing.tries):
            if len(one.text) > one.kept:
                text, length, version = writing.with_try(number), len(one.text), one.version
                one.version = await self._storage.run(partial(_grow_version, owner, version, text, notebook_id))
                one.kept = length

    async def _end(self, owner: str, notebook_id: str, writing: Writing, saving: asyncio.Task[None]) -> None:
        await asyncio.gather(saving, return_exceptions=True)
        try:
            await self._save_written(owner, notebook_id, writing)
            if not writing.beside and writing.tries[0].text:
                await self._keep(owner, "written", writing.text, notebook_id)
        except AppError as error:
            first = writing.tries[0]
            first.error = f"{first.error} {error.message}".strip()
        finally:
            writing.done = True
            self._writing.pop(notebook_id, None)
            self._ended[notebook_id] = writing
            self._tell(notebook_id)

    # ---- following -------------------------------------------------------------------------------------------------

    def _tell(self, notebook_id: str, *, typed: bool = False) -> None:
        news = self._news.pop(notebook_id, None)
        if news is not None:
            news.typed = typed
            news.set()

    def _next_news(self, notebook_id: str) -> News:
        return self._news.setdefault(notebook_id, News())

    async def events(self, owner: str, notebook_id: str = "") -> AsyncGenerator[tuple[str, dict[str, Any]], None]:
        """Names and data of events: a snapshot first, then what is appended; the revision when somebody typed, and a snapshot after every other change."""
        notebook_id = await self.shelf.open(owner, notebook_id)
        told = self._ended.get(notebook_id)
        while True:
            news = self._next_news(notebook_id)
            ended = self._ended.get(notebook_id)
            writing = self._writing.get(notebook_id) or (ended if ended is not told else None)
            record = await self._storage.run(lambda stores: stores.notebooks.read(owner, notebook_id))
            sent = [len(one.text) for one in writing.tries] if writing is not None else []
            yield "snapshot", self._shown(record)
            if writing is not None:
                told = writing
                async for event in self._follow(notebook_id, writing, sent):
                    yield event
                finished = await self.read(owner, notebook_id)
                more = {key: finished[key] for key in ("rev", "name", "can_undo", "can_redo")}
                yield "finished", {**_outcome(writing), **more}
                news = self._next_news(notebook_id)
            async for event in self._typed(owner, notebook_id, news, told):
                yield event

    async def _typed(self, owner: str, notebook_id: str, news: News, told: Writing | None) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """What was saved by somebody who types, until something else changes. The text is not sent: mostly who follows has typed it."""
        while True:
            await news.wait()
            typed, news = news.typed, self._next_news(notebook_id)
            if not typed or notebook_id in self._writing or self._ended.get(notebook_id) is not told:
                return
            record = await self._storage.run(lambda stores: stores.notebooks.read(owner, notebook_id))
            yield "saved", {"rev": record.rev}

    async def _follow(self, notebook_id: str, writing: Writing, sent: list[int]) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        place: int | None = None
        while True:
            news = self._next_news(notebook_id)
            done = writing.done
            waits = writing.tries[0].place
            if waits is not None and waits != place:
                place = waits
                first = writing.tries[0].generation
                yield "queued", {"place": place, "expected_s": first.expected_s if first is not None else None}
            for number, one in enumerate(writing.tries):
                if len(one.text) > sent[number]:
                    text, sent[number] = one.text[sent[number] :], len(one.text)
                    yield "append", {"try": number, "text": text, "completion_tokens": one.tokens, "tokens_per_s": one.tokens_per_s}
            if done:
                return
            await news.wait()
            await asyncio.sleep(FOLLOW_INTERVAL_S)

    async def close(self) -> None:
        """Stop all writing; the texts are saved."""
        for notebook_id in tuple(self._writing):
            await self._end_of(notebook_id)


def _grow_version(owner: str, number: int | None, text: str, notebook_id: str, stores: Stores) -> int:
    return stores.notebooks.grow_version(owner, number, text, notebook_id)


def _alternatives(writing: Writing | None) -> dict[str, Any] | None:
    """What there is to choose from."""
    if writing is None or not writing.beside:
        return None
    tries = [{"text": one.text, "error": one.error, "seed": one.receipt.get("seed")} for one in writing.tries]
    return {"aside": writing.aside, "start": writing.place[0], "stop": writing.place[1], "tries": tries, "done": writing.done}


def _outcome(writing: Writing) -> dict[str, Any]:
    return {
        "text_length": len(writing.text),
        "finish_reason": writing.tries[0].finish_reason,
        "error": writing.error,
        "receipt": writing.tries[0].receipt,
        "alternatives": _alternatives(writing),
    }
