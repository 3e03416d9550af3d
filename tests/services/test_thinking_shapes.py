"""Which replies by a JSON schema may begin with thinking: those of models whose template knows it, where it is not switched off or begun already."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modules.core.model import TemplateSource
from modules.core.params import GenerationParams
from modules.core.text_shape import CallText
from modules.engine.worker import LoadCommand
from modules.services.worker import ModelPrompts, load
from tests.services.test_worker import OPTIONS, chat

SCHEMA = GenerationParams(json_schema={"type": "object"})
TURNS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content.split('</think>')[-1] }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
MAY_THINK = TURNS + "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"


@pytest.fixture(scope="module")
def prompts(starter_gguf: Path) -> Iterator[ModelPrompts]:
    ready = load(LoadCommand("Starter", str(starter_gguf), "", OPTIONS), lambda stage, done: None)
    yield ready.prompts
    ready.model.runner.close()
    ready.prompts.close()


def thinking(prompts: ModelPrompts, text: str, params: GenerationParams = SCHEMA, *said: str, **more: Any) -> CallText | None:
    return prompts.prepare(chat(*(said or ("Hi",)), params=params, template=TemplateSource(text=text, origin="a test"), **more)).calls


def test_a_model_whose_template_knows_thinking_may_begin_with_it(prompts: ModelPrompts) -> None:
    assert thinking(prompts, MAY_THINK) == CallText(thinking=("<think>", "</think>"))
    assert thinking(prompts, MAY_THINK, template_variables={"enable_thinking": True}) is not None


def test_where_thinking_is_off_or_nothing_is_shaped_or_a_reply_goes_on_there_is_none(prompts: ModelPrompts) -> None:
    assert thinking(prompts, MAY_THINK, template_variables={"enable_thinking": False}) is None
    assert thinking(prompts, MAY_THINK, GenerationParams()) is None
    assert thinking(prompts, MAY_THINK, GenerationParams(regex="x")) is None
    assert thinking(prompts, MAY_THINK, SCHEMA, "Hi", '{"a', continue_final_message=True) is None
    assert thinking(prompts, TURNS.replace(".split('</think>')[-1]", "") + "{% endif %}") is None
