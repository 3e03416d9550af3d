"""What the API refuses: the official client raises the right exception, with status, field, code and a sentence."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from tests.paddock_server import STARTER, wait_for

HELLO = [{"role": "user", "content": "Hello"}]
IMAGE = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}]
SOUND = [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}]}]
# What is sent beside model and messages, the field that the answer names, and words of the sentence
REFUSED_CHATS = (
    ({"messages": []}, "messages", "at least 1 item"),
    ({"messages": [{"role": "nobody", "content": "x"}]}, "messages.0.role", "nobody"),
    ({"messages": IMAGE}, "messages.0.content", "an image is no PNG, JPEG, WebP or GIF file"),
    ({"messages": SOUND}, "messages.0.content", "parts of type “input_audio” are not supported yet; send text, or images as image_url"),
    ({"temperature": 9}, "temperature", "less than or equal to 5; got 9"),
    ({"temperature": -1}, "temperature", "greater than or equal to 0; got -1"),
    ({"top_p": 0}, "top_p", "greater than 0; got 0"),
    ({"n": 9}, "n", "less than or equal to 8; got 9"),
    ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1; got 0"),
    ({"seed": -2}, "seed", "greater than or equal to 0; got -2"),
    ({"stop": ""}, "stop", "at most 64 stop strings of 1 to 1000 characters"),
    ({"stop": ["x" * 1001]}, "stop", "at most 64 stop strings of 1 to 1000 characters"),
    ({"logit_bias": {"5": 101}}, "logit_bias", "from -100 to 100"),
    ({"top_logprobs": 3}, "top_logprobs", "needs logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "less than or equal to 20; got 21"),
    ({"response_format": {"type": "xml"}}, "response_format", "there are the types text, json_object and json_schema; got 'xml'"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {"pattern": "a"}}}}}, "json_schema", "not: only names, types and values"),
    ({"modalities": ["text", "audio"]}, "modalities", "models here write text only"),
    ({"audio": {"voice": "alloy", "format": "wav"}}, "audio", "models here write text only"),
    ({"web_search_options": {}}, "web_search_options", "nothing is searched for on the web"),
    ({"functions": [{"name": "look"}]}, "functions", "the older form of tools is not supported; send tools"),
    ({"function_call": "auto"}, "function_call", "send tool_choice"),
    ({"extra_body": {"moderation": {"model": "x"}}}, "moderation", "there is no moderation here"),
    ({"reasoning_effort": "a lot"}, "reasoning_effort", "a lot"),
    ({"extra_body": {"grammar": "root ::= thing"}}, "grammar", "line 1, column 10: there is no rule “thing”"),
    ({"extra_body": {"grammar": "root ::= " + "(" * 60_000}}, "grammar", "more than 32 groups in each other"),
    ({"extra_body": {"guided_regex": "(a"}}, "regex", "unclosed group"),
    ({"extra_body": {"structured_outputs": {"structural_tag": {}}}}, "structured_outputs", "use json, regex, choice or grammar"),
    ({"extra_body": {"regex": "a", "choices": ["b"]}}, "params", "a text has one shape: regex and choices are given"),
    ({"extra_body": {"sampler_order": ["top_k", "top_k"]}}, "sampler_order", "names a sampler twice"),
    ({"extra_body": {"min_p": "much"}}, "min_p", "much"),
)
REFUSED_COMPLETIONS = (
    ({"best_of": 4}, "best_of", "completions are not written to be thrown away"),
    ({"suffix": "end"}, "suffix", "this model has no tokens for filling a gap; put the text before the gap into prompt"),
    ({"suffix": "end", "prompt": [1, 2]}, "suffix", "needs its prompt as text"),
    ({"suffix": "end", "echo": True}, "suffix", "leave echo out"),
    ({"logprobs": 21}, "logprobs", "less than or equal to 20; got 21"),
    ({"prompt": [1, 99_999]}, "prompt", "Token id 99999 is not in the vocabulary"),
    ({"prompt": [[1], []]}, "prompt", "The prompt is empty"),
)


def refused(error: openai.APIStatusError, status: int, param: str | None, words: str) -> dict[str, Any]:
    """Check an answer against OpenAI's shape; its error object."""
    body = error.body
    assert isinstance(body, dict)
    assert error.status_code == status
    assert set(body) >= {"message", "type", "param", "code"}
    assert body["param"] == param, body
    assert words in body["message"], body["message"]
    assert body["message"].endswith("."), "not a sentence: " + body["message"]
    return body


@pytest.mark.parametrize(("fields", "param", "words"), REFUSED_CHATS, ids=lambda value: value if isinstance(value, str) else "")
def test_a_chat_that_cannot_be_answered(client: openai.OpenAI, fields: dict[str, Any], param: str, words: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**{"model": STARTER, "messages": HELLO, **fields})
    assert refused(caught.value, 400, param, words)["type"] == "invalid_request_error"


@pytest.mark.parametrize(("fields", "param", "words"), REFUSED_COMPLETIONS, ids=lambda value: value if isinstance(value, str) else "")
def test_a_completion_that_cannot_be_made(client: openai.OpenAI, fields: dict[str, Any], param: str, words: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(**{"model": STARTER, "prompt": "Hello", **fields})
    refused(caught.value, 400, param, words)


@pytest.mark.parametrize("ask", ["chat", "completion", "model"])
def test_a_model_that_does_not_exist(client: openai.OpenAI, ask: str) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        if ask == "chat":
            client.chat.completions.create(model="no-such-model", messages=HELLO)
        elif ask == "completion":
            client.completions.create(model="no-such-model", prompt="Hello")
        else:
            client.models.retrieve("no-such-model")
    body = refused(caught.value, 404, "model", "There is no model “no-such-model”")
    assert body["code"] == "model_not_found"


@pytest.mark.parametrize(("field", "value"), [("preset", "No Such Preset"), ("prompt_template", "No Such Template")])
def test_a_preset_or_a_prompt_template_that_does_not_exist(client: openai.OpenAI, field: str, value: str) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model=STARTER, messages=HELLO, extra_body={field: value})
    refused(caught.value, 404, field, value)


@pytest.mark.parametrize("stream", [False, True])
def test_a_conversation_longer_than_the_context(client: openai.OpenAI, stream: bool) -> None:
    long = [{"role": "user", "content": "word " * 2000}]
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=STARTER, messages=long, stream=stream)
    body = refused(caught.value, 400, "messages", "The conversation needs")
    limit, got = body["details"]["limit"], body["details"]["got"]
    assert (body["code"], limit) == ("context_length_exceeded", 1023)  # the reply needs one token
    assert got > 2000 and f"needs {got:,} tokens, and there is room for {limit:,}" in body["message"]


def test_a_text_longer_than_the_context(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model=STARTER, prompt=[5] * 1024)
    body = refused(caught.value, 400, "prompt", "The prompt has 1024 tokens")
    assert (body["code"], body["details"]["limit"], body["details"]["got"]) == ("context_length_exceeded", 1024, 1024)


def test_what_is_no_json_and_what_is_no_route(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.post("/chat/completions", cast_to=object, content=b"{", options={"headers": {"content-type": "application/json"}})
    assert "JSON" in str(caught.value.body["message"])
    with pytest.raises(openai.NotFoundError):
        client.post("/audio/speech", cast_to=object, body={"model": STARTER, "input": "x"})


def test_a_refusal_leaves_nothing_behind(client: openai.OpenAI, server: Any) -> None:
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model=STARTER, prompt=[[5, 6], [5] * 2000], max_tokens=900)
    wait_for(lambda: server.counters()["running"] + server.counters()["waiting"] == 0, "what had begun is stopped")
    assert client.completions.create(model=STARTER, prompt="Hello", max_tokens=1).choices
