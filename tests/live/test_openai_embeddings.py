"""Embeddings through the official client: a model that only makes vectors, and the starter model, which writes too."""

from __future__ import annotations

import array
import base64
import math
from pathlib import Path

import openai
import pytest

from tests.paddock_server import STARTER, PaddockServer
from tests.tiny_embedders import WIDTH, write_bert, write_bert_gguf

BERT = "embed/tiny-bert.gguf"
TEXTS = ["A LoRA is a small file.", "It rains today.", "a lora is a small file ."]
QUESTION = [{"role": "user", "content": "What is a LoRA?"}]


@pytest.fixture(scope="module")
def bert(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = write_bert(tmp_path_factory.mktemp("made") / "bert")
    (models_dir / "embed").mkdir()
    write_bert_gguf(models_dir / BERT, folder)
    return BERT


def product(first: list[float], second: list[float]) -> float:
    return sum(one * other for one, other in zip(first, second, strict=True))


def test_vectors_of_texts_in_both_encodings(client: openai.OpenAI, server: PaddockServer, bert: str) -> None:
    asked = client.embeddings.create(model=bert, input=TEXTS)  # the client asks for base64 by itself
    plain = client.embeddings.create(model=bert, input=TEXTS, encoding_format="float")
    vectors = [row.embedding for row in asked.data]
    assert [row.index for row in asked.data] == [0, 1, 2] and asked.model == bert and {len(vector) for vector in vectors} == {WIDTH}
    assert vectors == [row.embedding for row in plain.data]
    assert product(vectors[0], vectors[0]) == pytest.approx(1, abs=1e-5)
    assert vectors[0] == pytest.approx(vectors[2], abs=1e-3) and product(vectors[0], vectors[1]) < 0.999
    raw = server.ask("POST", "v1/embeddings", {"model": bert, "input": TEXTS[0], "encoding_format": "base64"})
    assert array.array("f", base64.b64decode(raw["data"][0]["embedding"])).tolist() == pytest.approx(vectors[0], abs=1e-6)
    assert (raw["pooling"], raw["normalized"], raw["object"]) == ("mean", True, "list")


def test_token_ids_dimensions_and_usage(client: openai.OpenAI, bert: str) -> None:
    one = client.embeddings.create(model=bert, input=[2, 5, 6, 3])
    two = client.embeddings.create(model=bert, input=[[2, 5, 6, 3], [2, 5, 3]], dimensions=8)
    assert one.usage.prompt_tokens == one.usage.total_tokens == 4 and two.usage.prompt_tokens == 7
    length = math.sqrt(sum(number * number for number in one.data[0].embedding[:8]))
    assert two.data[0].embedding == pytest.approx([number / length for number in one.data[0].embedding[:8]], abs=1e-4)


def test_many_texts_are_answered_in_their_order(client: openai.OpenAI, bert: str) -> None:
    texts = [f"{'a ' * (number % 11)}model {chr(97 + number % 26)}" for number in range(150)]
    many = client.embeddings.create(model=bert, input=texts)
    assert len(many.data) == 150
    for place in (0, 63, 64, 149):
        assert many.data[place].embedding == pytest.approx(client.embeddings.create(model=bert, input=texts[place]).data[0].embedding, abs=1e-3)


def test_each_is_refused_what_it_cannot_do(client: openai.OpenAI, server: PaddockServer, bert: str) -> None:
    with pytest.raises(openai.BadRequestError, match="is an embedding model"):
        client.chat.completions.create(model=bert, messages=QUESTION)
    with pytest.raises(openai.BadRequestError, match="is an embedding model"):
        client.completions.create(model=bert, prompt="a lora")
    with pytest.raises(openai.BadRequestError, match="Text 66 has 65 tokens.*at most 64"):
        client.embeddings.create(model=bert, input=[[5]] * 65 + [[5] * 65])
    with pytest.raises(openai.BadRequestError, match="32 dimensions"):
        client.embeddings.create(model=bert, input="a", dimensions=64)
    for wrong in ("", [], [[]]):
        with pytest.raises(openai.BadRequestError):
            client.embeddings.create(model=bert, input=wrong)
    rows = {row["id"]: row for row in server.ask("GET", "v1/models")["data"]}
    assert rows[bert]["can_write"] is False and rows[STARTER]["can_write"] is True


def test_a_model_that_writes_makes_vectors_too(client: openai.OpenAI) -> None:  # the last, so that it stays loaded for other tests
    first = client.embeddings.create(model=STARTER, input="What is a LoRA?")
    last = client.embeddings.create(model=STARTER, input="What is a LoRA?", extra_body={"pooling": "last"})
    assert first.pooling == "mean" and last.pooling == "last"
    assert product(first.data[0].embedding, last.data[0].embedding) < 0.99
