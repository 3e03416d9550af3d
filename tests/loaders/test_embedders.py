"""Vectors of texts: a tiny BERT against transformers' own computation, the same weights through llama.cpp, and models that write."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType

import gguf
import numpy as np
import pytest

from modules.core.errors import AppError, ContextOverflow, InvalidRequest, UnsupportedFormat
from modules.core.generation import EmbeddingRequest
from modules.core.model import LoadedModel
from modules.core.params import GenerationParams
from modules.engine.embedding import check_writes, embed, embedding_ids
from modules.engine.engine import Engine
from modules.loaders.gguf_header import GgufHeader
from modules.loaders.model_info import read_info
from modules.loaders.pooling import embeds_only
from modules.loaders.registry import find_loader
from tests.fakes import Inbox
from tests.tiny_embedders import POSITIONS, bert_vector, write_bert, write_bert_gguf
from tests.tiny_models import TinyFiles, write_gguf

TEXTS = ("A LoRA is a small file.", "unable", "What changes the model? It rains today and the weather is unable.", "is it")
GREEDY = GenerationParams(temperature=0, max_tokens=60)


def load(path: Path, **options: object) -> LoadedModel:
    spec = find_loader(path)
    return spec.load(path, spec.options(**options), lambda stage, done: None)


class Bench:
    """A model, its engine, and vectors of texts."""

    def __init__(self, model: LoadedModel) -> None:
        self.model, self.inbox = model, Inbox()
        self.engine = Engine(model.runner, model.tokenizer, self.inbox)

    def vectors(self, *inputs: str | tuple[int, ...], **asked: object) -> np.ndarray:
        request = EmbeddingRequest(inputs=inputs, **asked)
        ids = embedding_ids(self.model, "Tiny", request)
        return np.stack([np.frombuffer(vector, "<f4") for vector in embed(self.engine, self.model.embedder, ids, request)])


@pytest.fixture(scope="module")
def bench() -> Iterator:
    begun = []

    def start(path: Path, **options: object) -> Bench:
        begun.append(Bench(load(path, **options)))
        return begun[-1]

    yield start
    for each in begun:
        assert each.engine.close()


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bert(tmp_path_factory.mktemp("bert") / "bert")


@pytest.fixture(scope="module")
def berts(bench, bert: Path) -> dict[str, Bench]:
    return {"folder": bench(bert), "gguf": bench(write_bert_gguf(bert.with_suffix(".gguf"), bert))}


@pytest.fixture(scope="module")
def writers(bench, tiny: TinyFiles) -> dict[str, Bench]:
    """The same weights in both forms, and a context that a text does not fill in one chunk."""
    return {"folder": bench(tiny.folder, slots=2), "gguf": bench(tiny.gguf, slots=2, batch_tokens=32)}


@pytest.mark.parametrize("form", ["folder", "gguf"])
@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_an_encoder_makes_the_vectors_of_transformers(berts: dict[str, Bench], bert: Path, form: str, pooling: str) -> None:
    found = berts[form].vectors(*TEXTS, pooling=pooling)
    expected = np.stack([bert_vector(bert, text, pooling, normalize=True) for text in TEXTS])
    assert np.abs(found - expected).max() < (1e-5 if form == "folder" else 2e-3)
    assert np.linalg.norm(found, axis=1) == pytest.approx(1, abs=1e-5)
    assert np.abs(found[0] - found[1]).max() > 0.05


def test_together_alone_and_as_ids_they_are_the_same(berts: dict[str, Bench]) -> None:
    many = [TEXTS[place % 4] + " a" * (place % 7) for place in range(40)]
    for form, each in berts.items():
        found = each.vectors(*many)
        alone = np.concatenate([each.vectors(text) for text in many[:9]])
        ids = tuple(tuple(each.model.embedder.encode(text)) for text in many[:9])
        assert np.abs(found[:9] - alone).max() < 2e-3, form
        assert np.abs(each.vectors(*ids) - alone).max() < 2e-3, form
    assert berts["folder"].model.embedder.encode(TEXTS[2]) == berts["gguf"].model.embedder.encode(TEXTS[2])


def test_the_files_say_how_it_is_pooled_and_whether_it_is_normalised(bench, bert: Path, tmp_path: Path) -> None:
    raw = bench(write_bert(tmp_path / "raw", pooling="cls", normalize=False))
    assert np.abs(raw.vectors(TEXTS[0]) - bert_vector(bert, TEXTS[0], "cls", normalize=False)).max() < 1e-5
    assert np.linalg.norm(raw.vectors(TEXTS[0], normalize=True)) == pytest.approx(1, abs=1e-5)
    cls = bench(write_bert_gguf(tmp_path / "cls.gguf", bert, gguf.PoolingType.CLS))
    assert cls.model.embedder.pooling == "cls" and not cls.model.info.can_write
    with pytest.raises(UnsupportedFormat, match="of the kind Dense"):
        load(write_bert(tmp_path / "dense", dense=True))
    with pytest.raises(UnsupportedFormat, match="pools in a way"):
        load(write_bert(tmp_path / "max", pooling="max"))
    with pytest.raises(UnsupportedFormat, match="ranks pairs"):
        load(write_bert_gguf(tmp_path / "rank.gguf", bert, gguf.PoolingType.RANK))


def test_fewer_dimensions_are_the_first_ones_made_whole_again(berts: dict[str, Bench]) -> None:
    for each in berts.values():
        whole, cut = each.vectors(TEXTS[0]), each.vectors(TEXTS[0], dimensions=8)
        assert cut == pytest.approx(whole[:, :8] / np.linalg.norm(whole[:, :8]), abs=1e-5)
        with pytest.raises(InvalidRequest, match="32 dimensions, and 33"):
            each.vectors(TEXTS[0], dimensions=33)


def test_what_cannot_be_read_is_refused_before_native_code(berts: dict[str, Bench]) -> None:
    for each in berts.values():
        assert each.model.embedder.context_length == POSITIONS
        for ids, error, words in (
            ((5,) * (POSITIONS + 1), ContextOverflow, f"{POSITIONS + 1} tokens"), ((), InvalidRequest, "empty"), ((-1,), InvalidRequest, "vocabulary"),
            ((10**9,), InvalidRequest, "vocabulary"),
        ):  # fmt: skip
            with pytest.raises(error, match=words):
                each.vectors((5, 6), ids)
        assert np.isfinite(each.vectors((5,) * POSITIONS)).all()
        with pytest.raises(InvalidRequest, match="embedding model"):
            check_writes(each.model, "Tiny")


def test_encoders_are_listed_as_what_they_are(bert: Path, berts: dict[str, Bench], tiny: TinyFiles) -> None:
    for path, writes in ((bert, False), (bert.with_suffix(".gguf"), False), (tiny.folder, True), (tiny.gguf, True)):
        info = read_info(path, path.parent)
        assert (info.problem, info.can_write) == ("", writes)


def test_one_token_that_begins_and_ends_texts_stands_where_the_file_says(tiny: TinyFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in Qwen3-Embedding, whose last state is that of the end token."""
    original = gguf.GGUFWriter.add_bos_token_id

    def add_both(writer: gguf.GGUFWriter, _: int) -> None:
        original(writer, 2)
        writer.add_add_eos_token(True)

    monkeypatch.setattr(gguf.GGUFWriter, "add_bos_token_id", add_both)
    model = load(write_gguf(tmp_path / "both.gguf", tiny.folder), slots=1, threads=1)
    assert model.embedder is not None
    words = model.tokenizer.encode(TEXTS[0], add_special=False, parse_special=False)
    assert model.embedder.encode(TEXTS[0]) == [*words, 2]
    model.runner.close()


def test_models_that_llama_cpp_has_see_whole_texts_write_none() -> None:
    for architecture, expected in (("gemma-embedding", True), ("llama-embed", True), ("nomic-bert-moe", True), ("gemma3", False), ("llama", False)):
        header = GgufHeader(Path("x.gguf"), 1, MappingProxyType({"general.architecture": architecture}), ())
        assert embeds_only(header) == expected, architecture


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_a_model_that_writes_makes_vectors_of_its_last_states(writers: dict[str, Bench], tiny: TinyFiles, pooling: str) -> None:
    import torch
    from transformers import AutoModel

    texts = ("The quick brown fox", "jumps over the lazy dog. " * 6, "x")
    model = AutoModel.from_pretrained(tiny.folder, dtype=torch.float32).eval()
    for form, each in writers.items():
        found = each.vectors(*texts, pooling=pooling, normalize=False)
        for text, vector in zip(texts, found, strict=True):
            ids = each.model.embedder.encode(text)
            with torch.inference_mode():
                states = model(torch.tensor([ids])).last_hidden_state[0]
            expected = (states.mean(0) if pooling == "mean" else states[-1]).numpy()
            assert np.abs(vector - expected).max() < (1e-4 if form == "folder" else 0.02) * np.abs(expected).max(), form


def test_a_long_text_is_read_in_chunks_that_can_be_ended(writers: dict[str, Bench]) -> None:
    each = writers["gguf"]
    before, chunks = each.vectors(TEXTS[2]), []

    def tell() -> None:
        chunks.append(1)
        if len(chunks) == 2:
            raise InvalidRequest("Enough.")

    with pytest.raises(InvalidRequest, match="Enough"):
        each.engine.lend(lambda: each.model.embedder.embed([[5] * 100], "mean", tell), 100)
    assert len(chunks) == 2  # of four
    assert each.vectors(TEXTS[2]) == pytest.approx(before, abs=1e-5)


def test_the_starter_model_says_nearly_the_same_in_both_forms(bench, starter_dir: Path, starter_gguf: Path) -> None:
    folder, file = bench(starter_dir, context_length=256), bench(starter_gguf, context_length=256)
    for pooling in ("mean", "last"):
        first, second = (each.vectors("What is a LoRA?", "Where do I put model files?", pooling=pooling) for each in (folder, file))
        assert (first * second).sum(1).min() > 0.99  # 8-bit weights against float32
        assert (first[0] * first[1]).sum() < 0.99


@pytest.mark.parametrize("form", ["folder", "gguf"])
def test_vectors_between_the_steps_of_a_reply_change_neither(writers: dict[str, Bench], form: str) -> None:
    each = writers[form]
    prompt = each.model.tokenizer.encode("The quick brown", add_special=True, parse_special=False)
    alone, vector = each.engine.submit(prompt, GREEDY), each.vectors(TEXTS[0])
    each.inbox.wait(alone)
    together = [each.engine.submit(prompt, GREEDY) for _ in range(2)]
    found: list[np.ndarray] = []
    asking = threading.Thread(target=lambda: found.extend(each.vectors(TEXTS[0]) for _ in range(5)))
    asking.start()
    each.inbox.wait(*together)
    asking.join(20)
    assert [each.inbox.ids(generation) for generation in together] == [each.inbox.ids(alone)] * 2
    assert len(found) == 5 and all(np.abs(other - vector).max() < 1e-3 for other in found)


@pytest.mark.parametrize("form", ["folder", "gguf"])
def test_a_reply_goes_on_while_a_long_text_is_read(writers: dict[str, Bench], form: str) -> None:
    each = writers[form]
    engine, embedder = each.engine, each.model.embedder
    prompt = each.model.tokenizer.encode("The quick brown", add_special=True, parse_special=False)
    long = [5 + place % 50 for place in range(120)]
    alone, scores = engine.submit(prompt, GREEDY), engine.score(long)
    vector = engine.lend(lambda: embedder.embed([long], "mean"), len(long))
    each.inbox.wait(alone)
    steps: list[int] = []

    def read() -> np.ndarray:
        def chunk_done() -> None:
            engine.chunk_done()
            steps.append(engine.counters().steps)

        return embedder.embed([long], "mean", chunk_done) if embedder.in_slot else each.model.runner.score(long, chunk_done)

    beside = engine.submit(prompt, GREEDY.model_copy(update={"max_tokens": 100}))
    each.inbox.wait_for(lambda: each.inbox.ids(beside))
    found = engine.lend(read, len(long))
    assert np.abs(found - (vector if embedder.in_slot else np.array(scores))).max() < 1e-3
    assert len(steps) >= (4 if embedder.in_slot else 1) and steps == list(range(steps[0], steps[0] + len(steps))), "a step between two chunks"
    assert engine.score(long) == pytest.approx(scores, abs=1e-3)
    each.inbox.wait(beside)
    assert each.inbox.ids(beside)[: GREEDY.max_tokens] == each.inbox.ids(alone)


def test_a_text_whose_place_is_emptied_meanwhile_is_refused_instead_of_read_on(writers: dict[str, Bench]) -> None:
    each = writers["gguf"]
    runner, long = each.model.runner, [5 + place % 50 for place in range(120)]
    before = each.engine.score(long)
    for read in (lambda: runner.score(long, runner_emptied), lambda: each.model.embedder.embed([long], "mean", runner_emptied)):

        def runner_emptied() -> None:
            runner.truncate(0, 0)

        with pytest.raises(AppError, match="lost its place"):
            each.engine.lend(read, len(long))
    assert each.engine.score(long) == pytest.approx(before, abs=1e-5)
