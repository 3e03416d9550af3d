"""The prompt templates that ship: they render, say where a reply ends, and equal the real formats."""

from __future__ import annotations

from pathlib import Path

import pytest

from modules.core.messages import Message
from modules.core.model import TemplateSource
from modules.prompts.bos import for_model
from modules.prompts.library import TemplateLibrary
from modules.prompts.renderer import TemplateRenderer
from modules.prompts.template import Template
from tests.prompts.real_templates import NAMES, template_text

SHIPPED = tuple(sorted(path.stem for path in (Path(__file__).resolve().parents[2] / "prompt_templates").glob("*.yaml")))
CHAT = tuple(
    Message.model_validate({"role": role, "content": content})
    for role, content in [("system", "You are terse."), ("user", "Hi there"), ("assistant", "Hello"), ("user", "Tell me more")]
)
STOP = {
    "Alpaca": ("</s>", "\n### Instruction:"),
    "ChatML": ("<|im_end|>",),
    "Command R": ("<|END_OF_TURN_TOKEN|>",),
    "DeepSeek": ("<｜end▁of▁sentence｜>",),
    "GLM-4": ("<|user|>",),
    "Gemma": ("<end_of_turn>",),
    "Granite": ("<|end_of_text|>",),
    "Llama 2": ("</s>",),
    "Llama 3": ("<|eot_id|>",),
    "Llama 4": ("<|eot|>",),
    "Mistral": ("</s>",),
    "Mistral V7": ("</s>",),
    "Open Assistant": ("</s>",),
    "OpenChat": ("<|end_of_turn|>", "GPT4 Correct User:"),
    "Phi-3": ("<|end|>",),
    "Phi-4": ("<|im_end|>",),
    "Plain": ("\nUser:",),
    "Solar": ("\n### User:",),
    "Vicuna": ("</s>", "USER:"),
    "Zephyr": ("</s>",),
}
# Ours, the real one, whether a system text and whether BOS is part of the comparison
SAME = (
    ("Alpaca", "alpaca", True, True),
    ("ChatML", "chatml", True, True),
    ("ChatML", "Qwen-Qwen2.5-7B-Instruct", True, False),
    ("DeepSeek", "deepseek-ai-DeepSeek-R1-Distill-Llama-8B", True, True),
    ("Gemma", "gemma-it", True, False),
    ("Gemma", "google-gemma-2-2b-it", False, True),
    ("Granite", "granite-3.0-instruct", True, False),
    ("Llama 2", "llama-2-chat", True, True),
    ("Llama 3", "llama-3-instruct", True, True),
    ("Mistral", "mistral-instruct", False, True),
    ("Mistral V7", "Mistral-Small-3.2-24B-Instruct-2506", True, True),
    ("OpenChat", "openchat-3.5", True, True),
    ("Phi-3", "phi-3", True, False),
    ("Phi-3", "phi-3-small", True, True),
    ("Solar", "solar-instruct", True, True),
    ("Zephyr", "zephyr", True, False),
)


def source_of(shipped: TemplateLibrary, name: str, *, adds_bos: bool = True) -> TemplateSource:
    return for_model(shipped.read(name), bos_token="<s>", eos_token="</s>", adds_bos=adds_bos)


def test_the_list_is_whole(shipped: TemplateLibrary) -> None:
    assert set(SHIPPED) == set(STOP)
    summaries = shipped.list()
    assert {summary.name for summary in summaries} == set(STOP)
    assert all(summary.description.endswith(".") and not summary.problem for summary in summaries)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_chat_in_every_format(shipped: TemplateLibrary, renderer: TemplateRenderer, name: str) -> None:
    source = source_of(shipped, name)
    prompt = renderer.render(source, CHAT)
    places = [prompt.text.index(message.content) for message in CHAT]
    assert places == sorted(places)
    assert prompt.notes == ()
    assert prompt.text.startswith("<s>") or name == "GLM-4"
    assert "<s>" not in renderer.render(source_of(shipped, name, adds_bos=False), CHAT).text
    ending = renderer.ending(source)
    assert ending.stop == STOP[name]
    assert ending.supports_system

    reply = Message(role="assistant", content="  Once upon a time\n\n there ")
    assert renderer.render(source, (*CHAT, reply), continue_final_message=True).text.endswith(reply.content)
    complete = renderer.render(source, (*CHAT, reply), add_generation_prompt=False)
    assert complete.text.startswith(prompt.text), "what the model saw and what it is later shown must agree"
    assert [complete.text[start:end].count(text.content) for (start, end), text in zip(complete.spans, (CHAT[2], reply), strict=True)] == [1, 1]


@pytest.mark.parametrize("name", SHIPPED)
def test_a_developer_message_speaks_as_system(shipped: TemplateLibrary, name: str) -> None:
    template = Template(source_of(shipped, name))
    developer = Message(role="developer", content=CHAT[0].content)
    assert template.render((developer, *CHAT[1:])).text == template.render(CHAT).text


@pytest.mark.parametrize(("ours", "real", "system", "bos"), [row for row in SAME if row[1] in NAMES])
def test_equal_to_the_real_format(shipped: TemplateLibrary, ours: str, real: str, system: bool, bos: bool) -> None:
    theirs = Template(TemplateSource(text=template_text(real), origin=real, bos_token="<s>", eos_token="</s>"))
    template = Template(source_of(shipped, ours, adds_bos=bos))
    messages = CHAT if system else CHAT[1:]
    assert template.render(messages[:-1], add_generation_prompt=False).text == theirs.render(messages[:-1], add_generation_prompt=False).text
    if ours != "DeepSeek":  # R1 also opens a thinking block in the prompt
        assert template.render(messages).text == theirs.render(messages).text


def test_a_character_speaks_under_its_name_in_a_text_of_names_and_colons(shipped: TemplateLibrary) -> None:
    template = Template(source_of(shipped, "Plain"))
    text = template.render(CHAT, variables={"char": "Ada", "user": "Bo"}).text
    assert text == "<s>You are terse.\n\nBo: Hi there\nAda: Hello\nBo: Tell me more\nAda:"
    assert template.render(CHAT).text.endswith("User: Tell me more\nAssistant:")
