"""Models that nobody uses give their memory back and come back when they are used; pinned ones stay. With real engines."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from pathlib import Path

import pytest

from modules.core.errors import NoModelLoaded, NotFound
from modules.core.generation import GenerationRequest, TextPrompt
from modules.core.model import AdapterChoice
from modules.core.params import GenerationParams
from modules.services.model_choices import LoadChoice, ModelChoices
from modules.services.models import ModelService
from tests.services.conftest import ONE, THREE, TWO, engine_pids, until
from tests.services.model_steps import OPTIONS, StartApp, crash, write_adapter, writes

pytestmark = pytest.mark.processes
IDLE_S = 0.4


@pytest.fixture
async def models(start_app: StartApp) -> ModelService:
    """Models that fall asleep soon."""
    models = start_app(idle_unload_s=IDLE_S).models
    models.start()
    return models


async def asleep(models: ModelService, *names: str) -> None:
    await until(lambda: set(models.status().asleep) == set(names))


# ---- idle ----------------------------------------------------------------------------------------------------------


async def test_one_that_nobody_uses_gives_its_memory_back_and_comes_back_as_it_was(start_app: StartApp, tmp_path: Path, starter_gguf: Path) -> None:
    app = start_app(idle_unload_s=IDLE_S, load_on_demand=False)
    models = app.models
    models.start()
    write_adapter(tmp_path / "loras_dir" / "strong.gguf", starter_gguf)
    client = await models.load(ONE, "", OPTIONS)
    ids = [1, *await client.tokenize("Once upon a time there was a fox")]
    plain = await client.score(ids)
    await app.adapters.apply(ONE, [AdapterChoice(name="strong.gguf")])
    adapted = await client.score(ids)
    assert adapted != plain
    for use in ("", ONE, "the page's button"):
        await asleep(models, ONE)
        await until(lambda: not list(engine_pids()))
        assert models.status().loaded == ()
        assert models.status().error == "", "it is no crash"
        again = await models.load(ONE, "", OPTIONS) if use == "the page's button" else await models.get(use)
        assert models.status().asleep == ()
        assert (again.name, again.card.context_length) == (ONE, 256)
        assert await again.score(ids) == adapted
    other = await models.load(ONE, "", {**OPTIONS, "slots": 1})
    assert await other.score(ids) == plain, "loaded another way it has no adapters"


async def test_one_whose_adapter_was_replaced_while_it_slept_has_the_new_one(start_app: StartApp, tmp_path: Path, starter_gguf: Path) -> None:
    app = start_app(idle_unload_s=IDLE_S)
    app.models.start()
    write_adapter(tmp_path / "loras_dir" / "strong.gguf", starter_gguf)
    client = await app.models.load(ONE, "", OPTIONS)
    ids = [1, *await client.tokenize("Once upon a time there was a fox")]
    plain = await client.score(ids)
    await app.adapters.apply(ONE, [AdapterChoice(name="strong.gguf")])
    adapted = await client.score(ids)
    await asleep(app.models, ONE)
    write_adapter(tmp_path / "loras_dir" / "strong.gguf", starter_gguf, seed=3)
    again = await (await app.models.get(ONE)).score(ids)
    assert again not in (plain, adapted)
    assert again == await (await app.models.get(ONE)).score(ids)


async def test_falling_asleep_again_and_again_is_no_crash(models: ModelService) -> None:
    await models.load(ONE, "", OPTIONS)
    for _ in range(5):
        await asleep(models, ONE)
        assert await writes(await models.get())


async def test_one_that_woke_slowly_does_not_fall_asleep_before_it_is_handed_over(models: ModelService, monkeypatch: pytest.MonkeyPatch) -> None:
    await models.load(ONE, "", OPTIONS)
    await asleep(models, ONE)
    remember = ModelChoices.remember

    def slowly(choices: ModelChoices, choice: LoadChoice) -> None:  # a disk that takes its time, after the engine is there
        time.sleep(3 * IDLE_S)
        remember(choices, choice)

    monkeypatch.setattr(ModelChoices, "remember", slowly)
    assert await writes(await models.get())


async def test_never_under_a_running_or_waiting_reply(models: ModelService) -> None:
    client = await models.load(ONE, "", {**OPTIONS, "slots": 1})
    request = GenerationRequest(prompt=TextPrompt(text="Once upon a"), params=GenerationParams(ban_eos=True, max_tokens=200))
    async with await client.submit(request) as running, await client.submit(request) as waiting:
        os.kill(client.pid, signal.SIGSTOP)
        await asyncio.sleep(3 * IDLE_S)
        assert models.loaded_names() == (ONE,)
        os.kill(client.pid, signal.SIGCONT)
        for generation in (running, waiting):
            assert [delta.finish_reason async for delta in generation][-1] == "length"
    ended_s = time.monotonic()
    await asleep(models, ONE)
    assert time.monotonic() - ended_s > IDLE_S / 2, "writing was use to its end"


async def test_looking_is_no_use(start_app: StartApp) -> None:
    app = start_app(idle_unload_s=IDLE_S)
    app.models.start()
    await app.models.load(ONE, "", OPTIONS)

    async def look() -> None:
        while True:
            await app.generation.counters()
            app.models.status()
            await asyncio.sleep(IDLE_S / 10)

    with pytest.raises(NoModelLoaded, match="nothing is counted|was unloaded"):
        await asyncio.wait_for(look(), 20)
    await asleep(app.models, ONE)
    with pytest.raises(NoModelLoaded, match="nothing is counted"):
        await app.generation.counters(ONE)


async def test_one_that_sleeps_is_forgotten_on_wish(models: ModelService) -> None:
    await models.load(ONE, "", OPTIONS)
    await asleep(models, ONE)
    heard: list[tuple[str, ...]] = []
    models.watch(lambda: heard.append(models.status().asleep))
    await models.unload(ONE)
    assert heard == [()]
    with pytest.raises(NotFound, match="is not loaded"):
        await models.unload(ONE)
    with pytest.raises(NoModelLoaded, match="Open the Models page"):
        await models.get()


async def test_the_empty_name_is_the_model_used_last_though_it_sleeps(start_app: StartApp) -> None:
    models = start_app(idle_unload_s=IDLE_S, loaded_models=2).models
    models.start()
    await models.pin(TWO, True)
    await models.load(TWO, "", OPTIONS)
    await models.load(ONE, "", OPTIONS)
    await asleep(models, ONE)
    assert models.loaded_names() == (TWO,)
    assert (await models.get()).name == ONE
    await models.get(TWO)
    assert (await models.get()).name == TWO


async def test_one_that_sleeps_makes_room_follows_its_new_name_and_is_gone_when_deleted(models: ModelService) -> None:
    await models.load(ONE, "", OPTIONS)
    await asleep(models, ONE)
    await models.load(TWO, "", OPTIONS)
    assert models.status().asleep == ()
    await asleep(models, TWO)
    models.moved({TWO: THREE})
    assert models.status().asleep == (THREE,)
    client = await models.get()
    assert (client.name, client.card.context_length) == (THREE, 256)
    await asleep(models, THREE)
    models.moved({THREE: ""})
    assert models.status().asleep == ()


async def test_closing_while_one_falls_asleep_leaves_no_engine(models: ModelService) -> None:
    await models.load(ONE, "", OPTIONS)
    falling = asyncio.Event()
    models.watch(falling.set)
    await asyncio.wait_for(falling.wait(), 20)
    await models.close()
    assert list(engine_pids()) == []
    with contextlib.suppress(NoModelLoaded):
        await models.get()
    assert list(engine_pids()) == []


async def test_without_the_setting_none_falls_asleep(start_app: StartApp) -> None:
    models = start_app().models
    models.start()
    client = await models.load(ONE, "", OPTIONS)
    await asyncio.sleep(2 * IDLE_S)
    assert client.alive


# ---- pins ----------------------------------------------------------------------------------------------------------


async def test_a_pinned_one_stays_awake_until_the_pin_is_off(models: ModelService) -> None:
    with pytest.raises(NotFound):
        await models.pin("none.gguf", True)
    client = await models.load(ONE, "", OPTIONS)
    await models.pin(ONE, True)
    await asyncio.sleep(2 * IDLE_S)
    assert client.alive
    await models.pin(ONE, False)
    await asleep(models, ONE)


async def test_a_pin_survives_a_restart_and_a_load(start_app: StartApp) -> None:
    first = start_app().models
    await first.pin(ONE, True)
    await first.pin(TWO, True)
    await first.load(ONE, "", OPTIONS)
    await first.pin(TWO, False)
    await first.close()
    later = start_app().models
    assert later.pinned() == {ONE}
    assert later.remembered(ONE).options == OPTIONS
    await later.pin(ONE, False)
    assert start_app().models.pinned() == frozenset()
    assert later.remembered(ONE).options == OPTIONS


async def test_a_pinned_one_makes_no_room(start_app: StartApp) -> None:
    models = start_app(loaded_models=2).models
    first = await models.load(ONE, "", OPTIONS)
    await models.load(TWO, "", OPTIONS)
    await models.pin(ONE, True)
    third = await models.load(THREE, "", OPTIONS)
    assert set(models.loaded_names()) == {ONE, THREE}, "the pinned one was used before the one that left"
    await models.pin(THREE, True)
    with pytest.raises(NoModelLoaded, match=f"no room for “{TWO}”.* is 2, and “{ONE}” and “{THREE}” are pinned. Unpin or unload one .*--loaded-models"):
        await models.get(TWO)
    assert first.alive
    assert third.alive
    again = await models.load(ONE, "", {**OPTIONS, "slots": 1})
    assert again.card.slots == 1, "it takes its own place"
    await models.unload(THREE)
    assert (await models.get(TWO)).alive


async def test_a_pinned_one_that_crashed_is_not_forgotten_for_another(start_app: StartApp) -> None:
    models = start_app(load_on_demand=False).models
    await models.pin(ONE, True)
    await crash(models, await models.load(ONE, "", OPTIONS))
    await models.load(TWO, "", OPTIONS)
    assert (await models.get(ONE)).card.context_length == 256
    assert models.loaded_names() == (ONE,)


def test_a_pin_moves_along_with_a_renamed_model(tmp_path: Path) -> None:
    choices = ModelChoices(tmp_path / "models.yaml")
    choices.remember(LoadChoice(ONE))
    choices.pin(ONE, True)
    choices.pin(TWO, True)
    assert choices.last() == ONE, "a pin is no load"
    assert set(choices.used()) == {ONE}
    choices.move({ONE: THREE})
    assert choices.pinned() == {TWO, THREE}
