"""The template in force on a loaded model, examined in idle time with a real engine: found anew when it changes, and nobody waits for it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from modules.core.errors import NoModelLoaded
from modules.core.generation import ChatPrompt, GenerationRequest
from modules.core.messages import Message
from modules.services import template_checks
from modules.services.app import App
from modules.services.library_facts import FactStore, TemplateCheck
from modules.services.template_checks import GOES_ON, TemplateChecks
from modules.services.template_trial import Tried
from tests.services.conftest import ONE, TWO, until

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="module")]
HEADERS = "{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>' + m.content + '<|eot_id|>' }}{% endfor %}"


class Desk:
    """Checks of a test's own over the module's engine."""

    def __init__(self, app: App, facts: FactStore) -> None:
        self.app = app
        self.facts = facts
        self.checks = TemplateChecks(app.models, app.templates, app.generation, facts, pause_s=0.01)
        self.checks.start()

    @property
    def found(self) -> TemplateCheck | None:
        engine = self.app.models.loaded()
        return self.checks.of(engine.card) if engine is not None else None

    async def choose(self, template: str) -> None:
        await self.app.models.choose_template(ONE, template)

    async def until_tried(self, name: str) -> TemplateCheck:
        await until(lambda: self.found is not None and self.found.name == name and self.found.reply_ended is not None)
        assert self.found is not None
        return self.found


@pytest_asyncio.fixture(loop_scope="module")
async def desk(app: App, tmp_path: Path) -> AsyncIterator[Desk]:
    await until(lambda: app.models.loaded() is not None)
    desk = Desk(app, FactStore(tmp_path))
    await desk.choose("")  # tells the watchers, as a load does
    yield desk
    await desk.choose("")
    await desk.checks.close()


async def test_the_template_in_force_is_examined_and_found_anew_when_it_changes(app: App, desk: Desk) -> None:
    own = await desk.until_tried("")
    assert own.doubts == ()
    await until(lambda: (learned := desk.facts.learned(ONE)) is not None and learned.template_check == own and learned.examined_s > 0)
    saved = await app.templates.save("Foreign", HEADERS)
    await desk.choose("Foreign")
    foreign = await desk.until_tried("Foreign")
    assert any("was made for another model" in sentence for sentence in foreign.doubts)
    assert any("written otherwise than by the model's own template" in sentence for sentence in foreign.notes)
    assert (GOES_ON in foreign.notes) == (foreign.reply_ended is False)
    await app.templates.save("Foreign", (await app.template_doctor.own())["text"], stamp=saved.stamp)
    await until(lambda: desk.found is not None and not desk.found.doubts)
    assert (await desk.until_tried("Foreign")).doubts == ()
    await app.templates.delete("Foreign")
    await until(lambda: desk.found is not None and bool(desk.found.doubts))
    assert "There is no prompt template “Foreign”" in desk.found.doubts[0]  # type: ignore[union-attr]


async def test_somebody_who_comes_meanwhile_interrupts_the_reply_which_is_tried_again(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    replies = [Tried("He", 1, None, interrupted=True), Tried("Hello Hello", 20, False)]
    modes: list[Any] = []
    await desk.until_tried("")

    async def scripted(*_: Any, **how: Any) -> Tried:
        modes.append(how)
        return replies[len(modes) - 1]

    monkeypatch.setattr(template_checks, "tried", scripted)
    await desk.app.templates.save("Copy", (await desk.app.template_doctor.own())["text"])
    await desk.choose("Copy")
    found = await desk.until_tried("Copy")
    await desk.choose("")
    await desk.app.templates.delete("Copy")
    assert (found.doubts, found.reply_ended, found.notes[-1]) == ((), False, GOES_ON)
    assert modes == [{"background": True}] * 2


async def test_what_runs_in_the_background_loads_nothing_and_is_no_use(app: App, desk: Desk) -> None:
    request = GenerationRequest(prompt=ChatPrompt(messages=(Message(role="user", content="Hello"),)))
    with pytest.raises(NoModelLoaded):
        await app.generation.submit(request, TWO, background=True)
    entry = app.models._loaded.get(ONE)  # type: ignore[attr-defined]
    assert entry is not None
    before_s = entry.used_s
    generation = await app.generation.submit(request, ONE, background=True)
    await generation.aclose()
    assert entry.used_s == before_s


async def test_a_model_that_slept_is_not_asked_again(app: App, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    own = await desk.until_tried("")
    tries: list[str] = []

    async def counted(_: Any, model: str, *__: Any, **___: Any) -> Tried:
        tries.append(model)
        return Tried("", 0, True)

    monkeypatch.setattr(template_checks, "tried", counted)
    await app.models.make_room()
    desk.facts.drop(ONE)
    await app.models.get(ONE)
    assert desk.found == own
    await until(lambda: (learned := desk.facts.learned(ONE)) is not None and learned.template_check == own)
    assert tries == []
