"""The end of the context, over HTTP: nothing is shifted out to go on, and what is too long is refused with both numbers."""

from __future__ import annotations

import openai
import pytest

from tests.paddock_server import STARTER, PaddockServer

ROOM = 12


@pytest.fixture(scope="module")
def limit(server: PaddockServer) -> int:
    """Tokens of the context of the loaded model."""
    return int(server.ask("GET", f"v1/models/{STARTER}")["context_length"])


def test_a_reply_that_fills_the_context_ends_there_with_all_of_the_prompt(client: openai.OpenAI, server: PaddockServer, limit: int) -> None:
    ids = [300 + place % 200 for place in range(limit - ROOM)]
    asked = {"model": STARTER, "prompt": ids, "max_tokens": 4 * ROOM, "temperature": 0, "echo": True, "logprobs": 0, "extra_body": {"ban_eos": True}}
    done = client.completions.create(**asked)
    assert done.choices[0].finish_reason == "length"
    assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (limit - ROOM, ROOM)
    assert len(done.choices[0].logprobs.tokens) == limit  # every token of the prompt is there, and was read
    assert done.choices[0].text.startswith(server.ask("POST", "v1/internal/decode", {"tokens": ids})["text"])


def test_a_prompt_that_is_too_long_is_refused_with_both_numbers(client: openai.OpenAI, limit: int) -> None:
    with pytest.raises(openai.BadRequestError, match=rf"{limit} tokens.* {limit}"):
        client.completions.create(model=STARTER, prompt=[300] * limit, max_tokens=1)
    long = [{"role": "user", "content": "word " * (3 * limit)}]
    with pytest.raises(openai.BadRequestError, match=rf"needs [0-9,]+ tokens, and there is room for {limit - 1:,}"):
        client.chat.completions.create(model=STARTER, messages=long, max_tokens=1)
    only = client.completions.create(model=STARTER, prompt=[300] * limit, max_tokens=0)  # there is room for all of it, if nothing is to be written
    assert only.usage.prompt_tokens == limit
