"""Tokens of a text and back, counts and next tokens over HTTP."""

from __future__ import annotations

import math

import httpx
import openai
import pytest

from tests.paddock_server import STARTER, PaddockServer

TEXT = "What is a LoRA? <|im_start|>Größe 😀"


def test_text_to_tokens_and_back(server: PaddockServer) -> None:
    found = server.ask("POST", "v1/internal/encode", {"text": TEXT})
    assert found["length"] == len(found["tokens"]) > 5
    assert server.ask("POST", "v1/internal/decode", {"tokens": found["tokens"]}) == {"text": TEXT}
    assert server.ask("POST", "v1/internal/token-count", {"text": TEXT, "model": STARTER}) == {"length": found["length"]}


def test_next_tokens_are_those_of_the_completion(server: PaddockServer, client: openai.OpenAI) -> None:
    found = server.ask("POST", "v1/internal/logits", {"prompt": "A LoRA is", "top_logits": 3})["logits"]
    first = client.completions.create(model=STARTER, prompt="A LoRA is", max_tokens=1, temperature=0).choices[0].text
    assert next(iter(found)) == first and len(found) == 3 and list(found.values()) == sorted(found.values(), reverse=True)
    assert 0.3 < sum(found.values()) <= 1


@pytest.mark.parametrize("body", [{"tokens": [10**9]}, {"tokens": [-1]}, {"tokens": "x"}])
def test_what_is_no_token_is_refused(server: PaddockServer, body: dict) -> None:
    answer = httpx.post(f"{server.url}v1/internal/decode", json=body)
    assert answer.status_code in (400, 422) and "error" in answer.json()


@pytest.mark.parametrize("path", ["v1/internal/token-count", "v1/internal/encode"])
def test_a_text_may_be_longer_than_the_context_up_to_what_is_split_in_one_go(server: PaddockServer, path: str) -> None:
    lines = "a heron stood in the water\n" * 600  # 16,200 characters: far more tokens than the context of 1,024 holds
    assert server.ask("POST", path, {"text": lines})["length"] > 1024
    answer = server.http.post(path, json={"text": lines * 3})
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "text"
    assert answer.json()["error"]["message"] == (
        "The text has 48,600 characters; with a context of 1,024 tokens the limit is 16,384. Send it in parts that end with lines, and add up their tokens, or load the model with a longer context."
    )
    prompt = server.http.post("v1/completions", json={"prompt": lines * 3, "max_tokens": 1}).json()["error"]
    assert prompt["message"].endswith("the limit is 16,384. Shorten it, or load the model with a longer context.")


def test_scores_are_the_log_probabilities_of_the_prompt(server: PaddockServer, client: openai.OpenAI) -> None:
    text = "A LoRA is a small set of weights."
    found = server.ask("POST", "v1/internal/score", {"text": text})
    (one,) = found["scores"]
    echoed = client.completions.create(model=STARTER, prompt=text, max_tokens=0, echo=True, logprobs=0).choices[0].logprobs
    assert len(one["tokens"]) == len(one["logprobs"]) == len(echoed.token_logprobs) - 1  # there the token in front of a text is told too
    assert one["logprobs"] == pytest.approx(echoed.token_logprobs[1:], abs=0.2)
    known = [value for value in one["logprobs"] if value is not None]
    assert one["logprob"] == pytest.approx(sum(known))
    assert one["perplexity"] == pytest.approx(math.exp(-sum(known) / len(known)))
    assert found["usage"]["prompt_tokens"] >= len(one["tokens"])


def test_texts_are_ranked_behind_a_context_that_is_not_counted(server: PaddockServer) -> None:
    context = "### Question\nWhat is a LoRA?\n### Answer\nA LoRA"
    texts = [" is a small", " zebra xylophone"]
    found = server.ask("POST", "v1/internal/score", {"context": context, "text": texts})["scores"]
    assert found[0]["logprob"] > found[1]["logprob"]
    for text, one in zip(texts, found, strict=True):
        assert server.ask("POST", "v1/internal/decode", {"tokens": one["tokens"]}) == {"text": text}
        assert None not in one["logprobs"]


def test_a_context_that_begins_with_the_token_for_that_has_it_once(server: PaddockServer) -> None:
    asked = {"messages": [{"role": "user", "content": "What is a LoRA?"}]}
    prompt = server.ask("POST", "v1/internal/chat-prompt", asked)["prompt"]
    found = server.ask("POST", "v1/internal/score", {"context": prompt, "text": "A LoRA"})
    assert found["usage"]["prompt_tokens"] == len(server.ask("POST", "v1/internal/encode", {"text": prompt + "A LoRA"})["tokens"])


@pytest.mark.parametrize(("body", "words"), [({"text": []}, "nothing to score"), ({"text": ["a", ""]}, "nothing to score"), ({"text": ["a"] * 300}, "at most 256 texts"), ({"text": "a heron " * 4000}, "Shorten it")])
def test_what_cannot_be_scored_is_refused(server: PaddockServer, body: dict, words: str) -> None:
    answer = server.http.post("v1/internal/score", json=body)
    assert answer.status_code in (400, 422)
    assert words in answer.json()["error"]["message"]
