"""Tokens of a text and back, counts and next tokens over HTTP."""

from __future__ import annotations

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
