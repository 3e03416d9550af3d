"""Whether the template in force fits each loaded model: looked at while nobody uses a model, by what the doctor finds and by a short reply.

Follows the status of the loaded models and the changes of prompt templates. What somebody asks for meanwhile comes first: it interrupts
the reply, and the look begins again in the next pause. Knows no page.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from modules.core.errors import AppError, InvalidRequest
from modules.core.generation import EngineCard
from modules.core.model import TemplateSource
from modules.prompts.samples import PLAIN
from modules.services.generation import GenerationService
from modules.services.library_facts import DOUBTS_LIMIT, FactStore, Learned, TemplateCheck
from modules.services.model_engine import ModelEngine
from modules.services.models import ModelService
from modules.services.template_look import LookRequest
from modules.services.template_trial import TRIED, TRIED_TOKENS, tried
from modules.services.templates import TemplateService

log = logging.getLogger(__name__)

PAUSE_S = 2.0  # for so long nobody has used any model
GOES_ON = (
    f"Greeted with “{TRIED[0].content}”, the model did not end its reply within {TRIED_TOKENS} tokens. Such an answer mostly ends sooner: "
    "where it goes on as another speaker, the end of a turn does not fit."
)


class _Key(NamedTuple):
    """One template on one engine; another revision when its file was saved anew."""

    pid: int
    template: str  # empty: as without a choice
    revision: int


class TemplateChecks:
    """Checks and remembers. One event loop calls it."""

    def __init__(self, models: ModelService, templates: TemplateService, generation: GenerationService, facts: FactStore, *, pause_s: float = PAUSE_S) -> None:
        self._models = models
        self._templates = templates
        self._generation = generation
        self._facts = facts
        self._pause_s = pause_s
        self._revisions: Counter[str] = Counter()
        self._found: dict[_Key, TemplateCheck] = {}
        self._done: set[_Key] = set()
        self._pids: dict[str, int] = {}  # by model, of those that sleep the last one
        self._asleep: dict[str, int] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._unwatch: list[Callable[[], None]] = []

    def start(self) -> None:
        """Check from now on whatever is loaded or chosen."""
        self._unwatch += [self._models.watch(self._changed), self._templates.watch(self._saved)]

    async def close(self) -> None:
        """Stop looking."""
        for unwatch in self._unwatch:
            unwatch()
        tasks = tuple(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def of(self, card: EngineCard) -> TemplateCheck | None:
        """What is known of the template in force on a loaded model; None if nothing is."""
        if (found := self._found.get(self._key(card))) is not None:
            return found
        if self._generation.template_in_force(card) or card.template_doubts is None:
            return None
        return TemplateCheck(doubts=card.template_doubts[:DOUBTS_LIMIT])  # its own, examined while it was loaded

    def _key(self, card: EngineCard) -> _Key:
        return _Key(card.pid, self._models.template_of(card.name), self._revisions[self._generation.template_in_force(card)])

    # ---- what happens ----------------------------------------------------------------------------------------------

    async def _saved(self, template: str) -> None:
        """A prompt template is another one now, or gone: what was kept of it on models that are not loaded counts no more."""
        self._revisions[template] += 1
        self._changed()
        for name in set(self._models.with_template(template)) - set(self._models.loaded_names()):
            await self._learn(Learned(name=name))

    def _changed(self) -> None:
        status = self._models.status()
        cards = {card.pid: card for card in status.loaded if card.pid and card.can_write and not card.host}
        woken = {self._asleep[card.name]: pid for pid, card in cards.items() if card.name in self._asleep}
        found = {key._replace(pid=woken.get(key.pid, key.pid)): found for key, found in self._found.items()}  # its template is as it was
        self._pids = {name: pid for name, pid in self._pids.items() if name in status.asleep} | {card.name: pid for pid, card in cards.items()}
        self._asleep = {name: pid for name, pid in self._pids.items() if pid not in cards}
        self._found = {key: check for key, check in found.items() if key.pid in self._pids.values()}
        self._done = {key for key in self._done if key.pid in cards}
        for pid, card in cards.items():
            if pid not in self._tasks and self._key(card) not in self._done:
                self._tasks[pid] = asyncio.get_running_loop().create_task(self._follow(card.name, pid))

    async def _follow(self, name: str, pid: int) -> None:
        """Check an engine until all is known of its template in force."""
        try:
            while (engine := self._engine(name, pid)) is not None and (key := self._key(engine.card)) not in self._done:
                if not self._is_idle():
                    await asyncio.sleep(self._pause_s)
                elif await self._check(engine, key):
                    self._done.add(key)
        except AppError as error:  # it ended meanwhile, and is looked at again when it is back
            log.info("The template of %s was not examined: %s", name, error.message)
        finally:
            self._tasks.pop(pid, None)

    def _engine(self, name: str, pid: int) -> ModelEngine | None:
        engine = self._models.loaded(name)
        return engine if engine is not None and engine.card.pid == pid else None

    def _is_idle(self) -> bool:
        """Whether nobody has used a model for a moment."""
        status = self._models.status()
        engines = [self._models.loaded(card.name) for card in status.loaded]
        return status.loading is None and all(engine is None or (engine.idle_s or -1) >= self._pause_s for engine in engines)

    # ---- the check -------------------------------------------------------------------------------------------------

    async def _check(self, engine: ModelEngine, key: _Key) -> bool:
        """Look at the template, then let the model answer; False where that was interrupted."""
        found = self._found.get(key)
        if found is None:
            try:
                name = self._generation.template_in_force(engine.card)
                source = await self._templates.source(name) if name else None
            except AppError as error:  # the file is gone, or cannot be used
                await self._keep(engine, key, TemplateCheck(name=key.template, doubts=(error.message,)))
                return True
            found = await self._looked(engine, key, source)
        elif found.reply_ended is not None:  # it slept meanwhile
            await self._keep(engine, key, found)
            return True
        if found is None or self._key(engine.card) != key or not engine.idle_s:
            return found is None
        try:
            reply = await tried(self._generation, engine.name, None, background=True)
        except InvalidRequest as error:  # what the doctor found says why
            log.info("%s could not be asked under its template: %s", engine.name, error.message)
            return True
        if reply.interrupted or self._key(engine.card) != key:
            return False
        notes = (*found.notes, GOES_ON) if reply.ended is False else found.notes
        await self._keep(engine, key, found.model_copy(update={"reply_ended": reply.ended, "notes": notes}))
        return True

    async def _looked(self, engine: ModelEngine, key: _Key, source: TemplateSource | None) -> TemplateCheck | None:
        """What the doctor finds, beside the model's own template and beside what training writes; None where its time was over."""
        request = LookRequest(template=source, messages=PLAIN[0].messages, asks=PLAIN[0].asks)
        shown = await engine.examine("look", request.model_dump(mode="json"))
        if shown["error"] is not None:
            found = TemplateCheck(name=key.template, doubts=(shown["error"]["message"],))
        elif shown["findings"] is None:
            return None
        else:
            by_level = {level: tuple(one["sentence"] for one in shown["findings"] if one["level"] == level)[:DOUBTS_LIMIT] for level in ("problem", "note")}
            found = TemplateCheck(name=key.template, doubts=by_level["problem"], notes=by_level["note"])
        return await self._keep(engine, key, found)

    async def _keep(self, engine: ModelEngine, key: _Key, found: TemplateCheck) -> TemplateCheck:
        self._found[key] = found
        await self._learn(Learned(name=engine.name, examined_s=round(time.time(), 3), template_doubts=(engine.card.template_doubts or ())[:DOUBTS_LIMIT], template_check=found))
        return found

    async def _learn(self, learned: Learned) -> None:
        try:
            await asyncio.to_thread(self._facts.learn, learned)
        except OSError as error:
            log.warning("What was learned of %s could not be kept: %s", learned.name, error)
