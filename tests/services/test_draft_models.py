"""A draft model is chosen by its name in the model folder; what cannot be one is refused before anything makes room for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modules.core.errors import AppError, NotFound, UnsupportedFormat
from modules.core.generation import GenerationRequest, TextPrompt
from modules.core.params import GenerationParams
from modules.services.model_choices import LoadChoice, ModelChoices
from tests.services.conftest import ONE, THREE, TWO, engine_pids, until
from tests.services.model_steps import OPTIONS, StartApp, writes
from tests.services.reply_steps import ANN, ended, talk

pytestmark = pytest.mark.processes


async def test_a_draft_model_is_named_as_in_the_list_and_remembered_so(start_app: StartApp) -> None:
    models = start_app().models
    options: dict[str, Any] = {**OPTIONS, "draft_model": TWO, "draft_tokens": 3}
    client = await models.load(ONE, "", options)
    assert any(note.startswith(f"{TWO} drafts up to 3 tokens") for note in client.card.notes)
    request = GenerationRequest(prompt=TextPrompt(text="Once upon a"), params=GenerationParams(temperature=0, max_tokens=40, ban_eos=True))
    generation = await client.submit(request)
    assert sum([len(delta.token_ids) async for delta in generation]) == 40
    assert generation.usage is not None
    assert generation.usage.drafted_tokens > 0
    assert models.remembered(ONE).options["draft_model"] == TWO


async def test_the_receipt_of_a_reply_tells_how_many_drafts_were_right(start_app: StartApp) -> None:
    app = start_app()
    await app.models.load(ONE, "", {**OPTIONS, "draft_model": TWO})
    conversation_id = await talk(app, {"preset": "", "params": {"temperature": 0, "max_tokens": 60, "ban_eos": True}})
    await app.replies.send(ANN, conversation_id, "What is a LoRA?")
    receipt = (await ended(app, conversation_id)).receipt
    assert receipt is not None
    assert receipt["completion_tokens"] == 60
    assert 0 < receipt["accepted_tokens"] <= receipt["drafted_tokens"]
    await app.models.load(ONE, "", {**OPTIONS, "draft_lookup": "off"})
    await app.replies.send(ANN, conversation_id, "What is a preset?")
    receipt = (await ended(app, conversation_id)).receipt
    assert receipt is not None
    assert "drafted_tokens" not in receipt


@pytest.mark.parametrize(
    ("name", "error", "sentence"),
    [
        ("none.gguf", NotFound, "There is no model “none.gguf” to draft with; choose"),
        ("../models/one.gguf", NotFound, "to draft with; choose"),
        ("/etc/passwd", NotFound, "to draft with; choose"),
        ("broken.gguf", UnsupportedFormat, "The draft model: "),
    ],
)
async def test_what_cannot_draft_is_refused_and_the_loaded_model_stays(
    start_app: StartApp, name: str, error: type[AppError], sentence: str
) -> None:
    models = start_app().models
    loaded = await models.load(TWO, "", OPTIONS)
    with pytest.raises(error, match=sentence):
        await models.load(ONE, "", {**OPTIONS, "draft_model": name})
    assert list(engine_pids()) == [loaded.pid]
    assert await writes(loaded)


def test_a_renamed_draft_model_is_still_the_one_that_drafts(tmp_path: Path) -> None:
    choices = ModelChoices(tmp_path / "models.yaml")
    choices.remember(LoadChoice(ONE, "llama.cpp", {"draft_model": TWO, "slots": 2}))
    choices.remember(LoadChoice(TWO))
    choices.move({TWO: "renamed.gguf"})
    assert choices.of(ONE).options == {"draft_model": "renamed.gguf", "slots": 2}
    assert choices.last() == "renamed.gguf"


async def test_what_a_model_takes_with_a_draft_model_says_nothing_of_it_alone(start_app: StartApp) -> None:
    app = start_app()
    app.fit.start()
    await app.models.load(ONE, "", {**OPTIONS, "draft_model": TWO})
    await app.models.load(THREE, "", OPTIONS)
    await until(lambda: any(row.name == THREE for row in app.fit.records.rows()))
    assert {row.name for row in app.fit.records.rows()} == {THREE}
