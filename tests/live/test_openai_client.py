"""Chat and models through the official client: shapes, numbers, ends and extensions. Plain completions and errors stand beside this file."""

from __future__ import annotations

import json
import time

import openai
import pytest

from tests.paddock_server import STARTER, PaddockServer

QUESTION = "What is a LoRA?"
ANSWER = "A LoRA is a small adapter"
ASKED = [{"role": "user", "content": QUESTION}]
GREEDY = {"model": STARTER, "messages": ASKED, "temperature": 0, "max_tokens": 60}
# Every token one of the two likeliest, either nearly as often: two seeds in a hundred say the same
LOOSE = {"model": STARTER, "messages": ASKED, "temperature": 5, "max_tokens": 16, "extra_body": {"top_k": 2, "deterministic": True}}


def test_models_are_listed_and_found_one_by_one(client: openai.OpenAI) -> None:
    listed = {model.id: model for model in client.models.list()}
    assert {STARTER, "starter", "slow.gguf"} <= set(listed)
    one = client.models.retrieve(STARTER)
    assert one.id == STARTER and one.object == "model"
    assert one.model_extra["loaded"] and one.model_extra["context_length"] == 1024
    assert not listed["slow.gguf"].model_extra["loaded"]


def test_a_whole_reply(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(**GREEDY)
    choice = reply.choices[0]
    assert reply.object == "chat.completion" and reply.model == STARTER and reply.id.startswith("chatcmpl-")
    assert choice.message.role == "assistant" and choice.finish_reason == "stop"
    assert choice.message.content.startswith(ANSWER)
    assert choice.logprobs is None and not choice.message.tool_calls


def test_usage_counts_the_rendered_prompt_and_every_token_written(client: openai.OpenAI) -> None:
    prompt = f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"  # what the chat template makes; BOS comes by itself
    plain = client.completions.create(model=STARTER, prompt=prompt, max_tokens=1)
    reply = client.chat.completions.create(**GREEDY, logprobs=True)
    usage = reply.usage
    assert usage.prompt_tokens == plain.usage.prompt_tokens > 5
    assert usage.completion_tokens == len(reply.choices[0].logprobs.content)
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.prompt_tokens_details.cached_tokens == usage.prompt_tokens - 1  # the same prompt came before


def test_a_stream_says_the_same_as_a_whole_reply(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(**GREEDY)
    chunks = list(client.chat.completions.create(**GREEDY, stream=True, stream_options={"include_usage": True}))
    *pieces, last = chunks
    assert "".join(chunk.choices[0].delta.content or "" for chunk in pieces) == whole.choices[0].message.content
    assert pieces[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in pieces if chunk.choices[0].finish_reason] == ["stop"]
    assert last.choices == [] and last.usage.completion_tokens == whole.usage.completion_tokens
    assert all(chunk.usage is None for chunk in pieces)
    assert len({chunk.id for chunk in chunks}) == 1 and {chunk.object for chunk in chunks} == {"chat.completion.chunk"}


def test_a_stream_comes_while_it_is_written(client: openai.OpenAI) -> None:
    arrived = [time.monotonic() for _ in client.chat.completions.create(**{**GREEDY, "max_tokens": 900}, stream=True, extra_body={"ban_eos": True})]
    assert len(arrived) > 4  # twenty a second, and a fast processor writes all of it in a third of one
    assert arrived[len(arrived) // 2] - arrived[0] > (arrived[-1] - arrived[0]) / 5, "it was held back and came at the end"


def test_a_stream_without_options_has_no_usage(client: openai.OpenAI) -> None:
    chunks = list(client.chat.completions.create(**GREEDY, stream=True))
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_ends_the_reply_and_is_hidden(client: openai.OpenAI, stream: bool) -> None:
    whole = client.chat.completions.create(**GREEDY).choices[0].message.content
    stop = whole[20:26]
    asked = {**GREEDY, "stop": [stop, "never said"], "stream": stream}
    reply = client.chat.completions.create(**asked)
    if stream:
        chunks = list(reply)
        text, reason = "".join(chunk.choices[0].delta.content or "" for chunk in chunks), chunks[-1].choices[0].finish_reason
    else:
        text, reason = reply.choices[0].message.content, reply.choices[0].finish_reason
    assert (text, reason) == (whole[: whole.index(stop)], "stop")


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_the_most_tokens_end_the_reply_with_length(client: openai.OpenAI, name: str) -> None:
    asked = {key: value for key, value in GREEDY.items() if key != "max_tokens"}
    reply = client.chat.completions.create(**asked, **{name: 7})
    assert reply.usage.completion_tokens == 7
    assert reply.choices[0].finish_reason == "length"


def test_a_reply_without_a_limit_ends_where_the_context_ends(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(model=STARTER, messages=ASKED, extra_body={"ban_eos": True})
    assert reply.choices[0].finish_reason == "length"
    assert reply.usage.total_tokens == 1024


def test_a_seed_repeats_the_text_and_a_drawn_seed_is_reported(client: openai.OpenAI) -> None:
    drawn = client.chat.completions.create(**LOOSE)
    seed = drawn.model_extra["seeds"][0]
    assert drawn.system_fingerprint == f"seed-{seed}"
    again = client.chat.completions.create(**LOOSE, seed=seed)
    others = [client.chat.completions.create(**LOOSE, seed=seed + more) for more in (1, 2, 3)]
    assert again.choices[0].message.content == drawn.choices[0].message.content
    assert again.model_extra["seeds"] == [seed]
    assert {other.choices[0].message.content for other in others} != {drawn.choices[0].message.content}


def test_a_stream_reports_the_drawn_seed_too(client: openai.OpenAI) -> None:
    chunks = list(client.chat.completions.create(**LOOSE, stream=True))
    seed = int(chunks[-1].system_fingerprint.removeprefix("seed-"))
    again = client.chat.completions.create(**LOOSE, seed=seed)
    assert again.choices[0].message.content == "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities_of_every_token_with_alternatives(client: openai.OpenAI, stream: bool) -> None:
    reply = client.chat.completions.create(**GREEDY, logprobs=True, top_logprobs=4, stream=stream)
    if stream:
        chunks = list(reply)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        entries = [entry for chunk in chunks if chunk.choices[0].logprobs for entry in chunk.choices[0].logprobs.content]
    else:
        text, entries = reply.choices[0].message.content, reply.choices[0].logprobs.content
    assert "".join(entry.token for entry in entries) == text
    assert bytes(byte for entry in entries for byte in entry.bytes).decode() == text
    for entry in entries:
        assert len(entry.top_logprobs) == 4
        assert entry.top_logprobs[0].token == entry.token and entry.logprob == entry.top_logprobs[0].logprob  # greedy takes the best
        values = [top.logprob for top in entry.top_logprobs]
        assert values == sorted(values, reverse=True) and all(value <= 0 for value in values)


def test_several_choices_differ_and_the_prompt_counts_once(client: openai.OpenAI) -> None:
    one = client.chat.completions.create(**LOOSE)
    reply = client.chat.completions.create(**LOOSE, n=3)
    texts = [choice.message.content for choice in reply.choices]
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    assert len(set(reply.model_extra["seeds"])) == 3 and len(set(texts)) > 1  # two of three can fall on the same words
    assert reply.usage.prompt_tokens == one.usage.prompt_tokens
    assert reply.usage.completion_tokens > one.usage.completion_tokens
    given = client.chat.completions.create(**LOOSE, n=3, seed=7)
    assert given.model_extra["seeds"] == [7, 8, 9]
    alone = client.chat.completions.create(**LOOSE, seed=8)
    assert alone.choices[0].message.content == given.choices[1].message.content


def test_several_choices_come_interleaved_in_one_stream(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(**LOOSE, n=3, seed=7)
    texts = ["", "", ""]
    for chunk in client.chat.completions.create(**LOOSE, n=3, seed=7, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == [choice.message.content for choice in whole.choices]
    together = {**LOOSE, "extra_body": {"top_k": 2}}  # a deterministic choice is written by itself
    choices = [chunk.choices[0] for chunk in client.chat.completions.create(**together, n=3, stream=True)]
    order = [(choice.index, choice.finish_reason) for choice in choices]
    assert sorted(index for index, reason in order if reason) == [0, 1, 2]
    first_end = next(place for place, (_, reason) in enumerate(order) if reason)
    assert {index for index, _ in order[:first_end]} == {0, 1, 2}


async def test_the_asynchronous_client(async_client: openai.AsyncOpenAI, client: openai.OpenAI) -> None:
    expected = client.chat.completions.create(**GREEDY).choices[0].message.content
    assert STARTER in [model.id async for model in async_client.models.list()]
    whole = await async_client.chat.completions.create(**GREEDY)
    assert whole.choices[0].message.content == expected
    text = ""
    async for chunk in await async_client.chat.completions.create(**GREEDY, stream=True):
        text += chunk.choices[0].delta.content or ""
    assert text == expected


def test_an_empty_model_name_means_the_one_used_last(client: openai.OpenAI) -> None:
    assert client.chat.completions.create(**{**GREEDY, "model": ""}).model == STARTER


def test_text_in_parts_is_one_text(client: openai.OpenAI) -> None:
    parts = [{"type": "text", "text": QUESTION[:8]}, {"type": "text", "text": QUESTION[8:]}]
    reply = client.chat.completions.create(**{**GREEDY, "messages": [{"role": "user", "content": parts}]})
    assert reply.choices[0].message.content.startswith(ANSWER)


def test_a_developer_speaks_as_the_system_does(client: openai.OpenAI) -> None:
    told = [client.chat.completions.create(**{**GREEDY, "messages": [{"role": role, "content": "Be brief."}, *ASKED]}) for role in ("system", "developer")]
    assert told[0].choices[0].message.content == told[1].choices[0].message.content
    assert told[0].usage.prompt_tokens == told[1].usage.prompt_tokens > client.chat.completions.create(**GREEDY).usage.prompt_tokens


def test_the_counters_say_what_was_written(client: openai.OpenAI, server: PaddockServer) -> None:
    before = server.counters()
    written = client.chat.completions.create(**GREEDY).usage.completion_tokens
    after = server.counters()
    assert (after["slots"], after["running"], after["waiting"]) == (8, 0, 0)
    assert after["decode_tokens"] - before["decode_tokens"] == written
    assert after["steps"] - before["steps"] >= written


@pytest.mark.parametrize("asked", [{}, {"n": 2}, {"seed": 5}, {"stream_options": {"include_usage": True}}, {"n": 2, "seed": 5, "stream_options": {"include_usage": True}}])
@pytest.mark.parametrize("path", ["v1/chat/completions", "v1/completions"])
def test_all_pieces_of_a_stream_have_the_same_fields(server: PaddockServer, path: str, asked: dict[str, object]) -> None:
    told = {"messages": [{"role": "user", "content": "Hello"}]} if "chat" in path else {"prompt": "Hello", "echo": True}
    events = server.http.post(path, json={**told, "max_tokens": 4, "ban_eos": True, "stream": True, **asked}).text.split("\n\n")
    pieces = [json.loads(event.removeprefix("data: ")) for event in events if event.startswith("data: {")]
    fields = {"id", "created", "model", "object", "choices", "system_fingerprint", *({"usage"} if "stream_options" in asked else ())}
    assert len(pieces) > 1 and [set(piece) for piece in pieces] == [fields] * len(pieces)
    if "stream_options" in asked:
        assert [piece["usage"] is None for piece in pieces] == [True] * (len(pieces) - 1) + [False]
        assert pieces[-1]["choices"] == []
    if "seed" in asked:
        assert {piece["system_fingerprint"] for piece in pieces} == {f"seed-{5 + choice}" for choice in range(int(str(asked.get("n", 1))))}
