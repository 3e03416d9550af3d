"""The model service over real engines: one loads, another makes room, a failed load costs nothing, a crash is survived."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from modules.core.errors import (
    AppError,
    EngineCrashed,
    InvalidRequest,
    LoadFailed,
    NoModelLoaded,
    NotFound,
    OutOfMemory,
)
from modules.core.model import AdapterChoice
from modules.engine.client import EngineClient
from modules.services import engine_starter
from modules.services import loaded_models as loaded_module
from modules.services.engine_starter import Loading
from modules.services.models import STARTER_NAME, ModelService
from tests.services.conftest import ONE, THREE, TWO, engine_pids, until
from tests.services.model_steps import OPTIONS, StartApp, crash, write_adapter, writes

pytestmark = pytest.mark.processes


@pytest.fixture
def models(start_app: StartApp) -> ModelService:
    return start_app().models


async def load_and_kill(models: ModelService, name: str, *spared: int) -> str:
    """Start a load and kill its process as soon as there is one; the sentence of the failure."""
    loading = asyncio.create_task(models.load(name, "", OPTIONS))
    await until(lambda: bool(set(engine_pids()) - set(spared)) or loading.done())
    for pid in set(engine_pids()) - set(spared):
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(LoadFailed) as caught:
        await loading
    return caught.value.message


def no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if nothing were free, so that one model must leave before the next one comes."""
    monkeypatch.setattr(engine_starter, "available_bytes", lambda: 0)


# ---- load and unload -----------------------------------------------------------------------------------------------


async def test_the_same_again_is_the_same_engine_and_other_options_replace_it(models: ModelService) -> None:
    seen: list[Loading | None] = []
    forget = models.watch(lambda: seen.append(models.status().loading))
    first = await models.load(ONE, "", OPTIONS)
    assert await models.load(ONE, "", dict(OPTIONS)) is first
    stages = [loading.stage for loading in seen if loading is not None]
    assert stages[0] == "Reading the file header"
    assert "Reading weights" in stages
    assert {loading.name for loading in seen if loading is not None} == {ONE}
    assert seen[-1] is None
    assert [(card.name, card.context_length, card.slots) for card in models.status().loaded] == [(ONE, 256, 2)]
    forget()
    count = len(seen)
    other = await models.load(ONE, "llama.cpp", {**OPTIONS, "context_length": 128})
    assert len(seen) == count, "who no longer watches hears nothing"
    assert other is not first
    assert not first.alive
    assert [card.context_length for card in models.status().loaded] == [128]
    assert list(engine_pids()) == [other.pid]


async def test_a_model_is_not_loaded_beside_itself_where_it_would_get_less(models: ModelService, monkeypatch: pytest.MonkeyPatch) -> None:
    first = await models.load(ONE, "", OPTIONS)
    room = engine_starter.ALONGSIDE_RESERVE_BYTES + first.card.memory_bytes
    monkeypatch.setattr(engine_starter, "available_bytes", lambda: room)
    monkeypatch.setattr(engine_starter, "ALONGSIDE_FACTOR", 0)
    seen: list[tuple[int, ...]] = []
    models.watch(lambda: seen.append(tuple(card.context_length for card in models.status().loaded)))
    await models.load(ONE, "", {**OPTIONS, "context_length": 128})
    assert () in seen and not first.alive
    seen.clear()
    monkeypatch.setattr(engine_starter, "available_bytes", lambda: room + (1 << 30))
    await models.load(ONE, "", OPTIONS)
    assert () not in seen


async def test_one_makes_room_for_the_next(models: ModelService) -> None:
    first = await models.load(ONE, "", OPTIONS)
    second = await models.load(TWO, "", OPTIONS)
    assert models.loaded_names() == (TWO,)
    assert not first.alive
    assert await writes(second)
    await models.unload(TWO)
    assert not second.alive
    assert models.status().loaded == ()
    for name in (TWO, "none.gguf"):
        with pytest.raises(NotFound, match="is not loaded"):
            await models.unload(name)
    with pytest.raises(NoModelLoaded, match="Open the Models page and load one"):
        await models.get()


async def test_two_stay_beside_each_other_and_the_one_not_used_leaves(start_app: StartApp) -> None:
    models = start_app(loaded_models=2).models
    first, again, second = await asyncio.gather(models.load(ONE, "", OPTIONS), models.load(ONE, "", OPTIONS), models.load(TWO, "", OPTIONS))
    assert first is again
    assert {first.pid, second.pid} == set(engine_pids())
    assert await models.get(ONE) is first
    assert models.loaded_names() == (ONE, TWO)
    assert await models.get() is first
    await models.load(THREE, "", OPTIONS)
    assert models.loaded_names() == (THREE, ONE)
    assert first.alive
    assert not second.alive


async def test_a_load_that_fails_leaves_the_earlier_model_as_it_was(models: ModelService) -> None:
    first = await models.load(ONE, "", OPTIONS)
    refused: tuple[tuple[str, str, dict[str, Any], type[AppError], str], ...] = (
        ("broken.gguf", "", {}, LoadFailed, "cut short"),
        ("none.gguf", "", {}, NotFound, "none.gguf"),
        ("../one.gguf", "", {}, AppError, "one.gguf"),
        (TWO, "", {"slots": -1}, InvalidRequest, "slots"),
        (TWO, "", {"no_such_option": 1}, InvalidRequest, "no_such_option"),
        (TWO, "transformers", {}, AppError, "transformers"),
        (TWO, "no such loader", {}, AppError, "no such loader"),
    )
    for name, loader, options, kind, word in refused:
        with pytest.raises(kind, match=word) as caught:
            await models.load(name, loader, options)
        assert models.status().error == caught.value.message
        assert models.status().loading is None
    assert "its process ended (killed by signal 9" in await load_and_kill(models, TWO, first.pid)
    assert models.loaded_names() == (ONE,)
    assert await models.get() is first
    assert await writes(first)
    assert models.remembered(TWO).options == {}, "what failed is not remembered"
    await models.load(ONE, "", {**OPTIONS, "slots": 1})
    assert models.status().error == "", "a good load clears the sentence of a bad one"
    with pytest.raises(LoadFailed):
        await models.load("broken.gguf")
    await models.unload(ONE)
    with pytest.raises(NoModelLoaded) as caught:
        await models.get()
    assert "cut short" not in caught.value.message, "that a model was unloaded is not for an older reason"


async def test_what_made_room_for_a_load_that_failed_comes_back(models: ModelService, monkeypatch: pytest.MonkeyPatch) -> None:
    no_memory(monkeypatch)
    first = await models.load(ONE, "", OPTIONS)
    await load_and_kill(models, TWO, first.pid)
    assert not first.alive
    back = await models.get()
    assert (back.name, back.card.context_length) == (ONE, 256)
    assert await writes(back)


async def test_where_both_do_not_fit_the_older_leaves_though_memory_looked_free(models: ModelService, monkeypatch: pytest.MonkeyPatch) -> None:
    first = await models.load(ONE, "", OPTIONS)
    begin = EngineClient.start

    async def start(path: str, *args: Any, **setup: Any) -> EngineClient:
        if first.alive:
            raise OutOfMemory("The graphics card is full.")
        return await begin(path, *args, **setup)

    monkeypatch.setattr(EngineClient, "start", start)
    second = await models.load(TWO, "", OPTIONS)
    assert not first.alive
    assert models.loaded_names() == (TWO,)
    assert second.alive


async def test_a_caller_who_goes_away_leaves_a_whole_engine(models: ModelService) -> None:
    caller = asyncio.create_task(models.load(ONE, "", OPTIONS))
    await until(lambda: bool(list(engine_pids())))
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    client = await models.get(ONE)
    assert client.card.context_length == 256, "the load went on"
    assert list(engine_pids()) == [client.pid]


async def test_closing_ends_what_is_loaded_and_what_is_being_loaded(start_app: StartApp) -> None:
    models = start_app(loaded_models=2).models
    first = await models.load(ONE, "", OPTIONS)
    loading = asyncio.create_task(models.load(TWO, "", OPTIONS))
    await until(lambda: len(list(engine_pids())) == 2)
    await models.close()
    assert list(engine_pids()) == []
    assert not first.alive
    with contextlib.suppress(asyncio.CancelledError):
        await loading
    with pytest.raises(NoModelLoaded, match="server is stopping"):
        await models.get(ONE)


# ---- on demand and at start ----------------------------------------------------------------------------------------


async def test_a_model_that_is_named_is_loaded_unless_that_is_off(start_app: StartApp) -> None:
    with pytest.raises(NoModelLoaded, match="loading on demand is off"):
        await start_app(load_on_demand=False).models.get(ONE)
    models = start_app().models
    with pytest.raises(NotFound):
        await models.get("none.gguf")
    client, again = await asyncio.gather(models.get(ONE), models.get(ONE))
    assert client is again
    assert await writes(client)


async def test_who_asks_for_a_model_that_is_being_loaded_gets_it_as_it_is_loaded(models: ModelService) -> None:
    loading = asyncio.create_task(models.load(ONE, "", OPTIONS))
    await until(lambda: models.status().loading is not None)
    asked, anyone = await asyncio.gather(models.get(ONE), models.get())
    assert asked is anyone is await loading
    assert asked.card.context_length == 256


async def test_options_are_remembered_and_used_again(start_app: StartApp, tmp_path: Path) -> None:
    first = start_app().models
    await first.load(TWO, "llama.cpp", OPTIONS)
    await first.close()
    later = start_app(model="").models
    assert (later.remembered(TWO).loader, later.remembered(TWO).options) == ("llama.cpp", OPTIONS)
    later.start()
    client = await later.get()
    assert (client.name, client.card.context_length) == (TWO, 256)
    stored = tmp_path / "state_dir" / "models.yaml"
    assert stored.stat().st_mode & 0o777 == 0o600
    stored.write_bytes(b"models: [\xff")
    assert later.remembered(TWO).options == {}


@pytest.mark.parametrize(("model", "last", "tried"), [
    ("none", ONE, []),
    ("", "", [STARTER_NAME, "starter"]),
    ("", "gone.gguf", ["gone.gguf", STARTER_NAME, "starter"]),
    ("gone.gguf", ONE, ["gone.gguf"]),
])  # fmt: skip
async def test_what_is_tried_at_start(start_app: StartApp, tmp_path: Path, model: str, last: str, tried: list[str]) -> None:
    models = start_app(model=model).models
    (tmp_path / "state_dir" / "models.yaml").write_text(f"last: {last}\n")
    asked: list[str] = []
    find = models.find

    async def note(name: str) -> Any:
        asked.append(name)
        return await find(name)

    models.find = note  # type: ignore[method-assign]
    models.start()
    with pytest.raises(NoModelLoaded, match=r"Open the Models page"):
        await models.get()
    assert asked == tried
    assert ("There is no model" in models.status().error) == bool(tried)


async def test_the_model_of_the_settings_is_loaded_as_they_say(start_app: StartApp) -> None:
    models = start_app(model=TWO, loader="llama.cpp", options=OPTIONS).models
    models.start()
    client = await models.get()
    assert (client.name, client.card.loader, client.card.context_length) == (TWO, "llama.cpp", 256)


# ---- crashes -------------------------------------------------------------------------------------------------------


async def test_after_a_crash_the_next_request_finds_the_same_options_and_adapters(start_app: StartApp, tmp_path: Path, starter_gguf: Path) -> None:
    app = start_app(load_on_demand=False)
    models = app.models
    write_adapter(tmp_path / "loras_dir" / "strong.gguf", starter_gguf)
    client = await models.load(ONE, "", OPTIONS)
    with pytest.raises(NotFound, match="no adapter “weak.gguf” in loras_dir/"):
        await app.adapters.apply(ONE, [AdapterChoice(name="strong.gguf"), AdapterChoice(name="weak.gguf")])
    assert client.card.adapters == ()
    ids = [1, *await client.tokenize("Once upon a time there was a fox")]
    plain = await client.score(ids)
    await app.adapters.apply("", [AdapterChoice(name="strong.gguf")])
    adapted = await client.score(ids)
    assert adapted != plain
    heard: list[bool] = []
    models.watch(lambda: heard.append(bool(models.status().loaded)))
    await crash(models, client)
    assert heard == [False]
    assert "SIGKILL" in models.status().error
    again, same = await asyncio.gather(models.get(), models.get(ONE))
    assert again is same is not client
    assert again.card.context_length == 256
    assert await again.score(ids) == adapted


async def test_crashing_again_and_again_is_given_up_until_a_person_loads_it(models: ModelService, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (loaded_module.RESTART_LIMIT, loaded_module.RESTART_WINDOW_S) == (3, 600)
    monkeypatch.setattr(loaded_module, "RESTART_LIMIT", 1)
    await crash(models, await models.load(ONE, "", OPTIONS))
    await crash(models, await models.get())
    for name in (ONE, ""):
        with pytest.raises(EngineCrashed, match=r"crashed 2 times in 10 minutes and is not started again by itself. Last cause: .*SIGKILL.*smaller context"):
            await models.get(name)
    assert list(engine_pids()) == []
    client = await models.load(ONE, "", OPTIONS)
    assert await models.get() is client
    monkeypatch.setattr(loaded_module, "RESTART_WINDOW_S", 0.0)
    await crash(models, client)
    assert (await models.get(ONE)).alive, "crashes of long ago do not count"


async def test_one_that_crashed_makes_room_as_one_that_is_loaded_does(models: ModelService) -> None:
    await crash(models, await models.load(ONE, "", OPTIONS))
    await models.load(TWO, "", OPTIONS)
    await models.unload(TWO)
    with pytest.raises(NoModelLoaded):
        await models.get()
