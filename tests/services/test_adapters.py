"""Adapters by name over a real engine: each conversation, the notebook and a single request with their own, and what does not fit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from modules.core.errors import InvalidRequest, NotFound, NotOffered
from modules.core.generation import EngineCard, GenerationRequest, TextPrompt
from modules.core.model import AdapterChoice, ModelInfo
from modules.core.params import GenerationParams
from modules.core.settings import Settings
from modules.services.adapters import choices_from, choices_written, origin_note
from modules.services.app import App, build_app
from tests.e2e.adapter_files import write_adapter as write_peft
from tests.services.conftest import FOLDERS, ONE, TWO, until, without_titles
from tests.services.model_steps import OPTIONS, StartApp
from tests.services.model_steps import write_adapter as write_gguf
from tests.services.reply_steps import ANN, ENDLESS, SHORT, ended, growing

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="module")]

GREEDY = GenerationParams(temperature=0, max_tokens=12, ban_eos=True)
QUESTION = "How do I load a model?"
STRONG, SOFT = AdapterChoice(name="strong.gguf"), AdapterChoice(name="odd-words", scale=2)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def app(tmp_path_factory: pytest.TempPathFactory, model_files: Path, starter_gguf: Path, starter_dir: Path) -> AsyncIterator[App]:
    """One engine, one adapter in each format, and one for another model."""
    folders = {name: tmp_path_factory.mktemp(name) for name in FOLDERS}
    fill(folders["loras_dir"], starter_gguf, starter_dir)
    app = build_app(Settings(models_dir=model_files, template_check=False, model=ONE, options={**OPTIONS, "context_length": 4096}, **folders))  # replies must last
    without_titles(app)
    await app.start()
    yield app
    await app.close()


def fill(loras: Path, starter_gguf: Path, starter_dir: Path) -> None:
    write_gguf(loras / "strong.gguf", starter_gguf)
    write_peft(loras / "odd-words", starter_dir)
    write_peft(loras / "foreign", starter_dir)
    config = (loras / "foreign" / "adapter_config.json").read_text(encoding="utf-8")
    (loras / "foreign" / "adapter_config.json").write_text(config.replace('"r": 4', '"r": 5'), encoding="utf-8")
    (loras / "broken.gguf").write_bytes((loras / "strong.gguf").read_bytes()[:200])


async def text(app: App, adapters: Sequence[AdapterChoice] | None = None, prompt: str = QUESTION) -> str:
    generation = await app.generation.submit(GenerationRequest(prompt=TextPrompt(text=prompt), params=GREEDY), adapters=adapters)
    return "".join([delta.text async for delta in generation])


async def say(app: App, settings: dict[str, Any]) -> Any:
    """The finished reply to a question in a conversation with such settings."""
    return await ended(app, await begin(app, settings))


async def begin(app: App, settings: dict[str, Any]) -> str:
    """A conversation in which a reply has begun."""
    conversation_id = await app.conversations.create(ANN, {**SHORT, **settings})
    await app.replies.send(ANN, conversation_id, QUESTION)
    return conversation_id


async def test_the_list_says_what_fits_and_why_not(app: App) -> None:
    await until(lambda: bool(app.models.loaded_names()))
    rows = {row.info.name: row for row in await app.adapters.list()}
    assert (rows["strong.gguf"].targets, rows["odd-words"].targets) == (("ffn_up",), ("up_proj",))
    assert not rows["strong.gguf"].problem
    assert not rows["odd-words"].problem
    assert "has rank 4, its settings say 5" in rows["foreign"].problem
    assert "broken.gguf" in rows["broken.gguf"].problem
    assert rows["odd-words"].note.startswith("Made for “starter”, and this model is called otherwise")
    with pytest.raises(NotFound):
        await app.adapters.list("none.gguf")
    loras = app.settings.loras_dir
    config = (loras / "odd-words" / "adapter_config.json").read_text(encoding="utf-8")
    (loras / "foreign" / "adapter_config.json").write_text(config.replace('"starter"', '"org/two"'), encoding="utf-8")
    rows = {row.info.name: row for row in await app.adapters.list(TWO)}  # one that is not loaded can be asked about too
    assert (rows["foreign"].problem, rows["foreign"].note) == ("", "")


async def test_each_conversation_has_its_own_and_its_receipt_says_so(app: App) -> None:
    sets: tuple[Any, ...] = (None, [], [STRONG.model_dump()], [SOFT.model_dump()], [SOFT.model_dump(), STRONG.model_dump()])
    alone = [await say(app, {"adapters": chosen}) for chosen in sets]
    assert alone[0].content == alone[1].content
    assert len({reply.content for reply in alone}) == len(sets) - 1
    assert [reply.receipt.get("adapters", []) for reply in alone] == [chosen or [] for chosen in sets]
    begun = [await begin(app, {"adapters": chosen}) for _ in range(2) for chosen in sets]
    together = await asyncio.gather(*(ended(app, conversation_id) for conversation_id in begun))
    assert [reply.content for reply in together] == [reply.content for reply in alone] * 2


@pytest.mark.parametrize(
    ("base", "name", "description", "doubt"),
    [
        ("Qwen/Qwen3-0.6B", "unsloth/Qwen3-0.6B-Q4_K_M.gguf", "", False),
        ("/home/me/models/My Model", "my-model-f16.gguf", "", False),
        ("unsloth/llama-3.2-1b-instruct-unsloth-bnb-4bit", "Llama-3.2-1B-Instruct", "", False),
        ("org/base", "file.gguf", "Org Base", False),
        ("", "file.gguf", "", False),
        ("Qwen/Qwen3-0.6B", "Qwen3-1.7B-Q8_0.gguf", "Qwen3 1.7B", True),
    ],
)
async def test_another_base_model_is_a_doubt_and_no_refusal(base: str, name: str, description: str, doubt: bool) -> None:
    model = ModelInfo(name=name, path=name, format="gguf", description=description)
    assert bool(origin_note(base, model)) == doubt


async def test_those_of_the_model_are_for_all_that_have_none(app: App) -> None:
    plain, strong = await text(app), await text(app, [STRONG])
    assert plain != strong
    try:
        await app.adapters.apply("", [STRONG])
        assert await text(app) == strong
        assert await text(app, ()) == plain
        assert (await say(app, {})).receipt["adapters"] == [STRONG.model_dump()]
        first, second = [await app.generation.next_tokens(TextPrompt(text=QUESTION), 5, adapters=chosen) for chosen in (None, ())]
        assert first != second
        with pytest.raises(InvalidRequest, match="broken"):
            await app.adapters.apply(ONE, [AdapterChoice(name="broken.gguf")])
        assert await text(app) == strong
        await app.adapters.apply(ONE, [STRONG.model_copy(update={"scale": 0.3})])
        weak = await text(app)
        assert weak not in (plain, strong)
        await app.adapters.apply(ONE, [STRONG.model_copy(update={"scale": 0})])
        assert await text(app) == plain
    finally:
        await app.adapters.apply(ONE, [])
    assert await text(app) == plain


async def test_a_running_reply_keeps_what_it_began_with(app: App) -> None:
    conversation_id = await app.conversations.create(ANN, {**ENDLESS, "params": {**ENDLESS["params"], "max_tokens": 800}})
    await app.replies.send(ANN, conversation_id, QUESTION)
    await growing(app, conversation_id)
    try:
        await app.adapters.apply(ONE, [STRONG])
        assert app.replies.running(conversation_id) is not None
        changed = await ended(app, conversation_id)
    finally:
        await app.adapters.apply(ONE, [])
    await app.replies.regenerate(ANN, conversation_id, changed.id)
    assert (await ended(app, conversation_id)).content == changed.content
    assert "adapters" not in changed.receipt


async def test_who_waits_for_other_adapters_can_be_stopped_and_sees_the_place(app: App) -> None:
    first = await app.conversations.create(ANN, ENDLESS)
    await app.replies.send(ANN, first, QUESTION)
    await growing(app, first)
    second = await app.conversations.create(ANN, {**ENDLESS, "adapters": [STRONG.model_dump()]})
    await app.replies.send(ANN, second, QUESTION)
    await until(lambda: (reply := app.replies.running(second)) is not None and reply.generation is not None and reply.generation.place == 1)
    await app.replies.stop(second)
    reply = await ended(app, second)
    assert (reply.status, reply.content) == ("stopped", "")
    assert app.replies.running(first) is not None
    await app.replies.stop(first)
    await ended(app, first)


async def test_one_that_is_gone_or_does_not_fit_ends_the_reply_with_a_sentence(app: App) -> None:
    gone = await say(app, {"adapters": [{"name": "gone", "scale": 1}]})
    assert (gone.status, gone.error) == ("failed", f"There is no adapter “gone” in {app.settings.loras_dir.name}/; choose others in the settings.")
    broken = await say(app, {"adapters": [{"name": "broken.gguf", "scale": 1}]})
    assert broken.status == "failed"
    assert "broken.gguf" in broken.error
    assert broken.error.endswith(" Or leave it out.")


async def test_settings_are_checked(app: App) -> None:
    for wrong in ([{"name": "a", "scale": 9}], [{"name": "a"}, {"name": "a"}], [{"name": ""}], [{"scale": 1}], "strong.gguf", [{"name": "a", "path": "/etc"}]):
        with pytest.raises(InvalidRequest) as caught:
            await app.conversations.create(ANN, {"adapters": wrong})
        assert caught.value.details["field"] == "adapters"
        with pytest.raises(InvalidRequest):
            choices_from(wrong)
    conversation_id = await app.conversations.create(ANN, {"adapters": [{"name": "a", "scale": 0.5}]})
    await app.conversations.update_settings(ANN, conversation_id, {"system_prompt": "Be short."})  # as the form does, which knows no adapters
    assert (await app.conversations.read(ANN, conversation_id)).settings.adapters == (AdapterChoice(name="a", scale=0.5),)


async def test_the_notebook_has_its_own(app: App) -> None:
    plain, strong = await text(app, ()), await text(app, [STRONG])
    params = {"temperature": 0, "max_tokens": 12, "ban_eos": True}
    for chosen, expected in ((None, plain), ([STRONG.model_dump()], strong), ([], plain)):
        await app.notebook.generate(ANN, QUESTION, {"preset": "", "params": params, "adapters": chosen})
        await until(lambda: not app.notebook._writing)
        (end,) = app.notebook._ended.values()
        assert end.text == QUESTION + expected
        assert end.tries[0].receipt["adapters"] == (chosen or [])
    with pytest.raises(InvalidRequest, match="adapters"):
        await app.notebook.generate(ANN, QUESTION, {"adapters": [{"name": "a", "scale": 70}]})


async def test_retrained_files_act_at_the_next_request(app: App, starter_gguf: Path, starter_dir: Path, tmp_path: Path) -> None:
    again = AdapterChoice(name="again")
    loras = app.settings.loras_dir
    write_peft(loras / "again", starter_dir)
    before = await text(app, [again])
    write_peft(tmp_path / "other", starter_dir, rank=2)
    for file in (tmp_path / "other").iterdir():
        (loras / "again" / file.name).write_bytes(file.read_bytes())
    after = await text(app, [again])
    assert after != before
    assert await text(app, [again]) == after


async def test_a_model_of_another_server_takes_none_and_says_so(app: App) -> None:
    far = ModelInfo(name="remote/there/model", path="", format="remote")
    for info in await app.models.adapters():
        assert app.adapters._row(info, far, "remote").problem == "remote/there/model takes no adapters of this machine; load another model."
    card = EngineCard(name=far.name, loader="remote", context_length=0, slots=1, vocab_size=0, memory_bytes=0, load_s=0)
    assert await app.adapters.resolve(card, None) == ()
    with pytest.raises(NotOffered, match="takes no LoRA adapters; take them out of the settings"):
        await app.adapters.resolve(card, [STRONG])


async def test_after_a_start_from_nothing_the_list_still_says_what_is_torn(start_app: StartApp, tmp_path: Path, starter_gguf: Path, starter_dir: Path) -> None:
    app = start_app()
    fill(tmp_path / "loras_dir", starter_gguf, starter_dir)
    rows = {row.info.name: row for row in await app.adapters.list()}
    assert [name for name, row in rows.items() if row.problem] == ["broken.gguf"]
    assert rows["strong.gguf"].targets == ("ffn_up",)


@pytest.mark.asyncio(loop_scope="function")
async def test_those_of_the_command_line_are_in_use_after_the_start(start_app: StartApp, tmp_path: Path, starter_gguf: Path, starter_dir: Path) -> None:
    (tmp_path / "loras_dir").mkdir()
    fill(tmp_path / "loras_dir", starter_gguf, starter_dir)
    app = start_app(model=ONE, options=OPTIONS, adapters=("strong.gguf=0.5", "odd-words"))
    await app.start()
    await until(lambda: bool(app.models.status().loaded and app.models.status().loaded[0].adapters))
    assert app.models.status().loaded[0].adapters == (AdapterChoice(name="strong.gguf", scale=0.5), AdapterChoice(name="odd-words"))
    assert await text(app) != await text(app, ())


@pytest.mark.asyncio(loop_scope="function")
async def test_one_of_the_command_line_that_cannot_be_used_leaves_the_model_loaded_and_is_told(start_app: StartApp) -> None:
    app = start_app(model=ONE, options=OPTIONS, adapters=("nowhere",))
    await app.start()
    await until(lambda: "nowhere" in app.models.status().error)
    assert app.models.loaded_names() == (ONE,)


@pytest.mark.parametrize(
    ("written", "name", "scale"),
    [("a", "a", 1.0), ("a=0.5", "a", 0.5), ("a=-.5", "a", -0.5), ("a=b", "a=b", 1.0), ("x=y=2", "x=y", 2.0), ("=2", "=2", 1.0)],
)
async def test_an_adapter_on_the_command_line(written: str, name: str, scale: float) -> None:
    assert choices_written([written]) == (AdapterChoice(name=name, scale=scale),)
