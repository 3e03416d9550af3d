"""Templates under examination with a real engine: tokens, findings, errors with their lines, a choice that counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import pytest_asyncio

from modules.core.errors import NoModelLoaded, NotFound
from modules.core.generation import ChatPrompt, GenerationRequest
from modules.core.messages import Message
from modules.core.model import TemplateSource
from modules.core.params import GenerationParams
from modules.services.app import App
from modules.services.template_doctor import EDITED, TemplateDoctor
from tests.services.conftest import ONE, until

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="module")]
OWNER = "local"
CHATML = (
    "{% for m in messages %}\n{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}\n{% endfor %}\n"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
HEADERS = "{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>' + m.content + '<|eot_id|>' }}{% endfor %}"


def edited(text: str, *stop: str) -> TemplateSource:
    return TemplateSource(text=text, origin=EDITED, stop=stop)


@pytest_asyncio.fixture(loop_scope="module")
async def doctor(app: App) -> TemplateDoctor:
    await until(lambda: app.models.loaded() is not None)
    return app.template_doctor


async def test_the_models_own_is_shown_token_by_token(app: App, doctor: TemplateDoctor) -> None:
    own = await doctor.own()
    shown = await doctor.look(OWNER, None, sample="Several turns")
    assert (shown["error"], shown["model"]) == (None, ONE)
    assert "".join(text for text, _, _ in shown["tokens"]) == shown["text"]
    assert shown["count"] == sum(len(ids) for _, ids, _ in shown["tokens"])
    special = {text for text, _, is_special in shown["tokens"] if is_special}
    assert special
    assert all(text not in "You are a patient gardener." for text in special)
    assert "problem" not in {found["level"] for found in shown["findings"]}
    same = await doctor.look(OWNER, edited(own["text"]), sample="Several turns")
    assert same["text"] == shown["text"]
    asked = ChatPrompt(messages=(Message(role="user", content="When do I plant beans?"),))
    assert (await app.generation.count(asked))[0] == (await doctor.look(OWNER, None))["count"]


async def test_a_letter_of_several_tokens_is_one_piece(doctor: TemplateDoctor) -> None:
    shown = await doctor.look(OWNER, edited("{% for m in messages %}{{ '🦄' + m.content }}{% endfor %}"))
    assert any("🦄" in text and len(ids) > 1 for text, ids, _ in shown["tokens"])
    assert "\ufffd" not in "".join(text for text, _, _ in shown["tokens"])


@pytest.mark.parametrize(
    ("text", "line", "part"),
    [
        ("a\n{% for m in %}", 2, "not valid in line 2"),
        ("a\n\n{{ messages[9].content.x }}", 3, "failed"),
        ("{% for m in range(99999999) %}{% endfor %}", None, "Range too big"),
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", None, "did not finish within 2 s"),
    ],
)
async def test_an_error_is_told_with_its_line_and_hurts_nobody(doctor: TemplateDoctor, text: str, line: int | None, part: str) -> None:
    shown = await doctor.look(OWNER, edited(text))
    assert part in shown["error"]["message"]
    assert shown["error"]["line"] == (line or shown["error"]["line"])
    assert (await doctor.look(OWNER, edited(CHATML)))["error"] is None


async def test_a_template_of_another_model_is_found_out_and_others_are_offered(app: App, doctor: TemplateDoctor) -> None:
    shown = await doctor.look(OWNER, edited(HEADERS))
    problems = [found for found in shown["findings"] if found["level"] == "problem"]
    assert any(found["fix"] == "another" for found in problems)
    assert any("written otherwise than by the model's own template" in found["sentence"] for found in shown["findings"])
    await app.templates.save("Fits", (await doctor.own())["text"])
    await app.templates.save("Foreign", HEADERS)
    assert {"name": "Fits", "problems": 0, "same": True} in await doctor.fitting()
    assert "Foreign" not in {row["name"] for row in await doctor.fitting()}
    for name in ("Fits", "Foreign"):
        await app.templates.delete(name)


async def test_a_conversation_of_the_person_is_looked_at(app: App, doctor: TemplateDoctor) -> None:
    conversation = await app.conversations.create(OWNER)
    await app.conversations.append(OWNER, conversation, None, "user", "Where do marmots sleep?")
    assert "Where do marmots sleep?" in (await doctor.look(OWNER, None, conversation=conversation))["text"]
    with pytest.raises(NotFound):
        await doctor.look("somebody else", None, conversation=conversation)


async def test_a_template_names_who_speaks_in_the_conversation(app: App, doctor: TemplateDoctor) -> None:
    conversation = await app.conversations.create(OWNER)
    character = await app.casting.characters.save({"name": "Ada", "first_mes": "Good day."})
    await app.turns.cast(OWNER, conversation, character, "")
    named = edited("{% for message in messages %}{{ char | default('Nobody') }}: {{ message['content'] }}\n{% endfor %}")
    assert "Ada: Good day." in (await doctor.look(OWNER, named, conversation=conversation))["text"]
    assert "Nobody: " in (await doctor.look(OWNER, named))["text"]


async def test_twenty_tokens_tell_whether_replies_end(doctor: TemplateDoctor) -> None:
    tried = await doctor.try_out(None)
    assert 0 < tried["tokens"] <= 20
    assert tried["stopped"] == (tried["tokens"] < 20)
    own = (await doctor.own())["text"]
    longer = "{% set messages = [{'role': 'user', 'content': 'How do I load a model?'}] %}"
    endless = await doctor.try_out(edited(longer + own))
    assert (endless["stopped"], endless["tokens"]) == (False, 20)


async def test_the_template_chosen_for_a_model_is_used_until_another_is_named(app: App, doctor: TemplateDoctor) -> None:
    async def prompt_tokens(**more: Any) -> int:
        prompt = ChatPrompt(messages=(Message(role="user", content="Hello"),), **more)
        generation = await app.generation.submit(GenerationRequest(prompt=prompt, params=GenerationParams(temperature=0, max_tokens=1)))
        return max([delta.usage.prompt_tokens async for delta in generation if delta.usage])

    def chosen() -> str:
        return str((doctor.model() or {})["template"])

    plain = await prompt_tokens()
    await app.templates.save("Wordy", "{% for m in messages %}{{ 'one two three four five six seven eight nine ten ' * 5 + m.content }}{% endfor %}", stop=["##"])
    await doctor.choose("Wordy")
    assert chosen() == "Wordy"
    assert await prompt_tokens() > plain + 40
    assert (await app.generation.count(ChatPrompt(messages=(Message(role="user", content="Hello"),))))[0] > plain + 40
    assert await prompt_tokens(template=edited("{{ messages[0].content }}")) < plain
    with pytest.raises(NotFound):
        await doctor.choose("Not there")
    assert chosen() == "Wordy"
    deleted = await doctor.delete("Wordy")
    assert (deleted["name"], deleted["models"]) == ("Wordy", [ONE])
    assert await prompt_tokens() == plain


async def test_the_switches_are_those_of_the_template_in_force(app: App, doctor: TemplateDoctor) -> None:
    assert await doctor.variables() == ()
    await app.templates.save("Switched", "{{ messages[0].content }}{{ reasoning_effort }}", stop=["##"])
    await doctor.choose("Switched")
    assert await doctor.variables() == ("reasoning_effort",)
    await doctor.delete("Switched")
    assert await doctor.variables() == ()
    assert await doctor.variables("Switched") is None


async def test_a_chosen_template_that_vanished_is_told(app: App, doctor: TemplateDoctor) -> None:
    await app.templates.save("Brief", "{{ messages[0].content }}", stop=["##"])
    await doctor.choose("Brief")
    await app.templates.delete("Brief")  # by another way than the page
    prompt = ChatPrompt(messages=(Message(role="user", content="Hello"),))
    with pytest.raises(NotFound, match=f"“Brief”, chosen for {ONE}, is no longer there"):
        await app.generation.submit(GenerationRequest(prompt=prompt, params=GenerationParams(max_tokens=1)))
    await doctor.choose("")


@pytest.mark.asyncio(loop_scope="function")
async def test_without_a_model_the_text_alone_is_shown(start_app: Callable[..., App]) -> None:
    doctor = start_app().template_doctor
    shown = await doctor.look(OWNER, edited(CHATML))
    assert (shown["tokens"], shown["count"], shown["model"], doctor.model()) == (None, None, "", None)
    assert shown["text"].endswith("<|im_start|>assistant\n")
    assert "“<|im_end|>” ends a turn" in " ".join(found["sentence"] for found in shown["findings"])
    for act in (doctor.own, doctor.fitting, lambda: doctor.look(OWNER, None), lambda: doctor.try_out(None), lambda: doctor.choose("")):
        with pytest.raises(NoModelLoaded, match="load one on the Models page"):
            await act()
