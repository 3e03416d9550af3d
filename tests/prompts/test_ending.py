"""Endings: stop strings and the rest are found by looking at renderings."""

from __future__ import annotations

import pytest

from modules.core.errors import InvalidRequest
from modules.core.model import TemplateSource
from modules.prompts.ending import SENTINEL, derive_ending
from modules.prompts.renderer import TemplateRenderer
from modules.prompts.template import Template
from tests.prompts.real_templates import NAMES, template_text

EXPECTED = {
    "GLM-4.6": ("<|user|>",),
    "HuggingFaceTB-SmolLM3-3B": ("<|im_end|>",),
    "Kimi-K2-Instruct": ("<|im_end|>",),
    "Qwen-Qwen3-0.6B": ("<|im_end|>",),
    "alpaca": ("</s>", "\n### Instruction:"),
    "amberchat": ("\n###Human:",),
    "chatqa": ("\nUser:",),
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": ("<｜end▁of▁sentence｜>",),
    "falcon-instruct": ("\nUser:",),
    "google-gemma-2-2b-it": ("<end_of_turn>",),
    "google-gemma-4-31B-it": ("<turn|>",),
    "granite-3.0-instruct": ("<|end_of_text|>",),
    "llama-2-chat": ("</s>",),
    "meta-llama-Llama-3.1-8B-Instruct": ("<|eot_id|>",),
    "microsoft-Phi-3.5-mini-instruct": ("<|end|>",),
    "mistralai-Mistral-Nemo-Instruct-2407": ("</s>",),
    "openai-gpt-oss-120b": ("<|return|>",),  # <|end|> only ends the thinking
    "openchat-3.5": ("<|end_of_turn|>", "GPT4 Correct User:"),
    "solar-instruct": ("\n### User:",),
    "vicuna": ("</s>", "\nUSER:"),
    "zephyr": ("</s>",),
}
OPTIONS = {
    "HuggingFaceTB-SmolLM3-3B": ("enable_thinking",),
    "Qwen-Qwen3-0.6B": ("enable_thinking",),
    "deepseek-ai-DeepSeek-V3.1": ("enable_thinking", "thinking"),
    "google-gemma-4-31B-it": ("enable_thinking",),
    "openai-gpt-oss-120b": ("builtin_tools", "model_identity", "reasoning_effort"),
}
THINKING = {"Qwen3.5-4B": "<think>", "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": "<think>"}
NEEDS_TOOLS = "NousResearch-Hermes-3-Llama-3.1-8B-tool_use"
NO_SYSTEM = "google-gemma-2-2b-it"


def source_of(text: str, eos_token: str = "</s>") -> TemplateSource:
    return TemplateSource(text=text, origin="test", bos_token="<s>", eos_token=eos_token)


@pytest.mark.parametrize("name", [name for name in NAMES if name != NEEDS_TOOLS])
def test_real_templates(renderer: TemplateRenderer, name: str) -> None:
    ending = renderer.ending(source_of(template_text(name)))
    if name in EXPECTED:
        assert ending.stop == EXPECTED[name]
    if name in OPTIONS:
        assert ending.variables == OPTIONS[name]
    assert ending.stop, "every chat format ends a reply somehow"
    assert all(stop.strip() and SENTINEL not in stop for stop in ending.stop)
    assert ending.starts_thinking == THINKING.get(name, "")
    assert ending.supports_system == (name != NO_SYSTEM)


def test_a_template_that_takes_no_plain_question(renderer: TemplateRenderer) -> None:
    with pytest.raises(InvalidRequest, match="Nothing to see"):
        renderer.ending(source_of("{{ raise_exception('Nothing to see') }}"))


def made_of(text: str, eos_token: str = "", **values: tuple[str, ...]) -> tuple[str, ...]:
    template = Template(TemplateSource(text=text, origin="test", eos_token=eos_token))
    return derive_ending(template.render, eos_token=eos_token, **values).stop  # type: ignore[arg-type]


def test_an_end_token_that_looks_like_text() -> None:
    text = "{% for m in messages %}{{ m.role + ': ' + m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n' }}{% endfor %}"
    assert made_of(text, eos_token="END") == ("END", "\nuser:")
    assert made_of(text) == ("\nuser:",)


def test_a_bare_word_is_no_stop_string() -> None:
    assert made_of("{% for m in messages %}{{ m.role + '\\n' + m.content + '\\n' }}{% endfor %}") == ()


def test_a_template_that_writes_only_the_question_has_only_its_own_stop_strings() -> None:
    assert made_of("{{ messages[-1].content }}") == ()
    assert made_of("{{ messages[-1].content }}", extra_stop=("###", " ")) == ("###",)


def test_a_template_for_one_question_and_one_answer() -> None:
    text = "{% if messages | length > 2 %}{{ raise_exception('one turn only') }}{% endif %}{% for m in messages %}{{ '<' + m.role + '>' + m.content + '<end>' }}{% endfor %}"
    assert made_of(text) == ("<end>",)
