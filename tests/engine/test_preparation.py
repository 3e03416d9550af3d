"""From a request to a sequence: how long it may become."""

from __future__ import annotations

import pytest

from modules.core.errors import ContextOverflow
from modules.core.params import GenerationParams
from tests.fakes import BOS, FakeRunner


def test_a_request_with_a_shorter_context_ends_there_and_refuses_what_does_not_fit(bench):
    engine, _, inbox = bench(FakeRunner(rule=lambda ids: 65))
    short = GenerationParams(temperature=0, context_tokens=10)
    generation = engine.submit([BOS, *b"abc"], short)
    inbox.wait(generation)
    assert inbox.text(generation) == "A" * 6
    assert inbox.last(generation).finish_reason == "length"
    with pytest.raises(ContextOverflow, match="10 tokens; context_tokens allows 10, .* raise context_tokens") as caught:
        engine.submit([BOS, *b"abcdefghi"], short)
    assert caught.value.details["limit"] == 10
    asked = engine.submit([BOS, *b"abcdefghijkl"], short.model_copy(update={"prompt_only": True, "prompt_logprobs": 0}))
    inbox.wait(asked)
    assert inbox.text(asked) == "", "a prompt that is only read may fill what the model holds"
