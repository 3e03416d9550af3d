"""Plain completions through the official client: text, several texts, token ids, echo, log-probabilities."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from tests.paddock_server import STARTER, PaddockServer

PROMPT = "A LoRA is"
OTHER = "The notebook is"
GREEDY = {"model": STARTER, "temperature": 0, "max_tokens": 12}
USER_TURN = "<|im_start|>user\nWhat is a LoRA?<|im_end|>\n<|im_start|>assistant\n"
SPECIAL_COUNT = 3  # tokens of that turn that are special: start, end, start


def test_text_is_continued(client: openai.OpenAI) -> None:
    done = client.completions.create(**GREEDY, prompt=PROMPT)
    choice = done.choices[0]
    assert done.object == "text_completion" and done.id.startswith("cmpl-")
    assert choice.text and not choice.text.startswith(PROMPT)
    assert choice.finish_reason == "length" and done.usage.completion_tokens == 12
    assert done.usage.total_tokens == done.usage.prompt_tokens + 12


def test_sixteen_tokens_unless_told_otherwise(client: openai.OpenAI) -> None:
    done = client.completions.create(model=STARTER, prompt=PROMPT, extra_body={"ban_eos": True})
    assert done.usage.completion_tokens == 16


@pytest.mark.parametrize("field", ["n", "stream", "user", "model"])
def test_null_counts_as_absent(server: PaddockServer, field: str) -> None:
    body = {"model": STARTER, "max_tokens": 1, field: None}
    completion = server.ask("POST", "v1/completions", {**body, "prompt": PROMPT})
    chat = server.ask("POST", "v1/chat/completions", {**body, "messages": [{"role": "user", "content": "Hello"}]})
    assert len(completion["choices"]) == len(chat["choices"]) == 1
    assert completion["model"] == chat["model"] == STARTER


def test_a_stream_says_the_same_as_a_whole_completion(client: openai.OpenAI) -> None:
    whole = client.completions.create(**GREEDY, prompt=PROMPT)
    *pieces, last = client.completions.create(**GREEDY, prompt=PROMPT, stream=True, stream_options={"include_usage": True})
    assert "".join(piece.choices[0].text for piece in pieces) == whole.choices[0].text
    assert pieces[-1].choices[0].finish_reason == "length"
    assert last.choices == [] and last.usage.total_tokens == whole.usage.total_tokens


def test_several_texts_are_continued_each_by_itself(client: openai.OpenAI) -> None:
    alone = [client.completions.create(**GREEDY, prompt=prompt) for prompt in (PROMPT, OTHER)]
    both = client.completions.create(**GREEDY, prompt=[PROMPT, OTHER])
    assert [choice.text for choice in both.choices] == [done.choices[0].text for done in alone]
    assert both.usage.prompt_tokens == sum(done.usage.prompt_tokens for done in alone)
    assert both.usage.completion_tokens == 24


def test_several_texts_with_several_choices_each(client: openai.OpenAI) -> None:
    loose: dict[str, Any] = {"model": STARTER, "temperature": 1.5, "max_tokens": 8, "seed": 3, "n": 2, "extra_body": {"deterministic": True}}
    done = client.completions.create(**loose, prompt=[PROMPT, OTHER])
    alone = client.completions.create(**loose, prompt=OTHER)
    assert [choice.index for choice in done.choices] == [0, 1, 2, 3]
    assert [choice.text for choice in done.choices[2:]] == [choice.text for choice in alone.choices]
    assert alone.choices[0].text != alone.choices[1].text
    single = client.completions.create(**GREEDY, prompt=[PROMPT, OTHER]).usage.prompt_tokens
    assert done.usage.prompt_tokens == single  # each prompt once, not once a choice


def test_token_ids_are_continued_as_they_stand(client: openai.OpenAI) -> None:
    ids = [1, 300, 301, 302, 303]
    one = client.completions.create(**GREEDY, prompt=ids)
    two = client.completions.create(**GREEDY, prompt=[ids, ids[:3]])
    assert one.usage.prompt_tokens == 5  # no BOS is put in front
    assert two.usage.prompt_tokens == 8
    assert two.choices[0].text == one.choices[0].text


def test_echo_puts_the_prompt_in_front(client: openai.OpenAI) -> None:
    plain = client.completions.create(**GREEDY, prompt=[PROMPT, OTHER])
    echoed = client.completions.create(**GREEDY, prompt=[PROMPT, OTHER], echo=True)
    assert [choice.text for choice in echoed.choices] == [
        prompt + choice.text for prompt, choice in zip((PROMPT, OTHER), plain.choices, strict=True)
    ]
    assert echoed.usage.completion_tokens == plain.usage.completion_tokens
    streamed = client.completions.create(**GREEDY, prompt=PROMPT, echo=True, stream=True)
    assert "".join(piece.choices[0].text for piece in streamed) == echoed.choices[0].text


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities_with_offsets_into_the_text(client: openai.OpenAI, stream: bool) -> None:
    done = client.completions.create(**GREEDY, prompt=PROMPT, logprobs=3, stream=stream)
    choices = [piece.choices[0] for piece in done] if stream else [done.choices[0]]
    text = "".join(choice.text for choice in choices)
    tables = [choice.logprobs for choice in choices if choice.logprobs]
    tokens = [token for table in tables for token in table.tokens]
    offsets = [offset for table in tables for offset in table.text_offset]
    assert "".join(tokens) == text and len(tokens) == 12
    assert [text[offset : offset + len(token)] for token, offset in zip(tokens, offsets, strict=True)] == tokens
    for table in tables:
        for token, value, top in zip(table.tokens, table.token_logprobs, table.top_logprobs, strict=True):
            assert len(top) == 3 and top[token] == value == max(top.values()) <= 0


def test_special_tokens_are_read_as_such_unless_told_otherwise(client: openai.OpenAI) -> None:
    read = client.completions.create(**GREEDY, prompt=USER_TURN)
    written = client.completions.create(**GREEDY, prompt=USER_TURN, extra_body={"parse_special": False})
    assert read.choices[0].text.startswith("A LoRA is")
    assert written.usage.prompt_tokens > read.usage.prompt_tokens + SPECIAL_COUNT


def test_an_empty_prompt_begins_with_the_first_token_of_all(client: openai.OpenAI) -> None:
    done = client.completions.create(**GREEDY, prompt="")
    assert done.usage.prompt_tokens == 1  # BOS


def test_more_prompts_than_may_wait_are_refused_for_good(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="in one request") as caught:
        client.completions.create(**GREEDY, prompt=["a"] * 500)
    assert caught.value.param == "prompt"
