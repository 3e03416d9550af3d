"""Receipts say what was asked and what wrote; what the model saw can be seen again."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from pathlib import Path
from typing import Any

import pytest

from modules.core.errors import InvalidRequest, NotFound
from modules.core.generation import GenerationRequest, TextPrompt, Usage
from modules.core.params import GenerationParams
from modules.services.app import App
from modules.services.kept_prompts import KeptPrompt
from modules.services.receipts import changed, cost, short
from tests.services.conftest import ONE, WRITING
from tests.services.reply_steps import ANN, SHORT, ended, talk

TEMPLATE = "Angles"

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="module")]


async def test_a_receipt_says_what_was_asked_and_what_wrote(app: App, model_files: Path) -> None:
    conversation_id = await talk(app)
    _, reply = await app.replies.send(ANN, conversation_id, "What is a LoRA?")
    receipt = (await ended(app, conversation_id)).receipt or {}
    assert receipt["params"]["temperature"] == 0
    assert receipt["params"]["max_tokens"] == 12
    assert set(changed(receipt)) == {"temperature", "max_tokens"}
    made = receipt["made_by"]
    assert (made["loader"], made["context_length"], made["options"]) == ("llama.cpp", 1024, WRITING)
    assert made["engine"].startswith("llama-cpp-python ")
    assert len(receipt["prompt_hash"]) == len(receipt["template"]["hash"]) == 64
    assert receipt["template"]["origin"]
    file = model_files / ONE
    hashed = hashlib.sha256(file.read_bytes()).hexdigest()
    kept: dict[str, Any] = {}

    async def complete() -> bool:
        kept.update((await app.conversations.message(ANN, reply)).receipt or {})
        return "sha256" in kept["made_by"]["file"]

    async with asyncio.timeout(20):
        while not await complete():
            await asyncio.sleep(0.02)
    assert kept["made_by"]["file"] == {
        "name": ONE, "size_bytes": file.stat().st_size, "modified_ns": file.stat().st_mtime_ns, "sha256": hashed,
    }  # fmt: skip
    assert {name: value for name, value in kept.items() if name != "made_by"} == {name: value for name, value in receipt.items() if name != "made_by"}
    told = short(kept) or {}
    assert "seed" in told and not {"params", "made_by", "prompt_hash"} & told.keys()


async def test_a_reply_that_gave_way_says_how_often(app: App) -> None:
    assert (cost(Usage(preemptions=2))["preemptions"], "preemptions" in cost(Usage())) == (2, False)


async def test_what_the_model_saw_is_shown_and_known_to_be_the_same(app: App) -> None:
    conversation_id = await talk(app, {**SHORT, "system_prompt": "Be brief."})
    question, reply = await app.replies.send(ANN, conversation_id, "What is a LoRA?")
    await ended(app, conversation_id)
    seen = await app.seen.of(ANN, reply)
    assert seen["same"] is True
    assert [one["role"] for one in seen["messages"]] == ["system", "user"]
    assert "What is a LoRA?" in seen["text"] and seen["context_length"] == 1024
    assert (await app.seen.of(ANN, question))["same"] is None, "of a message no receipt tells"
    await app.replies.extend(ANN, conversation_id, reply)
    await ended(app, conversation_id)
    assert (await app.seen.of(ANN, reply))["same"] is True, "the first part was written from this"
    await app.conversations.update_settings(ANN, conversation_id, {"system_prompt": "Be long."})
    again = await app.seen.of(ANN, reply)
    assert (again["same"], again["kept"], again["text"]) == (True, True, seen["text"]), "as it was then"
    with pytest.raises(NotFound):
        await app.seen.of("bob", reply)
    alone = await app.conversations.append(ANN, await talk(app), None, "assistant", "Hello")
    with pytest.raises(InvalidRequest, match="answers nothing"):
        await app.seen.of(ANN, alone.id)


async def test_a_conversation_is_written_out_as_the_model_sees_it(app: App) -> None:
    conversation_id = await talk(app, {**SHORT, "system_prompt": "Be brief."})
    question, reply = await app.replies.send(ANN, conversation_id, "What is a LoRA?")
    written = await ended(app, conversation_id)
    seen = await app.seen.of(ANN, reply)
    before, whole = await app.seen.written_out(ANN, question), await app.seen.written_out(ANN, reply)
    assert (before.text, before.dropped, before.images) == (seen["text"], 0, 0)
    assert whole.text == seen["text"] + written.content
    marked = TextPrompt(text=before.text, add_bos=False)
    generation = await app.generation.submit(GenerationRequest(prompt=marked, params=GenerationParams(max_tokens=1), client=ANN))
    async with contextlib.aclosing(generation):
        assert [delta async for delta in generation]
    assert generation.started and generation.started.prompt_hash == seen["hash"], "a notebook reads the same tokens from it"
    with pytest.raises(NotFound):
        await app.seen.written_out("bob", reply)


async def test_what_the_model_saw_stays_whatever_is_changed_since(app: App) -> None:
    await app.templates.save(TEMPLATE, "{% for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}<assistant>")
    conversation_id = await talk(app, {**SHORT, "system_prompt": "Be brief.", "template": TEMPLATE})
    first, early = await app.replies.send(ANN, conversation_id, "What is a LoRA?")
    await ended(app, conversation_id)
    _, reply = await app.replies.send(ANN, conversation_id, "And a lamp?")
    original = await ended(app, conversation_id)
    seen = await app.seen.of(ANN, reply)
    assert (seen["same"], seen["text"].startswith("<system>Be brief.<user>What is a LoRA?<assistant>")) == (True, True)
    branch = (await app.conversations.read(ANN, await app.conversations.branch(ANN, reply))).messages[-1].id
    await app.conversations.update_settings(ANN, conversation_id, {"system_prompt": "Be long.", "template": ""})
    await app.storage.run(lambda stores: stores.messages.save(ANN, early, {"content": "Something else."}))
    changed_template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    await app.templates.save(TEMPLATE, changed_template, stamp=(await app.templates.find(TEMPLATE)).stamp)
    for message_id in (reply, branch):
        assert (await app.seen.of(ANN, message_id)) == seen
    await app.replies.replay(ANN, conversation_id, reply)
    again = await ended(app, conversation_id)
    assert (again.content, (again.receipt or {})["replay"]["same_prompt"]) == (original.content, True), "with the template and system prompt of then"
    await app.conversation_bin.discard(ANN, await app.conversations.delete_message(ANN, first))
    assert (await app.seen.of(ANN, branch))["text"] == seen["text"]


async def test_a_models_own_template_is_kept_with_what_it_wrote(app: App) -> None:
    conversation_id = await talk(app, SHORT)
    _, reply = await app.replies.send(ANN, conversation_id, "What is a LoRA?")
    original = await ended(app, conversation_id)
    seen = await app.seen.of(ANN, reply)
    kept = await app.conversations.prompts.of(ANN, reply)
    assert kept and kept.prompt.template and kept.prompt.template.text.strip()
    await app.templates.save("Other", "{% for message in messages %}|{{ message.content }}{% endfor %}>")
    await app.models.choose_template(ONE, "Other")
    try:
        assert (seen["same"], await app.seen.of(ANN, reply)) == (True, seen), "with the template of then"
        await app.replies.replay(ANN, conversation_id, reply)
        again = await ended(app, conversation_id)
        assert (again.content, (again.receipt or {})["replay"]["same_prompt"]) == (original.content, True)
        without = KeptPrompt(kept.prompt.model_copy(update={"template": None}))
        made = await app.conversations.append(ANN, await talk(app), None, "assistant", "x")
        await app.conversations.save_reply(ANN, made.id, content="x", status="complete", receipt=original.receipt)
        await app.conversations.prompts.keep(ANN, made.id, without, ())
        told = await app.seen.of(ANN, made.id)
        assert (told["kept"], told["same"], told["same_template"]) == (True, False, False), "it is the template that differs"
    finally:
        await app.models.choose_template(ONE, "")


async def test_a_replay_of_a_begun_reply_goes_on_from_the_same_words(app: App) -> None:
    conversation_id = await talk(app)
    reply = await app.turns.begin(ANN, conversation_id, "What is a LoRA?", "A LoRA is")
    original = await ended(app, conversation_id)
    assert (await app.seen.of(ANN, reply))["same"] is True
    await app.replies.replay(ANN, conversation_id, reply)
    again = await ended(app, conversation_id)
    assert (again.content, (again.receipt or {})["replay"]["same_text"]) == (original.content, True)
    assert again.content.startswith("A LoRA is")


async def test_a_reply_is_written_again_from_its_receipt(app: App) -> None:
    conversation_id = await talk(app, {"preset": "", "params": {"temperature": 1.0, "top_k": 1, "max_tokens": 12}})
    question, reply = await app.replies.send(ANN, conversation_id, "What is a LoRA?")
    first = await ended(app, conversation_id)
    await app.conversations.update_settings(ANN, conversation_id, {"params": {"temperature": 0.1}})
    again = await app.replies.replay(ANN, conversation_id, reply)
    second = await ended(app, conversation_id)
    receipt = second.receipt or {}
    assert (second.id, second.parent_id, second.version_count) == (again, question, 2)
    assert (receipt["seed"], receipt["params"]["temperature"]) == ((first.receipt or {})["seed"], 1.0)
    assert (second.content, receipt["replay"]) == (first.content, {"of": reply, "same_model": True, "same_prompt": True, "same_text": True})
    with pytest.raises(InvalidRequest, match="regenerate this one"):
        await app.replies.replay(ANN, conversation_id, question)
