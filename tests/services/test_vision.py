"""The whole engine process with models that see: replies depend on images as they depend on words, and on nothing else."""

from __future__ import annotations

import asyncio
import base64
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from modules.core.errors import ContextOverflow, InvalidRequest
from modules.core.generation import (
    ChatPrompt,
    GenerationRequest,
    TextPrompt,
    TokenLogprob,
    TokenPrompt,
    Usage,
)
from modules.core.messages import Image, Message
from modules.core.model import TemplateSource
from modules.core.params import GenerationParams
from modules.engine.client import EngineClient
from modules.engine.worker import LoadCommand
from modules.services.worker import ModelPrompts, load
from tests.engine.ties import assert_same_but_for_ties
from tests.services.conftest import until
from tests.services.model_steps import StartApp
from tests.tiny_image_text import image_text_folder
from tests.tiny_models import write_folder, write_gguf
from tests.tiny_vision import KINDS, VisionFiles, picture, vision_files

pytestmark = pytest.mark.processes

GREEDY = GenerationParams(temperature=0, max_tokens=12, ban_eos=True)
OPTIONS = {"slots": 4, "threads": 1, "threads_batch": 1, "context_length": 256}
FIRST, SECOND = picture(1), picture(2)


def image(file: bytes, at: int = 0) -> Image:
    return Image(kind="png", data=base64.b64encode(file).decode(), at=at)


def look(*files: bytes, text: str = "What is it?", params: GenerationParams = GREEDY, **more) -> GenerationRequest:
    message = Message(role="user", content=text, images=tuple(image(file, number) for number, file in enumerate(files)))
    return GenerationRequest(prompt=ChatPrompt(messages=(*more.pop("before", ()), message, *more.pop("after", ())), **more), params=params)


async def reply(client: EngineClient, request: GenerationRequest) -> tuple[str, Usage]:
    text, usage = "", Usage()
    async for delta in await client.submit(request):
        text += delta.text
        usage = delta.usage or usage
    return text, usage


async def words(client: EngineClient, request: GenerationRequest) -> list[TokenLogprob]:
    """The tokens of a reply with their alternatives."""
    asked = request.model_copy(update={"params": request.params.model_copy(update={"logprobs": 5})})
    return [entry async for delta in await client.submit(asked) for entry in delta.logprobs]


async def started(files: VisionFiles, **options) -> EngineClient:
    return await EngineClient.start(str(files.model), "llama.cpp", OPTIONS | options, name="Seer")


@pytest.fixture(params=KINDS)
async def seer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EngineClient]:
    client = await started(vision_files(tmp_path_factory.getbasetemp(), request.param))
    yield client
    await client.close()


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> VisionFiles:
    return vision_files(tmp_path_factory.getbasetemp(), "llava")


@pytest.fixture(scope="module")
def prompts(llava: VisionFiles):
    ready = load(LoadCommand("Seer", str(llava.model), "", OPTIONS), lambda stage, done: None)
    yield ready.prompts
    ready.model.runner.close()
    ready.prompts._renderer.close()


async def test_the_same_image_gives_the_same_reply_and_another_one_another(seer: EngineClient) -> None:
    assert seer.card.vision
    first, usage = await reply(seer, look(FIRST))
    again, second_usage = await reply(seer, look(FIRST))
    other, _ = await reply(seer, look(SECOND))
    blind, blind_usage = await reply(seer, look())
    assert first == again
    assert len({first, other, blind}) == 3
    assert usage.reused_tokens == 0
    assert second_usage.prompt_tokens == usage.prompt_tokens > blind_usage.prompt_tokens + 10
    assert second_usage.reused_tokens == usage.prompt_tokens - 1


async def test_side_by_side_each_writes_what_it_writes_alone(seer: EngineClient) -> None:
    requests = [look(FIRST), look(text="My hat is"), look(SECOND, FIRST), look(SECOND), look(text="We bake bread"), look(FIRST, text="And now?")]
    together = await asyncio.gather(*(words(seer, request) for request in requests))
    alone = [await words(seer, request) for request in requests]
    assert_same_but_for_ties([[entry.token_id for entry in entries] for entries in together], alone)


async def test_a_conversation_goes_on_and_reuses_what_it_has_seen(seer: EngineClient) -> None:
    answer, usage = await reply(seer, look(FIRST))
    before = (*look(FIRST).prompt.messages, Message(role="assistant", content=answer))
    second, second_usage = await reply(seer, look(SECOND, text="And this?", before=before))
    assert second_usage.reused_tokens > usage.prompt_tokens - 20  # the header of the reply is tokenized with it
    fresh, _ = await reply(seer, look(SECOND, text="And this?", before=before, params=GREEDY))
    assert fresh == second


async def test_a_folder_of_transformers_sees_alike(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The hardest family: the tokens of an image see each other, and half of the layers see a window only."""
    folder = image_text_folder(tmp_path_factory.getbasetemp() / "seer-gemma3", "gemma3")
    client = await EngineClient.start(str(folder), "transformers", {"slots": 4, "threads": 1, "context_length": 256, "batch_tokens": 16}, name="Seer")
    try:
        assert client.card.vision
        first, usage = await reply(client, look(FIRST))
        again, second_usage = await reply(client, look(FIRST))
        assert first == again != (await reply(client, look(SECOND)))[0]
        assert second_usage.reused_tokens == usage.prompt_tokens - 1
        requests = [look(FIRST, text="And?"), look(text="My hat is"), look(SECOND, FIRST), look(SECOND), look(text="We bake bread"), look(FIRST, text="And now?")]
        together = await asyncio.gather(*(words(client, request) for request in requests))
        alone = [await words(client, request) for request in requests]
        assert_same_but_for_ties([[entry.token_id for entry in entries] for entries in together], alone)
        with pytest.raises(InvalidRequest, match="cannot be read"):
            await reply(client, look(FIRST[: len(FIRST) // 2]))
    finally:
        await client.close()


async def test_too_little_room_for_all_costs_time_and_no_text(llava: VisionFiles) -> None:
    wide, narrow = await started(llava), await started(llava, cache_tokens=256)
    try:
        params = GREEDY.model_copy(update={"max_tokens": 40})
        requests = [look(FIRST, params=params), look(SECOND, params=params), look(SECOND, FIRST, params=params), look(text="My hat", params=params)]
        alone = [await words(wide, request) for request in requests]
        crowded = await asyncio.gather(*(words(narrow, request) for request in requests))
        assert_same_but_for_ties([[entry.token_id for entry in entries] for entries in crowded], alone)
    finally:
        await wide.close()
        await narrow.close()


@pytest.mark.parametrize(
    "params",
    [
        {"repetition_penalty": 1.3}, {"presence_penalty": 1.0, "frequency_penalty": 0.5}, {"dry_multiplier": 0.8},
        {"repetition_penalty": 1.3, "repetition_penalty_range": 20},
    ],
)  # fmt: skip
async def test_penalties_see_the_words_and_not_the_image(llava: VisionFiles, params: dict[str, float]) -> None:
    client = await started(llava)
    try:
        text, usage = await reply(client, look(FIRST, FIRST, params=GREEDY.model_copy(update=params)))
        assert text and usage.completion_tokens == 12
    finally:
        await client.close()


async def test_a_draft_model_sits_out_where_there_are_images(llava: VisionFiles, tmp_path: Path) -> None:
    draft = write_gguf(tmp_path / "draft.gguf", write_folder(tmp_path / "draft", seed=5))
    alone, drafted = await started(llava), await started(llava, draft_model=str(draft))
    try:
        counts = []
        for request in (look(FIRST), look(text="My hat is"), look(FIRST, SECOND)):
            assert (await reply(drafted, request))[0] == (await reply(alone, request))[0]
            counts.append((await drafted.counters()).drafted_tokens)
        assert 0 == counts[0] < counts[1] == counts[2]
    finally:
        await alone.close()
        await drafted.close()


async def test_a_model_without_a_projector_says_so_and_what_helps(llava: VisionFiles) -> None:
    client = await started(llava, mmproj="none")
    try:
        assert not client.card.vision
        with pytest.raises(InvalidRequest, match=r"Seer does not see images\. Choose a model that does, or put the projector"):
            await reply(client, look(FIRST))
        assert (await reply(client, look()))[0]
    finally:
        await client.close()


async def test_a_damaged_image_is_refused_and_nobody_else_notices(llava: VisionFiles) -> None:
    client = await started(llava)
    try:
        running = asyncio.create_task(reply(client, look(FIRST)))
        with pytest.raises(InvalidRequest, match="cannot be read"):
            await reply(client, look(FIRST[: len(FIRST) // 2]))
        with pytest.raises(InvalidRequest, match="not in base64"):
            bad = Message(role="user", content="?", images=(Image(kind="png", data="%%%%"),))
            await reply(client, GenerationRequest(prompt=ChatPrompt(messages=(bad,))))
        with pytest.raises(InvalidRequest, match="not in the vocabulary"):  # the number of an image is of no use to others
            await reply(client, GenerationRequest(prompt=TokenPrompt(token_ids=(40, 320, 41))))
        assert (await running)[0] == (await reply(client, look(FIRST)))[0]
    finally:
        await client.close()


async def test_what_a_model_takes_with_a_projector_says_nothing_of_it_alone(llava: VisionFiles, start_app: StartApp, tmp_path: Path) -> None:
    models = tmp_path / "models"
    for name in ("seeing", "blind"):
        (models / name).mkdir(parents=True)
        shutil.copy(llava.model, models / name / "model.gguf")
    shutil.copy(llava.projector, models / "seeing" / "mmproj.gguf")
    app = start_app(models_dir=models)
    app.fit.start()
    assert (await app.models.load("seeing/model.gguf", "", OPTIONS)).card.vision
    await app.models.load("blind/model.gguf", "", OPTIONS)
    await until(lambda: any(row.name == "blind/model.gguf" for row in app.fit.records.rows()))
    assert len(app.fit.records.rows()) == 1


async def test_a_model_that_sleeps_wakes_for_a_conversation_with_images(llava: VisionFiles, start_app: StartApp, tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    shutil.copy(llava.model, models / "model.gguf")
    shutil.copy(llava.projector, models / "mmproj.gguf")
    app = start_app(models_dir=models)
    assert app.models.status().sees is None
    await app.models.load("model.gguf", "", OPTIONS)
    conversation = await app.conversations.create("ann", {"preset": "", "params": {"temperature": 0, "max_tokens": 4, "ban_eos": True}})
    for count in (1, 2):
        await app.models.make_room()
        status = app.models.status()
        assert (status.loaded, status.asleep, status.sees) == ((), ("model.gguf",), True)
        await app.replies.send("ann", conversation, "What is it?", [image(FIRST)])
        await until(lambda: app.replies.running(conversation) is None)
        messages = (await app.conversations.read("ann", conversation)).messages
        assert [message.status for message in messages] == ["complete"] * 2 * count, messages[-1].error


# ---- prompts, in this process --------------------------------------------------------------------------------------


def test_images_stand_where_they_were_put(prompts: ModelPrompts) -> None:
    vocab_size = prompts._tokenizer.vocab_size

    def shape(request: GenerationRequest) -> list[int]:
        return [min(token, vocab_size) for token in prompts.prepare(request).token_ids]

    inside = GenerationRequest(prompt=ChatPrompt(messages=(Message(role="user", content="ab", images=(image(FIRST, 1),)),)), params=GREEDY)
    ids = shape(inside)
    start = ids.index(vocab_size)
    assert ids[start : start + 25] == [vocab_size] * 25
    words = bytes(b"".join(prompts._tokenizer.piece(token) for token in (*ids[:start], 0, *ids[start + 25 :]))).decode()
    assert words == "<|im_start|>user\na<|endoftext|>b<|im_end|>\n<|im_start|>assistant\n"
    assert prompts.count(inside.prompt) == len(ids)


def test_words_that_look_like_a_mark_are_words(prompts: ModelPrompts) -> None:
    text = "[image-00000000000000000000000000000000-0] <__media__>"
    assert prompts.prepare(look(text=text)).token_ids == prompts._tokenizer.encode(
        f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n", add_special=False, parse_special=True
    )


def test_the_oldest_images_are_left_out_of_a_long_conversation(prompts: ModelPrompts) -> None:
    before = [message for _ in range(10) for message in (*look(FIRST).prompt.messages, Message(role="assistant", content="A fox."))]
    prepared = prompts.prepare(look(SECOND, before=before))
    assert 0 < prepared.dropped_messages < 20
    assert len(prepared.token_ids) <= 256 - 12
    with pytest.raises(ContextOverflow):
        prompts.prepare(look(SECOND, before=before, overflow="refuse"))
    with pytest.raises(ContextOverflow):
        prompts.prepare(look(*[FIRST] * 11))


def test_a_template_that_loses_an_image_is_refused(prompts: ModelPrompts) -> None:
    for text, count in (("{{ messages[-1].content[:3] }} .", 0), ("{{ messages[-1].content * 2 }}", 1)):
        with pytest.raises(InvalidRequest, match=f"wrote {count} of the 1 images"):
            prompts.prepare(look(FIRST, template=TemplateSource(text=text, origin="a test")))


def test_ids_of_an_image_are_not_told(prompts: ModelPrompts) -> None:
    words = look(text="What is this?").model_copy(update={"tells_ids": True})
    assert prompts.prepare(words).prompt_ids == tuple(prompts.prepare(words).token_ids)
    assert prompts.prepare(look(text="What is this?")).prompt_ids == ()
    with pytest.raises(InvalidRequest, match="leave return_token_ids out"):
        prompts.prepare(look(FIRST).model_copy(update={"tells_ids": True}))


async def test_a_prompt_that_ends_with_an_image_is_refused(llava: VisionFiles) -> None:
    client = await started(llava)
    try:
        with pytest.raises(InvalidRequest, match="ends with an image; write at least one word after it"):
            await reply(client, look(FIRST, text="", template=TemplateSource(text="{{ messages[-1].content }}", origin="a test")))
        assert (await reply(client, GenerationRequest(prompt=TextPrompt(text="The"), params=GREEDY)))[0]
    finally:
        await client.close()
