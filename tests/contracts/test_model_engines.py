"""What services may expect of whatever answers for a loaded model, a child process or another server: the same checks over both.

The other server is a real one, over the same model file, so that greedy texts must be the same on both sides.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from modules.core.errors import ContextOverflow, NoModelLoaded, NotOffered
from modules.core.generation import ChatPrompt, Delta, GenerationRequest, TextPrompt, TokenPrompt
from modules.core.messages import Message
from modules.core.model import Adapter
from modules.core.params import GenerationParams
from modules.core.settings import Settings
from modules.services.app import App, build_app
from modules.services.model_engine import ModelEngine
from tests.paddock_server import PaddockServer

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="module")]

NAME = "one.gguf"
CONTEXT = 512
REMOTE = f"remote/other/{NAME}"
OPTIONS = {"context_length": CONTEXT, "slots": 4, "threads": 1, "threads_batch": 1}
FOLDERS = ("loras_dir", "presets_dir", "templates_dir", "state_dir")
GREEDY = GenerationParams(temperature=0, max_tokens=24)
QUESTION = ChatPrompt(messages=(Message(role="user", content="What is a LoRA?"),))
LONG = {"ban_eos": True, "temperature": 0.7, "max_tokens": 400}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, starter_gguf: Path) -> Path:
    folder = tmp_path_factory.mktemp("engine-models")
    shutil.copy(starter_gguf, folder / NAME)
    return folder


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory, files: Path) -> Iterator[PaddockServer]:
    folder = tmp_path_factory.mktemp("other")
    (folder / "models").mkdir()
    os.link(files / NAME, folder / "models" / NAME)
    flags = [flag for name, value in OPTIONS.items() for flag in ("--option", f"{name}={value}")]
    running = PaddockServer(folder, folder / "models", folder, "--no-ui", "--model", NAME, *flags, model=NAME)
    yield running
    running.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def app(tmp_path_factory: pytest.TempPathFactory, files: Path, other: PaddockServer) -> AsyncIterator[App]:
    folders = {name: tmp_path_factory.mktemp(name) for name in FOLDERS}
    app = build_app(Settings(models_dir=files, template_check=False, model="none", **folders))
    await app.start()
    await app.remote.add({"name": "other", "urls": [other.url]})
    yield app
    await app.close()


@pytest_asyncio.fixture(loop_scope="module", params=["here", "elsewhere"])
async def engine(request: pytest.FixtureRequest, app: App) -> ModelEngine:
    return await (app.models.load(NAME, "", OPTIONS) if request.param == "here" else app.models.load(REMOTE))


@pytest_asyncio.fixture(loop_scope="module")
async def here(app: App) -> ModelEngine:
    return await app.models.load(NAME, "", OPTIONS)


async def write(engine: ModelEngine, prompt: ChatPrompt | TextPrompt | TokenPrompt, params: GenerationParams = GREEDY) -> tuple[str, Delta]:
    """Text and last delta of a generation."""
    generation = await engine.submit(GenerationRequest(prompt=prompt, params=params))
    deltas = [delta async for delta in generation]
    assert generation.started is not None
    assert generation.usage == deltas[-1].usage
    assert generation.model == engine.name
    assert [delta.finish_reason for delta in deltas[:-1]] == [None] * (len(deltas) - 1)
    return "".join(delta.text for delta in deltas), deltas[-1]


async def idle(engine: ModelEngine) -> None:
    async with asyncio.timeout(20):
        while (await engine.counters()).running or (await engine.counters()).waiting:
            await asyncio.sleep(0.01)


async def test_a_card_tells_what_answers(engine: ModelEngine) -> None:
    assert engine.alive
    assert engine.card.name == engine.name
    assert engine.card.context_length >= CONTEXT
    assert bool(engine.card.host) == engine.name.startswith("remote/")
    assert engine.card.template_origin


async def test_greedy_text_is_the_same_everywhere(engine: ModelEngine, here: ModelEngine) -> None:
    for prompt in (QUESTION, TextPrompt(text="Once upon a"), TokenPrompt(token_ids=tuple(await here.tokenize("Paddock is")))):
        text, last = await write(engine, prompt)
        expected, local = await write(here, prompt)
        assert text == expected
        assert last.finish_reason == local.finish_reason
        assert last.usage is not None
        assert local.usage is not None
        assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (local.usage.prompt_tokens, local.usage.completion_tokens)


async def test_how_it_ends(engine: ModelEngine) -> None:
    text, last = await write(engine, QUESTION, GenerationParams(temperature=0, max_tokens=3))
    assert (last.finish_reason, bool(text)) == ("length", True)
    _, last = await write(engine, QUESTION, GenerationParams(temperature=0, max_tokens=200))
    assert last.finish_reason == "stop"
    whole, _ = await write(engine, QUESTION)
    word = whole.split()[3]
    cut, last = await write(engine, QUESTION, GenerationParams(temperature=0, max_tokens=24, stop=(word,)))
    assert (cut, last.finish_reason) == (whole[: whole.index(word)], "stop")


async def test_the_reported_seed_gives_the_text_again(engine: ModelEngine) -> None:
    exact = GenerationParams(temperature=1.5, max_tokens=16, deterministic=True)
    generation = await engine.submit(GenerationRequest(prompt=QUESTION, params=exact))
    text = "".join([delta.text async for delta in generation])
    assert generation.started is not None
    again, _ = await write(engine, QUESTION, exact.model_copy(update={"seed": generation.started.seed}))
    assert again == text


async def test_log_probabilities(engine: ModelEngine, here: ModelEngine) -> None:
    params = GenerationParams(temperature=0, max_tokens=4, logprobs=2)
    rows = []
    for asked in (engine, here):
        generation = await asked.submit(GenerationRequest(prompt=QUESTION, params=params))
        rows.append([entry async for delta in generation for entry in delta.logprobs])
    assert [entry.text for entry in rows[0]] == [entry.text for entry in rows[1]]
    assert [entry.logprob for entry in rows[0]] == pytest.approx([entry.logprob for entry in rows[1]], abs=1e-3)
    assert [len(entry.top) for entry in rows[0]] == [2] * 4


async def test_next_tokens(engine: ModelEngine, here: ModelEngine) -> None:
    prompt = TextPrompt(text="Once upon a")
    found, expected = (await engine.next_tokens(prompt, 5)).tokens, (await here.next_tokens(prompt, 5)).tokens
    assert [entry.text for entry in found] == [entry.text for entry in expected]
    assert [entry.logprob for entry in found] == pytest.approx([entry.logprob for entry in expected], abs=1e-3)


async def test_a_reply_is_continued(engine: ModelEngine, here: ModelEngine) -> None:
    messages = (*QUESTION.messages, Message(role="assistant", content="A LoRA is a small"))
    prompt = ChatPrompt(messages=messages, continue_final_message=True)
    text, _ = await write(engine, prompt)
    assert text == (await write(here, prompt))[0]
    assert not text.startswith("A LoRA")


async def test_too_long_is_refused_with_the_cure(engine: ModelEngine) -> None:
    with pytest.raises(ContextOverflow, match="shorten|Shorten"):
        await write(engine, TextPrompt(text="word " * 3000))


async def test_stopping_keeps_the_text_and_frees_the_place(engine: ModelEngine) -> None:
    generation = await engine.submit(GenerationRequest(prompt=QUESTION, params=GenerationParams(**LONG)))
    assert (await anext(generation)).text
    await generation.cancel()
    rest = [delta async for delta in generation]
    assert rest[-1].finish_reason == "cancelled"
    assert generation.usage is not None
    assert generation.usage.completion_tokens > 0
    await idle(engine)


async def test_who_closes_hears_no_more(engine: ModelEngine, other: PaddockServer) -> None:
    generation = await engine.submit(GenerationRequest(prompt=QUESTION, params=GenerationParams(**LONG)))
    async with generation:
        await anext(generation)
    assert [delta async for delta in generation] == []
    await idle(engine)
    async with asyncio.timeout(20):
        while (await asyncio.to_thread(other.counters))["running"]:
            await asyncio.sleep(0.05)


async def test_many_at_once_each_get_their_own(engine: ModelEngine) -> None:
    prompts = [TextPrompt(text=text) for text in ("Once upon a", "What is a", "The model", "A preset is", "Load the", "Use a")]
    alone = [(await write(engine, prompt))[0] for prompt in prompts]
    together = await asyncio.gather(*(write(engine, prompt) for prompt in prompts))
    assert [text for text, _ in together] == alone


async def test_counting_is_right_or_not_offered(engine: ModelEngine, here: ModelEngine) -> None:
    for ask in (lambda one: one.tokenize("Once upon a"), lambda one: one.count(QUESTION)):
        try:
            assert await ask(engine) == await ask(here)
        except NotOffered as error:
            assert engine.card.host
            assert error.message.startswith("“other” does not tell")


async def test_no_adapters_are_always_taken(engine: ModelEngine) -> None:
    await engine.set_adapters([])
    if engine.card.host:
        with pytest.raises(NotOffered):
            await engine.set_adapters([Adapter(path="x.gguf", name="x.gguf", version="1")])


@pytest.mark.parametrize("name", [NAME, REMOTE])
async def test_unloading_ends_what_runs_with_a_sentence(app: App, name: str) -> None:
    engine = await (app.models.load(name, "", OPTIONS) if name == NAME else app.models.load(name))
    generation = await engine.submit(GenerationRequest(prompt=QUESTION, params=GenerationParams(**LONG)))
    await anext(generation)
    await app.models.unload(name)
    assert not engine.alive
    with pytest.raises(NoModelLoaded, match="was unloaded.*; the text so far is kept"):
        async for _ in generation:
            pass
    with pytest.raises(NoModelLoaded):
        await engine.submit(GenerationRequest(prompt=QUESTION))
