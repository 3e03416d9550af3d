"""The notebook over a real engine and a real store: written on, taken back, done again, stopped, failed and carried on after."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from modules.core.errors import Conflict, InvalidRequest, NotFound
from modules.services import notebook as notebook_module
from modules.services.app import App
from modules.services.notebook import NotebookService
from modules.services.storage import Storage
from tests.services.conftest import ONE, WRITING, until

pytestmark = pytest.mark.processes
module_loop = pytest.mark.asyncio(loop_scope="module")
BEGINNING = "Once upon a time"
SHORT = {"preset": "", "params": {"temperature": 0, "max_tokens": 12}}
ENDLESS = {"preset": "", "params": {"temperature": 0, "ban_eos": True}}


async def ended(app: App, owner: str) -> dict[str, Any]:
    """The notebook, when nothing is being written any more."""
    while (shown := await app.notebook.read(owner))["running"]:
        await asyncio.sleep(0.01)
    return shown


async def growing(app: App, owner: str, characters: int = 40) -> None:
    """Return once that much was written."""
    async for kind, data in app.notebook.events(owner):
        assert kind != "finished", data
        if len((await app.notebook.read(owner))["text"]) >= len(BEGINNING) + characters:
            return


@contextlib.contextmanager
def held(pid: int) -> Iterator[None]:
    """The engine makes no step meanwhile, so that the writing surely is in its middle."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def outcome(app: App, owner: str) -> dict[str, Any]:
    """What followers are told at the end of the writing that runs now."""
    async for kind, data in app.notebook.events(owner):
        if kind == "finished":
            return data
    raise AssertionError("the events ended")


async def write(app: App, owner: str, text: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Have it written on; what a follower is told at the end."""
    ending = asyncio.create_task(outcome(app, owner))
    await asyncio.sleep(0)
    await app.notebook.generate(owner, text, settings)
    return await ending


async def stored(app: App, owner: str) -> str:
    return (await app.storage.run(lambda stores: stores.notebooks.read(owner))).text


@module_loop
async def test_a_text_is_written_on_taken_back_and_done_again(app: App) -> None:
    owner = "ann"
    empty = {"id": "", "name": "Untitled", "text": "", "rev": 0, "running": False, "behind": 0, "settings": {}, "alternatives": None}
    assert await app.notebook.read(owner) == {**empty, "can_undo": False, "can_redo": False}
    end = await write(app, owner, BEGINNING, SHORT)
    assert (end["finish_reason"], end["error"], end["can_undo"], end["can_redo"]) == ("length", "", True, False)
    assert end["receipt"]["completion_tokens"] == 12
    assert end["receipt"]["model"] == ONE
    assert {"queue_s", "prefill_s", "longest_gap_s", "reused_tokens"} <= end["receipt"].keys()
    written = await ended(app, owner)
    assert len(written["text"]) == end["text_length"] > len(BEGINNING)
    assert await stored(app, owner) == written["text"]
    undone = await app.notebook.undo(owner)
    assert (undone["text"], undone["can_undo"], undone["can_redo"]) == (BEGINNING, False, True)
    redone = await app.notebook.redo(owner)
    assert (redone["text"], redone["can_undo"], redone["can_redo"]) == (written["text"], True, False)
    assert (await app.notebook.undo(owner))["rev"] > redone["rev"] > undone["rev"]
    assert (await app.notebook.undo(owner))["text"] == BEGINNING, "nothing further to take back is no error"


@module_loop
async def test_another_try_begins_where_the_last_one_began(app: App) -> None:
    owner = "again"
    await app.notebook.generate(owner, BEGINNING, {"preset": "", "params": {"temperature": 3, "max_tokens": 12}})
    first = (await ended(app, owner))["text"]
    await app.notebook.regenerate(owner, {})
    second = (await ended(app, owner))["text"]
    assert second.startswith(BEGINNING)
    assert second != first
    with pytest.raises(NotFound, match="Lost"):
        await app.notebook.regenerate(owner, {"preset": "Lost"})
    with pytest.raises(InvalidRequest, match="temperature"):
        await app.notebook.regenerate(owner, {"params": {"temperature": 99}})
    assert (await app.notebook.read(owner))["text"] == second, "what cannot be done takes nothing back"
    tries = await asyncio.gather(*(app.notebook.regenerate(owner, SHORT) for _ in range(3)), return_exceptions=True)
    assert [type(one) for one in tries].count(Conflict) == 2
    assert (await ended(app, owner))["text"].startswith(BEGINNING)
    assert (await app.notebook.undo(owner))["text"] == BEGINNING


@module_loop
async def test_a_change_on_top_of_an_old_text_is_a_conflict_with_the_new_one(app: App) -> None:
    owner = "two windows"
    rev = await app.notebook.save(owner, "first", 0)
    assert await app.notebook.save(owner, "second", rev) == rev + 1
    with pytest.raises(Conflict) as caught:
        await app.notebook.save(owner, "third", rev)
    assert (caught.value.details["text"], caught.value.details["rev"]) == ("second", rev + 1)
    assert await app.notebook.save(owner, "second", rev) == rev + 1, "the same text is no conflict"
    assert (await app.notebook.read("somebody else"))["text"] == ""


@module_loop
async def test_an_empty_text_is_refused_in_a_sentence(app: App) -> None:
    for refused in (app.notebook.generate("empty", "", SHORT), app.notebook.regenerate("empty", SHORT), app.notebook.probabilities.next_tokens("", 5, {})):
        with pytest.raises(InvalidRequest, match="write a beginning first"):
            await refused
    assert (await app.notebook.read("empty"))["running"] is False


@module_loop
async def test_while_it_is_written_on_nothing_else_may_change_it(app: App) -> None:
    owner = "busy"
    begun = await app.notebook.generate(owner, BEGINNING, ENDLESS)
    assert (begun["running"], begun["can_undo"]) == (True, False)
    assert (await stored(app, owner)).startswith(BEGINNING), "saved before the first token"
    await growing(app, owner)
    with held((await app.models.get()).pid):
        for refused in (
            app.notebook.save(owner, "typed", None),
            app.notebook.undo(owner),
            app.notebook.redo(owner),
            app.notebook.generate(owner, "typed", SHORT),
            app.notebook.regenerate(owner, SHORT),
        ):
            with pytest.raises(Conflict, match="stop it or wait"):
                await refused
        ending = asyncio.create_task(outcome(app, owner))
        await asyncio.sleep(0)
        stopping = asyncio.create_task(app.notebook.stop(owner))
        await asyncio.sleep(0.05)  # the engine hears of it before it goes on
    shown = await stopping
    assert (await ending)["finish_reason"] == "cancelled"
    assert not shown["running"]
    assert shown["text"].startswith(BEGINNING) and len(shown["text"]) >= len(BEGINNING) + 40
    assert await stored(app, owner) == shown["text"]
    assert await app.notebook.stop(owner) == shown, "stopping nothing is no error"


@module_loop
async def test_stop_at_any_moment_of_the_start_ends_it(app: App) -> None:
    for moment in range(8):
        owner = f"moment {moment}"
        starting = asyncio.create_task(app.notebook.generate(owner, BEGINNING, ENDLESS))
        await asyncio.sleep(0.002 * moment)
        await app.notebook.stop(owner)
        await starting
        if not moment:  # it had not begun
            await app.notebook.stop(owner)
        shown = await ended(app, owner)
        assert shown["text"].startswith(BEGINNING)
        assert len(shown["text"]) < 1500, "it was not stopped: it ended at the end of the context"
        assert await app.notebook.save(owner, "typed", None) > 0


@module_loop
async def test_followers_see_every_character_once(app: App) -> None:
    owner = "followed"

    async def follow() -> str:
        text = ""
        async for kind, data in app.notebook.events(owner):
            if kind == "snapshot":
                text = data["text"]
            elif kind == "append":
                text += data["text"]
            elif kind == "finished":
                return text
        raise AssertionError("the events ended")

    followers = [asyncio.create_task(follow()) for _ in range(2)]
    await asyncio.sleep(0)
    await app.notebook.generate(owner, BEGINNING, {"preset": "", "params": {"temperature": 0, "max_tokens": 60}})
    texts = await asyncio.gather(*followers)
    assert set(texts) == {(await ended(app, owner))["text"]}


@module_loop
async def test_the_text_is_saved_now_and_then_while_it_grows(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    assert notebook_module.SAVE_INTERVAL_S < 1
    monkeypatch.setattr(notebook_module, "SAVE_INTERVAL_S", 0.1)
    owner, sizes = "saved", set()
    await app.notebook.generate(owner, BEGINNING, ENDLESS)
    while (await app.notebook.read(owner))["running"]:
        sizes.add(len(await stored(app, owner)))
        await asyncio.sleep(0.02)
    assert len(sizes) >= 4
    assert await stored(app, owner) == (await app.notebook.read(owner))["text"]


@module_loop
async def test_an_engine_killed_in_mid_text_costs_only_the_rest_of_it(app: App) -> None:
    owner = "killed"
    await app.notebook.generate(owner, BEGINNING, ENDLESS)
    await growing(app, owner)
    ending = asyncio.create_task(outcome(app, owner))
    await asyncio.sleep(0)
    os.kill((await app.models.get()).pid, signal.SIGKILL)
    end = await ending
    assert end["finish_reason"] == "error"
    assert "SIGKILL" in end["error"] and "the text so far is kept" in end["error"]
    shown = await ended(app, owner)
    assert len(shown["text"]) >= len(BEGINNING) + 40
    assert await stored(app, owner) == shown["text"]
    assert (await write(app, owner, shown["text"], SHORT))["error"] == ""


async def test_without_a_model_the_end_says_what_to_do(start_app: Callable[..., App]) -> None:
    app = start_app()
    end = await write(app, "ann", BEGINNING, SHORT)
    assert "Open the Models page and load one" in end["error"]
    assert await stored(app, "ann") == BEGINNING


async def test_a_server_that_stops_keeps_the_text(start_app: Callable[..., App], tmp_path: Path) -> None:
    app = start_app(model=ONE, options=WRITING)
    await app.start()
    await app.notebook.generate("ann", BEGINNING, ENDLESS)
    text = next(iter(app.notebook._writing.values()))
    await until(lambda: len(text.text) > len(BEGINNING) + 40)
    await app.close()
    storage = Storage(tmp_path / "state_dir")
    notebook = NotebookService(generation=app.generation, presets=app.presets, storage=storage)
    shown = await notebook.read("ann")
    await storage.close()
    assert (shown["text"], shown["can_undo"]) == (text.text, True)
