"""From a request to a sequence: how long it may become."""

from __future__ import annotations

from typing import ClassVar

import pytest

from modules.core.errors import ContextOverflow
from modules.core.params import GenerationParams
from tests.fakes import BOS, VOCAB_SIZE, ByteTokenizer, FakeRunner


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


class PairTokenizer(ByteTokenizer):
    """Two newlines are one token, and so is a colon behind a space."""

    vocab_size = VOCAB_SIZE
    PAIRS: ClassVar = {128: b"\n\n", 129: b" :"}

    def piece(self, token_id: int) -> bytes:
        return self.PAIRS.get(token_id) or super().piece(token_id)


@pytest.mark.parametrize("breaker", [128, 129, ord("\n")])
def test_a_token_that_holds_a_breaker_of_dry_breaks_a_repeat(bench, breaker):
    """A repeat across it is short enough to be allowed; without it the same letters are penalised."""

    def wants_b(ids):
        return ord("b") if ids[-1] == ord("x") else ord("x")

    def second(token_id: int) -> int:
        engine, _, inbox = bench(FakeRunner(rule=wants_b), tokenizer=PairTokenizer())
        params = GenerationParams(temperature=0, max_tokens=1, dry_multiplier=10, dry_base=4, dry_allowed_length=2)
        generation = engine.submit([BOS, ord("p"), token_id, *b"xb", ord("p"), token_id, *b"x"], params)
        inbox.wait(generation)
        return inbox.ids(generation)[0]

    assert second(breaker) == ord("b")
    assert second(ord("q")) != ord("b")
