"""Log-probabilities of the prompt through the official client, as evaluation harnesses ask for them."""

from __future__ import annotations

import math

import openai
import pytest

from tests.paddock_server import STARTER, PaddockServer

PROMPT = "A LoRA is a small file that changes a model."
ONLY = {"echo": True, "max_tokens": 0, "logprobs": 1}


def ids_of(server: PaddockServer, text: str) -> list[int]:
    return server.ask("POST", "v1/internal/encode", {"text": text})["tokens"]


def test_text_and_ids_are_echoed_with_places_in_the_text(client: openai.OpenAI, server: PaddockServer) -> None:
    text = "Größe 😀 is a LoRA’s"
    for prompt in (text, ids_of(server, text)):
        choice = client.completions.create(model=STARTER, prompt=prompt, **ONLY).choices[0]
        table = choice.logprobs
        assert (choice.text, choice.finish_reason) == (text, "length")
        assert len(table.tokens) == len(table.text_offset) == len(table.token_logprobs) == len(table.top_logprobs)
        whole = [(token, place) for token, place in zip(table.tokens, table.text_offset, strict=True) if not token.startswith("bytes:")]
        assert all(text[place:].startswith(token) for token, place in whole if token in text) and len(whole) > 5
        assert any(token.startswith("bytes:\\x") for token in table.tokens)
        assert table.text_offset == sorted(table.text_offset) and table.text_offset[-1] < len(text)


def test_only_the_prompt_costs_no_completion(client: openai.OpenAI) -> None:
    done = client.completions.create(model=STARTER, prompt=[PROMPT, PROMPT + " It"], **ONLY)
    assert done.usage.completion_tokens == 0 and [choice.text for choice in done.choices] == [PROMPT, PROMPT + " It"]
    first, second = (choice.logprobs.token_logprobs for choice in done.choices)
    assert second[: len(first)] == pytest.approx(first, abs=0.02)
    assert all(value <= 0 for value in second[1:])


def test_a_stream_says_the_same_as_a_whole_answer(client: openai.OpenAI) -> None:
    asked = {"model": STARTER, "prompt": PROMPT, "echo": True, "logprobs": 2, "max_tokens": 6, "temperature": 0}
    whole = client.completions.create(**asked).choices[0]
    pieces = [piece.choices[0] for piece in client.completions.create(**asked, stream=True)]
    assert "".join(piece.text for piece in pieces) == whole.text
    tables = [piece.logprobs for piece in pieces if piece.logprobs]
    assert [token for table in tables for token in table.tokens] == whole.logprobs.tokens
    assert [place for table in tables for place in table.text_offset] == whole.logprobs.text_offset


def test_without_echo_and_tokens_there_is_nothing(client: openai.OpenAI) -> None:
    done = client.completions.create(model=STARTER, prompt=PROMPT, max_tokens=0)
    assert (done.choices[0].text, done.choices[0].finish_reason, done.usage.completion_tokens) == ("", "length", 0)


def test_a_harness_finds_the_likelier_of_two_endings(client: openai.OpenAI, server: PaddockServer) -> None:
    """Context and continuation as one list of ids; the sum over the continuation, and whether it is the greedy one."""
    greedy = client.completions.create(model=STARTER, prompt="A LoRA is", max_tokens=6, temperature=0).choices[0].text
    scores = {}
    for ending in (greedy, " purple of the of yes"):
        context, both = ids_of(server, "A LoRA is"), ids_of(server, "A LoRA is" + ending)
        done = client.completions.create(model=STARTER, prompt=[both], echo=True, logprobs=1, max_tokens=1, temperature=0)
        table = done.choices[0].logprobs
        values = table.token_logprobs[len(context) : -1]
        tops = table.top_logprobs[len(context) : -1]
        tokens = table.tokens[len(context) : -1]
        scores[ending] = sum(values), all(token == max(top, key=top.get) for token, top in zip(tokens, tops, strict=True))
    assert scores[greedy][1] and not scores[" purple of the of yes"][1]
    assert scores[greedy][0] > scores[" purple of the of yes"][0] + math.log(1000)


def test_prompt_logprobs_as_vllm_has_them(server: PaddockServer) -> None:
    messages = [{"role": "user", "content": "What is a LoRA?"}]
    chat = server.ask("POST", "v1/chat/completions", {"model": STARTER, "messages": messages, "max_tokens": 1, "prompt_logprobs": 2})
    table = chat["prompt_logprobs"]
    assert table[0] is None and len(table) == chat["usage"]["prompt_tokens"]
    assert all(1 in [row["rank"] for row in rows.values()] and len(rows) in (2, 3) for rows in table[1:])
    text = server.ask("POST", "v1/completions", {"model": STARTER, "prompt": PROMPT, "max_tokens": 1, "prompt_logprobs": 0})
    assert all(len(rows) == 1 for rows in text["choices"][0]["prompt_logprobs"][1:])
