"""Effort and verbosity of OpenAI's chat, as chat templates get them."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from modules.api.schemas import ChatRequest, CompletionRequest


@pytest.mark.parametrize(
    ("fields", "variables"),
    [
        ({}, {}),
        ({"reasoning_effort": "none"}, {"enable_thinking": False}),
        ({"reasoning_effort": "minimal", "verbosity": "low"}, {"enable_thinking": True, "reasoning_effort": "low", "verbosity": "low"}),
        ({"reasoning_effort": "medium"}, {"enable_thinking": True, "reasoning_effort": "medium"}),
        ({"reasoning_effort": "xhigh", "chat_template_kwargs": {"enable_thinking": False, "x": 1}}, {"enable_thinking": False, "reasoning_effort": "high", "x": 1}),
    ],
)
def test_effort_and_verbosity_are_variables_of_the_template(fields: dict[str, Any], variables: dict[str, Any]) -> None:
    body = ChatRequest.model_validate({"messages": [{"role": "user", "content": "Hello"}], **fields})
    assert body.chat_template_kwargs == variables


def test_a_request_has_so_many_prompts() -> None:
    for prompt in (["a"] * 2049, [[1]] * 2049):
        with pytest.raises(ValidationError, match="at most 2048 prompts at a time; got 2049"):
            CompletionRequest(prompt=prompt)
    assert len(CompletionRequest(prompt=["a"] * 2048).prompts()) == 2048 and len(CompletionRequest(prompt=[1] * 5000).prompts()) == 1
