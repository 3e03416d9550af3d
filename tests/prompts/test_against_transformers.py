"""Every real template gives the same tokens as `apply_chat_template` of transformers, or both refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest

from modules.core.errors import InvalidRequest
from modules.core.messages import Message
from modules.core.model import TemplateSource
from modules.prompts.roles import MERGED_NOTE, NO_CONTENT_NOTE, TEXT_ARGUMENTS_NOTE, merge_system
from modules.prompts.template import Template
from tests.prompts.real_templates import NAMES, template_text

TOKENIZERS = ("gpt2", "llama2", "mistral-v3", "smollm2-135m-instruct")
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a <place> & time",
        "parameters": {"type": "object", "properties": {"place": {"type": "string", "description": "a town"}}, "required": ["place"]},
    },
}
CALL = {"id": "call12345", "type": "function", "function": {"name": "weather", "arguments": {"place": "Köln", "days": 2}}}


class Case(NamedTuple):
    """A conversation and how it is rendered."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None
    options: dict[str, Any] = {}  # noqa: RUF012 - never changed
    add_generation_prompt: bool = False
    continue_final_message: bool = False


def said(*pairs: tuple[str, str]) -> list[dict[str, Any]]:
    return [{"role": role, "content": content} for role, content in pairs]


ONE = said(("user", "Hello, how are you?"))
MANY = said(
    ("user", "What is 2 < 3 & 4?"), ("assistant", "It is\n\ntrue. "), ("user", " And „ünïcode“ 🦙? "), ("assistant", "Yes!"), ("user", "Bye")
)
WITH_SYSTEM = [*said(("system", "You are terse.")), *MANY]
TOOL_CHAT = [
    *said(("user", "Weather in Köln?")),
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": '{"rain": true}', "name": "weather", "tool_call_id": "call12345"},
]
CASES = {
    "one": Case(ONE, add_generation_prompt=True),
    "one without prompt": Case(ONE),
    "many": Case(MANY, add_generation_prompt=True),
    "complete": Case([*MANY, *said(("assistant", "Good bye."))]),
    "system": Case(WITH_SYSTEM, add_generation_prompt=True),
    "system only": Case(WITH_SYSTEM[:1], add_generation_prompt=True),
    "greeting first": Case([*said(("assistant", "Welcome!")), *ONE], add_generation_prompt=True),
    "two users": Case([*ONE, *ONE], add_generation_prompt=True),
    "continue": Case([*MANY, *said(("assistant", "Good bye and"))], continue_final_message=True),
    "continue at a space": Case([*WITH_SYSTEM, *said(("assistant", "Good bye and "))], continue_final_message=True),
    "continue in lines": Case([*ONE, *said(("assistant", "First line\n  Second line"))], continue_final_message=True),
    "tools": Case(ONE, tools=[WEATHER], add_generation_prompt=True),
    "tools and system": Case(WITH_SYSTEM, tools=[WEATHER], add_generation_prompt=True),
    "tool called": Case(TOOL_CHAT, tools=[WEATHER], add_generation_prompt=True),
    "thinking off": Case(MANY, add_generation_prompt=True, options={"enable_thinking": False}),
    "thinking on": Case(MANY, add_generation_prompt=True, options={"enable_thinking": True, "thinking": True, "reasoning_effort": "low"}),
    "thought before": Case(
        [*said(("user", "Hm?"), ("assistant", "<think>\nWell.\n</think>\n\nAha")), *ONE], add_generation_prompt=True
    ),
}


@pytest.fixture(scope="module")
def tokenizers(testdata: Path) -> dict[str, tuple[Any, Any]]:
    """By name: the tokenizer of transformers, and the bare one."""
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    folder = testdata / "tokenizers"
    loaded = {}
    for name in TOKENIZERS:
        bare = Tokenizer.from_file(str(folder / name / "tokenizer.json"))
        bare.no_truncation()
        bare.no_padding()
        loaded[name] = (AutoTokenizer.from_pretrained(folder / name), bare)
    return loaded


def theirs(tokenizer: Any, template: str, case: Case, messages: list[dict[str, Any]]) -> list[int] | None:
    """The tokens of transformers; None where it refuses."""
    try:
        return list(
            tokenizer.apply_chat_template(
                messages, chat_template=template, tools=case.tools, add_generation_prompt=case.add_generation_prompt,
                continue_final_message=case.continue_final_message, return_dict=False, **case.options,
            )
        )
    except Exception:  # noqa: BLE001 - templates make it raise anything
        return None


@pytest.mark.parametrize("name", NAMES)
def test_same_tokens(name: str, tokenizers: dict[str, tuple[Any, Any]]) -> None:
    text = template_text(name)
    accepted = 0
    turn = NAMES.index(name)
    for tokenizer, bare in (tokenizers[TOKENIZERS[turn % 4]], tokenizers[TOKENIZERS[(turn + 1) % 4]]):
        source = TemplateSource(text=text, origin=name, bos_token=tokenizer.bos_token, eos_token=tokenizer.eos_token)
        template = Template(source)
        for label, case in CASES.items():
            expected = theirs(tokenizer, text, case, case.messages)
            try:
                rendered = template.render(
                    [Message.model_validate(message) for message in case.messages], tools=case.tools or (), variables=case.options,
                    add_generation_prompt=case.add_generation_prompt, continue_final_message=case.continue_final_message,
                )  # fmt: skip
            except InvalidRequest as error:
                assert expected is None, (label, error.message)
                assert name in error.message
                continue
            if expected is None:
                check_rescued(name, label, case, rendered.text, rendered.notes, theirs(tokenizer, text, case, merge_system(case.messages)),
                              bare)  # fmt: skip
                continue
            accepted += 1
            if any(NO_CONTENT_NOTE in note for note in rendered.notes):
                continue  # there the call was lost without a word
            assert bare.encode(rendered.text, add_special_tokens=False).ids == expected, (label, rendered.text)
    assert accepted >= 2 * 3, "a template that refuses nearly everything was not compared"


def check_rescued(
    name: str, label: str, case: Case, text: str, notes: tuple[str, ...], merged: list[int] | None, bare: Any
) -> None:
    """What we render although transformers refuses: a merged system text, arguments as text, a reply the template rewrites."""
    if any(MERGED_NOTE in note for note in notes):
        if merged is not None:
            assert bare.encode(text, add_special_tokens=False).ids == merged, (label, text)
        return
    if case.continue_final_message:
        assert text.rstrip().endswith(case.messages[-1]["content"].strip()), (label, text)
        return
    assert any(TEXT_ARGUMENTS_NOTE in note for note in notes), (name, label, text)
