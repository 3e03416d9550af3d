"""What every loader and every runner must do alike. A new loader is one more row of `SUBJECTS`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from modules.core.errors import AppError, ContextOverflow, InvalidRequest, NotFound, UnsupportedFormat
from modules.core.model import Adapter, LoadedModel, LoadOptions, Row
from modules.loaders.registry import LOADERS, find_loader
from tests.loaders.greedy import decode, row_of
from tests.tiny_models import CONTEXT, VOCAB, tiny_files, write_folder, write_window_gguf

PROMPTS = ("The little fox", "We bake bread", "A bird sang in the morning and", "My hat")
TEXTS = ("plain words", "Ünïcödé naïve café", "emoji 😀👩‍🚀 and 日本語", "tabs\tand\nlines\r\n  spaces  ", "<|im_start|> stays text", "")


class Subject:
    """A loaded model and how it was loaded."""

    def __init__(self, base: Path, kind: str) -> None:
        files = tiny_files(base)
        self.batches = not kind.endswith("(one slot)")
        if kind == "llama.cpp":
            self.path, self.adapter = files.gguf, files.gguf_adapter
        elif kind == "llama.cpp (window)":
            self.path, self.adapter = write_window_gguf(base), files.gguf_adapter
        elif self.batches:
            self.path, self.adapter = files.folder, files.adapter
        else:
            self.path, self.adapter = base / "tiny-lfm2", files.adapter
            if not self.path.exists():
                write_folder(self.path, "lfm2")
        self.spec = find_loader(self.path)
        self.stages: list[tuple[str, float | None]] = []
        self.model: LoadedModel = self.load()

    def load(self, **options: Any) -> LoadedModel:
        chosen = {"slots": 8, "threads": 1} | ({"threads_batch": 1} if self.spec.name == "llama.cpp" else {}) | options
        return self.spec.load(self.path, self.spec.options(**chosen), lambda stage, done: self.stages.append((stage, done)))


SUBJECTS = ("llama.cpp", "llama.cpp (window)", "transformers", "transformers (one slot)")


@pytest.fixture(scope="module", params=SUBJECTS)
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    made = Subject(tmp_path_factory.getbasetemp(), request.param)
    yield made
    made.model.runner.close()
    made.model.runner.close()  # a second close is harmless


def ids_of(subject: Subject, text: str) -> list[int]:
    return subject.model.tokenizer.encode(text, add_special=True, parse_special=False)


def last(subject: Subject, token_ids: list[int], slot: int = 0) -> np.ndarray:
    """Logits after a sequence in an empty slot."""
    subject.model.runner.truncate(slot, 0)
    logits = np.array(row_of(subject.model.runner.forward([Row(slot, 0, token_ids)])[0]))
    subject.model.runner.truncate(slot, 0)
    return logits


def test_facts(subject: Subject) -> None:
    runner, tokenizer = subject.model.runner, subject.model.tokenizer
    assert runner.n_slots == (8 if subject.batches else 1)
    assert runner.context_length == CONTEXT
    assert runner.capacity_tokens >= runner.context_length
    assert runner.vocab_size == VOCAB
    assert tokenizer.vocab_size <= VOCAB
    assert 2 in tokenizer.end_ids
    assert subject.model.template is not None
    assert "<|im_start|>" in subject.model.template.text
    assert (subject.model.template.bos_token, subject.model.template.eos_token) == ("<|endoftext|>", "<|im_end|>")
    assert subject.model.info.context_length == CONTEXT
    assert not subject.model.info.problem
    assert bool(subject.model.notes) != subject.batches  # a single slot is said
    assert any(stage == "Reading weights" for stage, _ in subject.stages)


def test_logits_are_one_float32_row_per_row(subject: Subject) -> None:
    count = subject.model.runner.n_slots
    rows = [Row(slot, 0, ids_of(subject, PROMPTS[slot % len(PROMPTS)])) for slot in range(count)]
    logits = subject.model.runner.forward(rows)
    assert len(logits) == count
    for entry in logits:
        values = row_of(entry)
        assert values.dtype == np.float32
        assert values.shape == (VOCAB,)
        assert np.isfinite(values).all()
    for slot in range(count):
        assert subject.model.runner.truncate(slot, 0) == 0


def test_chunks_equal_the_whole(subject: Subject) -> None:
    ids = ids_of(subject, PROMPTS[2])
    whole = last(subject, ids)
    for begin in range(0, len(ids), 3):
        logits = subject.model.runner.forward([Row(0, begin, ids[begin : begin + 3])])
    np.testing.assert_allclose(row_of(logits[0]), whole, atol=2e-2)
    subject.model.runner.truncate(0, 0)


def test_several_outputs_of_a_row_are_those_of_single_steps(subject: Subject) -> None:
    """Rows with different numbers of outputs in one step; where there is one slot, that row alone."""
    runner = subject.model.runner
    texts, wanted = (PROMPTS[2], PROMPTS[0], PROMPTS[1])[: runner.n_slots], (4, 1, 2)
    single: list[np.ndarray] = []
    for text, outputs in zip(texts, wanted, strict=False):
        ids = ids_of(subject, text)
        single += [last(subject, ids[: len(ids) - left]) for left in reversed(range(outputs))]
    rows = [Row(slot, 0, ids_of(subject, text), outputs) for slot, (text, outputs) in enumerate(zip(texts, wanted, strict=False))]
    found = [row_of(entry) for entry in runner.forward(rows)]
    assert len(found) == len(single)
    for entry, expected in zip(found, single, strict=True):
        assert entry.shape == (VOCAB,)
        np.testing.assert_allclose(entry, expected, atol=2e-2)
    for slot in range(runner.n_slots):
        runner.truncate(slot, 0)


def test_truncate_then_go_on_equals_a_fresh_start(subject: Subject) -> None:
    runner, ids = subject.model.runner, ids_of(subject, PROMPTS[2])
    fresh = last(subject, [*ids[:4], 7, 8])
    runner.forward([Row(0, 0, ids)])
    kept = runner.truncate(0, 4)
    assert kept in (0, 4)
    assert kept == 4 or not subject.batches
    logits = runner.forward([Row(0, kept, [*ids[:4], 7, 8][kept:])])
    np.testing.assert_allclose(row_of(logits[0]), fresh, atol=2e-2)
    assert runner.truncate(0, 100) == 6
    assert runner.truncate(0, 0) == 0


def test_copied_prefix_equals_a_fresh_start(subject: Subject) -> None:
    runner, ids = subject.model.runner, ids_of(subject, PROMPTS[2])
    if runner.n_slots == 1:
        assert not runner.copy_prefix(0, 0, 3)
        return
    fresh = last(subject, [*ids[:5], 9], slot=3)
    runner.forward([Row(1, 0, ids)])
    assert runner.copy_prefix(1, 3, 5)
    assert not runner.copy_prefix(1, 2, len(ids) + 1)
    assert not runner.copy_prefix(1, 1, 2) or runner.truncate(1, 0) == 0
    logits = runner.forward([Row(3, 5, [9])])
    np.testing.assert_allclose(row_of(logits[0]), fresh, atol=2e-2)
    for slot in range(4):
        runner.truncate(slot, 0)


@pytest.mark.parametrize("length", [150, 200, 250])
@pytest.mark.parametrize("target", [0, 2])
def test_a_prefix_kept_while_others_came_and_went_equals_a_fresh_start(subject: Subject, target: int, length: int) -> None:
    """What lies behind a sliding window is given to others: cut or copied, a prefix is kept only where nobody took what it sees."""
    runner = subject.model.runner
    ids = np.random.default_rng(0).integers(3, VOCAB, 250).tolist()
    changed = [*ids[:length], 5, 6, 7]
    fresh = last(subject, changed)
    alone = runner.n_slots == 1
    if not alone:
        runner.forward([Row(1, 0, ids[:100])])  # the room before the long one, soon free for a third that needs more than that
    runner.forward([Row(0, 0, ids)])
    if not alone:
        runner.truncate(1, 0)
        runner.forward([Row(3, 0, ids[::-1])])
    if alone or target == 0:
        slot, kept = 0, runner.truncate(0, length)
    else:
        slot, kept = target, length if runner.copy_prefix(0, target, length) else 0
    logits = runner.forward([Row(slot, kept, changed[kept:])])
    np.testing.assert_allclose(row_of(logits[0]), fresh, atol=2e-2)
    for used in range(runner.n_slots):
        runner.truncate(used, 0)


def test_score_equals_step_by_step(subject: Subject) -> None:
    runner, ids = subject.model.runner, ids_of(subject, " ".join(PROMPTS))
    scores = runner.score(ids)
    assert scores.shape == (len(ids) - 1,)
    assert scores.dtype == np.float32
    expected = []
    for place in range(len(ids) - 1):
        row = row_of(runner.forward([Row(0, place, [ids[place]])])[0]).astype(np.float64)
        expected.append(row[ids[place + 1]] - row.max() - math.log(np.exp(row - row.max()).sum()))
    runner.truncate(0, 0)
    np.testing.assert_allclose(scores, expected, atol=2e-2)
    assert runner.score(ids[:1]).shape == (0,)
    assert runner.truncate(0, 1) == 0  # slot 0 is left empty


def test_score_says_when_a_chunk_is_done_and_can_be_ended_there(subject: Subject) -> None:
    runner, ids = subject.model.runner, ids_of(subject, " ".join(PROMPTS))
    done: list[int] = []
    scores = runner.score(ids, lambda: done.append(1))
    assert done
    with pytest.raises(KeyError):
        runner.score(ids, lambda: {}["end"])
    np.testing.assert_allclose(runner.score(ids), scores, atol=1e-5)


def test_ragged_batch_equals_alone(subject: Subject) -> None:
    prompts = [ids_of(subject, text) for text in (*PROMPTS, *(text[:6] for text in PROMPTS))]
    counts = [12, 3, 9, 20, 1, 7, 15, 5]
    together = decode(subject.model.runner, prompts, counts, chunk=5)
    alone = [decode(subject.model.runner, [prompt], [count], slots=1, chunk=64)[0] for prompt, count in zip(prompts, counts, strict=True)]
    assert [reply.output for reply in together] == [reply.output for reply in alone]


def test_a_wrong_step_is_refused_and_changes_nothing(subject: Subject) -> None:
    runner, ids = subject.model.runner, ids_of(subject, PROMPTS[0])
    expected = last(subject, [*ids, 5])
    runner.forward([Row(0, 0, ids)])
    wrong = (
        [Row(0, len(ids) + 3, [5])],  # a gap
        [Row(0, len(ids), [VOCAB])],
        [Row(0, len(ids), [-1])],
        [Row(99, 0, [5])],
        [Row(0, len(ids), [])],
        [Row(0, len(ids), [5], outputs=2)],
        [Row(0, len(ids), [5], outputs=0)],
        [],
        [Row(0, len(ids), [5]), Row(0, len(ids) + 1, [5])],
    )
    for rows in wrong:
        with pytest.raises(InvalidRequest):
            runner.forward(rows)
    with pytest.raises(ContextOverflow):
        runner.forward([Row(0, len(ids), [5] * CONTEXT)])
    with pytest.raises(ContextOverflow):
        runner.score([5] * (CONTEXT + 1))
    runner.truncate(0, 0)
    runner.forward([Row(0, 0, ids)])
    np.testing.assert_allclose(row_of(runner.forward([Row(0, len(ids), [5])])[0]), expected, atol=2e-2)
    runner.truncate(0, 0)


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_give_the_text_back(subject: Subject, text: str) -> None:
    tokenizer = subject.model.tokenizer
    ids = tokenizer.encode(text, add_special=False, parse_special=False)
    assert b"".join(tokenizer.piece(token) for token in ids).decode() == text
    assert not any(tokenizer.is_special(token) for token in ids)


def test_special_tokens_are_read_only_when_asked(subject: Subject) -> None:
    tokenizer = subject.model.tokenizer
    assert tokenizer.encode("<|im_start|>", add_special=False, parse_special=True) == [1]
    assert len(tokenizer.encode("<|im_start|>", add_special=False, parse_special=False)) > 1
    assert tokenizer.is_special(1)
    assert tokenizer.piece(1) == b"<|im_start|>"
    assert not tokenizer.adds_bos
    assert tokenizer.piece(10**6) == b""
    assert not tokenizer.is_special(-1)


def test_text_that_cannot_fit_is_refused_before_tokenizing(subject: Subject) -> None:
    with pytest.raises(ContextOverflow, match="characters"):
        subject.model.tokenizer.encode("a" * 1_000_000, add_special=True, parse_special=True)
    assert subject.model.tokenizer.encode("lone \ud800 surrogate", add_special=False, parse_special=False)


@pytest.mark.parametrize("subject", ["llama.cpp", "transformers"], indirect=True)  # the others are of another shape than the adapter
def test_adapters_act_and_go_without_a_trace(subject: Subject) -> None:
    ids, apply = ids_of(subject, PROMPTS[0]), subject.model.set_adapters
    assert apply is not None
    base = last(subject, ids)
    apply([Adapter(path=str(subject.adapter), scale=1.0)])
    strong = last(subject, ids)
    assert np.abs(strong - base).max() > 0.5
    apply([Adapter(path=str(subject.adapter), scale=0.25)])
    weak = last(subject, ids)
    assert 0.05 < np.abs(weak - base).max() < np.abs(strong - base).max()
    apply([Adapter(path=str(subject.adapter), scale=0.0)])
    np.testing.assert_array_equal(last(subject, ids), base)
    apply([Adapter(path=str(subject.adapter), scale=1.0)])
    np.testing.assert_array_equal(last(subject, ids), strong)
    apply([])
    np.testing.assert_array_equal(last(subject, ids), base)
    with pytest.raises(NotFound):
        apply([Adapter(path=str(subject.adapter) + "-none")])
    np.testing.assert_array_equal(last(subject, ids), base)


def test_an_own_context_length_is_kept_and_too_long_a_one_is_cut_with_a_note(subject: Subject) -> None:
    short = subject.load(context_length=64, slots=2)
    assert short.runner.context_length == 64
    with pytest.raises(ContextOverflow):
        short.runner.forward([Row(0, 0, [5] * 65)])
    short.runner.close()
    long = subject.load(context_length=100_000, slots=1)
    assert long.runner.context_length == CONTEXT
    assert any("trained" in note for note in long.notes)
    long.runner.close()


def test_a_closed_runner_does_not_crash(subject: Subject) -> None:
    model = subject.load(slots=1)
    model.runner.close()
    with pytest.raises(AppError):
        model.runner.forward([Row(0, 0, [5])])


@pytest.mark.parametrize("spec", LOADERS, ids=lambda spec: spec.name)
def test_options_have_bounds_and_sentences(spec: Any) -> None:
    assert issubclass(spec.options, LoadOptions)
    assert spec.requires
    for name, field in spec.options.model_fields.items():
        assert field.description and field.description.endswith("."), name
        if field.annotation in (int, float):
            for wild in (2**62, -(2**62), math.nan):
                with pytest.raises(ValidationError):
                    spec.options(**{name: wild})
    with pytest.raises(ValidationError):
        spec.options(no_such_option=1)


@pytest.mark.parametrize("spec", LOADERS, ids=lambda spec: spec.name)
def test_foreign_files_are_not_accepted(spec: Any, tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("no model")
    assert not spec.accepts(text)
    assert not spec.accepts(tmp_path)
    with pytest.raises(UnsupportedFormat):
        find_loader(text, spec.name)
