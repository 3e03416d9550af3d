"""Images in llama.cpp: the runner's logits are those of the library's own helper, however a prompt is cut, shared, left or taken up again."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from modules.core.errors import (
    AppError,
    ContextOverflow,
    InvalidRequest,
    NotFound,
    OutOfMemory,
    UnsupportedFormat,
)
from modules.core.model import ImageToken, LoadedModel, Row
from modules.loaders import image_memory
from modules.loaders.llama_cpp import memory
from modules.loaders.llama_cpp.loader import load
from modules.loaders.llama_cpp.options import LlamaCppOptions
from tests.loaders.eval_reference import MARKER, Reference
from tests.tiny_vision import KINDS, VisionFiles, picture, vision_files, write_projector

FIRST, SECOND, THIRD = picture(1), picture(2, (40, 90)), picture(3, (90, 30))
TEXT = f"The little fox {MARKER} found {MARKER} under the old tree"
CLOSE = {"rtol": 0, "atol": 0.02}  # another cut rounds differently in a float16 cache; another image differs by 0.4 and more


def load_files(files: VisionFiles, **options: Any) -> LoadedModel:
    chosen = {"slots": 4, "threads": 1, "threads_batch": 1, "batch_tokens": 128, "context_length": 256} | options
    return load(files.model, LlamaCppOptions(**chosen), lambda stage, done: None)


class Subject:
    """A loaded model that sees, and the reference over the same files."""

    def __init__(self, files: VisionFiles, kind: str) -> None:
        self.files = files
        self.kind = kind
        self.model = load_files(files)
        self.runner: Any = self.model.runner
        self.reference = Reference(files)

    def ids(self, text: str, images: Sequence[bytes], model: LoadedModel | None = None) -> list[int]:
        model = model or self.model
        assert model.vision is not None
        ids: list[int] = []
        for number, part in enumerate(text.split(MARKER)):
            if number:
                ids += model.vision.image_ids(images[number - 1])
            ids += model.tokenizer.encode(part, add_special=False, parse_special=True)
        return ids

    def run(self, slot: int, ids: Sequence[int], start: int = 0, chunk: int = 128) -> NDArray[np.float32]:
        for begin in range(start, len(ids), chunk):
            logits = self.runner.forward([Row(slot, begin, ids[begin : begin + chunk])])[0]
        return np.array(logits)


@pytest.fixture(scope="module", params=KINDS)
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    made = Subject(vision_files(tmp_path_factory.getbasetemp(), request.param), request.param)
    yield made
    made.runner.close()
    made.runner.close()  # a second close is harmless


@pytest.fixture(autouse=True)
def empty_slots(request: pytest.FixtureRequest) -> None:
    if "subject" in request.fixturenames:
        runner = request.getfixturevalue("subject").runner
        for slot in range(runner.n_slots):
            assert runner.truncate(slot, 0) == 0


def within_image(ids: Sequence[int], number: int) -> int:
    """A length that cuts through the image of that number, in its middle."""
    starts = [i for i, token in enumerate(ids) if isinstance(token, ImageToken) and not isinstance(ids[i - 1], ImageToken)]
    end = next(i for i in range(starts[number], len(ids)) if not isinstance(ids[i], ImageToken))
    return (starts[number] + end) // 2


def test_a_prompt_has_the_tokens_of_the_library_and_its_logits(subject: Subject) -> None:
    ids = subject.ids(TEXT, [FIRST, SECOND])
    assert [-1 if token >= subject.reference.vocab_size else token for token in ids] == subject.reference.shape(TEXT, [FIRST, SECOND])
    expected = subject.reference.logits(TEXT, [FIRST, SECOND])
    np.testing.assert_allclose(subject.run(0, ids), expected, **CLOSE)
    assert abs(subject.reference.logits(TEXT, [SECOND, FIRST]) - expected).max() > 10 * CLOSE["atol"]


def test_an_image_at_the_very_beginning(subject: Subject) -> None:
    text = f"{MARKER}{MARKER} The fox"
    np.testing.assert_allclose(subject.run(0, subject.ids(text, [FIRST, FIRST])), subject.reference.logits(text, [FIRST, FIRST]), **CLOSE)


@pytest.mark.parametrize("chunk", [1, 2, 7, 16, 45])
def test_prefill_in_chunks_that_cut_through_images(subject: Subject, chunk: int) -> None:
    ids = subject.ids(TEXT, [FIRST, SECOND])
    np.testing.assert_allclose(subject.run(1, ids, chunk=chunk), subject.reference.logits(TEXT, [FIRST, SECOND]), **CLOSE)


def test_decoding_goes_on_at_the_right_positions(subject: Subject) -> None:
    ids = subject.ids(TEXT, [FIRST, SECOND])
    subject.run(0, ids)
    then = [40, 41, 42]
    expected = subject.reference.logits(TEXT, [FIRST, SECOND], then)
    np.testing.assert_allclose(subject.run(0, [*ids, *then], start=len(ids), chunk=1), expected, **CLOSE)


def test_a_second_turn_continues_after_what_is_shared(subject: Subject) -> None:
    first, second = subject.ids(TEXT, [FIRST, SECOND]), subject.ids(TEXT + f" and {MARKER} too", [FIRST, SECOND, THIRD])
    subject.run(0, [*first, 40, 41])
    assert subject.runner.truncate(0, len(first)) == len(first)
    assert second[: len(first)] == first
    expected = subject.reference.logits(TEXT + f" and {MARKER} too", [FIRST, SECOND, THIRD])
    np.testing.assert_allclose(subject.run(0, second, start=len(first)), expected, **CLOSE)


def test_a_cut_at_any_length_is_continued_exactly(subject: Subject) -> None:
    ids = subject.ids(TEXT, [FIRST, SECOND])
    expected = subject.reference.logits(TEXT, [FIRST, SECOND])
    subject.run(0, ids)
    for length in range(len(ids) - 1, 0, -1):  # each cut is of what the one before left and completed again
        kept = subject.runner.truncate(0, length)
        assert kept == length
        np.testing.assert_allclose(subject.run(0, ids, start=kept), expected, **CLOSE)


def test_a_cut_through_an_image_can_be_cut_again_or_become_another_text(subject: Subject) -> None:
    ids, other = subject.ids(TEXT, [FIRST, SECOND]), subject.ids(TEXT, [FIRST, THIRD])
    subject.run(0, ids)
    length = within_image(ids, 1)
    assert subject.runner.truncate(0, length) == length
    assert subject.runner.truncate(0, length - 1) == length - 1
    shared = next(i for i, (a, b) in enumerate(zip(ids, other, strict=False)) if a != b)
    assert subject.runner.truncate(0, shared) == shared
    expected = subject.reference.logits(TEXT, [FIRST, THIRD])
    np.testing.assert_allclose(subject.run(0, other, start=shared), expected, **CLOSE)


@pytest.mark.parametrize("where", ["before", "within first", "between", "within second", "whole"])
def test_a_prefix_is_shared_with_another_slot(subject: Subject, where: str) -> None:
    ids = subject.ids(TEXT, [FIRST, SECOND])
    first, second = within_image(ids, 0), within_image(ids, 1)
    between = next(i for i in range(first, second) if not isinstance(ids[i], ImageToken)) + 1
    length = {"before": 2, "within first": first, "between": between, "within second": second, "whole": len(ids) - 1}[where]
    expected = subject.reference.logits(TEXT, [FIRST, SECOND])
    subject.run(0, ids)
    subject.run(2, subject.ids(f"A bird {MARKER} sang", [THIRD]))  # what was there goes
    assert subject.runner.copy_prefix(0, 2, length)
    np.testing.assert_allclose(subject.run(2, ids, start=length), expected, **CLOSE)
    np.testing.assert_allclose(  # the source is as it was
        subject.run(0, [*ids, 40], start=len(ids)), subject.reference.logits(TEXT, [FIRST, SECOND], [40]), **CLOSE
    )


def test_a_prefix_of_a_slot_in_the_middle_of_an_image(subject: Subject) -> None:
    ids = subject.ids(TEXT, [FIRST, SECOND])
    length = within_image(ids, 1)
    subject.run(0, ids[:length])
    assert subject.runner.copy_prefix(0, 1, length)
    expected = subject.reference.logits(TEXT, [FIRST, SECOND])
    for slot in (1, 0):
        np.testing.assert_allclose(subject.run(slot, ids, start=length), expected, **CLOSE)


def test_rows_of_several_slots_with_and_without_images_share_steps(subject: Subject) -> None:
    texts = {0: (TEXT, [FIRST, SECOND]), 1: ("We bake bread from flour", []), 2: (f"A bird {MARKER} sang", [THIRD]), 3: ("My hat is green", [])}
    waiting = {slot: subject.ids(text, images) for slot, (text, images) in texts.items()}
    done = dict.fromkeys(waiting, 0)
    found: dict[int, NDArray[np.float32]] = {}
    while len(found) < len(texts):
        rows = [Row(slot, done[slot], ids[done[slot] : done[slot] + 11]) for slot, ids in waiting.items() if slot not in found]
        for row, logits in zip(rows, subject.runner.forward(rows), strict=True):
            done[row.slot] += len(row.token_ids)
            if done[row.slot] == len(waiting[row.slot]):
                found[row.slot] = np.array(logits)
    for slot, (text, images) in texts.items():
        np.testing.assert_allclose(found[slot], subject.reference.logits(text, images), **CLOSE)


def test_several_outputs_of_a_row_behind_an_image(subject: Subject) -> None:
    ids = subject.ids(TEXT, [FIRST, SECOND])
    logits = [np.array(row) for row in subject.runner.forward([Row(0, 0, ids, outputs=2), Row(1, 0, [40, 41], outputs=2)])]
    assert len(logits) == 4
    np.testing.assert_allclose(logits[1], subject.reference.logits(TEXT, [FIRST, SECOND]), **CLOSE)
    np.testing.assert_allclose(logits[3], subject.run(3, [40, 41]), **CLOSE)
    assert abs(logits[0] - logits[1]).max() > CLOSE["atol"]


def test_a_step_that_runs_out_of_memory_leaves_the_slots_as_before(subject: Subject) -> None:
    model = load_files(subject.files, cache_tokens=256, batch_tokens=256)
    runner: Any = model.runner
    try:
        long = [*subject.ids(TEXT, [FIRST, SECOND], model), *range(40, 140)][:190]
        for begin in range(0, len(long), 64):
            runner.forward([Row(0, begin, long[begin : begin + 64])])
        begun = subject.ids(f"A bird {MARKER} sang", [THIRD], model)
        cut = within_image(begun, 0)
        runner.forward([Row(1, 0, begun[:cut])])
        both = subject.ids(TEXT, [FIRST, SECOND], model)
        with pytest.raises(OutOfMemory):  # the first row is read, the second one finds no room
            runner.forward([Row(1, cut, begun[cut:]), Row(2, 0, both)])
        expected = subject.reference.logits(f"A bird {MARKER} sang", [THIRD])
        np.testing.assert_allclose(runner.forward([Row(1, cut, begun[cut:])])[0], expected, **CLOSE)
        assert runner.truncate(0, 0) == 0
        np.testing.assert_allclose(runner.forward([Row(2, 0, both)])[0], subject.reference.logits(TEXT, [FIRST, SECOND]), **CLOSE)
    finally:
        runner.close()


def test_what_is_no_image_is_refused_and_changes_nothing(subject: Subject) -> None:
    ids = subject.ids(TEXT, [FIRST, SECOND])
    cut = within_image(ids, 0)
    subject.run(0, ids[:cut])
    for row in (
        Row(0, cut, [40]),  # the rest of the image is missing
        Row(0, cut, ids[cut + 1 :]),  # a position is missing
        Row(0, cut - 1, ids[cut - 1 :]),  # not where the slot ends
        Row(1, 0, [subject.runner.vocab_size]),  # a number that is no image
        Row(1, 0, [40, ids[cut]]),  # an image without its beginning
        Row(7, 0, ids),
    ):
        with pytest.raises(InvalidRequest):
            subject.runner.forward([row])
    with pytest.raises(InvalidRequest):
        subject.runner.forward([Row(0, cut, ids[cut:]), Row(0, cut, ids[cut:])])
    with pytest.raises(ContextOverflow):
        subject.runner.forward([Row(0, cut, [*ids[cut:], *[40] * 250])])
    np.testing.assert_allclose(subject.run(0, ids, start=cut), subject.reference.logits(TEXT, [FIRST, SECOND]), **CLOSE)


def test_scores_of_a_text_use_a_slot_that_held_images(subject: Subject) -> None:
    words = subject.model.tokenizer.encode("The little fox found a red ball", add_special=False, parse_special=False)
    expected = subject.runner.score(words)
    subject.run(0, subject.ids(TEXT, [FIRST, SECOND]))
    np.testing.assert_allclose(subject.runner.score(words), expected, atol=1e-5)
    np.testing.assert_allclose(subject.run(0, words), subject.run(1, words), **CLOSE)


def test_the_same_file_has_the_same_ids_and_another_one_has_others(subject: Subject) -> None:
    first, again, second = (subject.ids(MARKER, [image]) for image in (FIRST, FIRST, SECOND))
    assert first == again
    assert not {token for token in first if isinstance(token, ImageToken)} & set(second)


@pytest.mark.parametrize("size", [(1, 1), (1, 100), (100, 1), (3, 200), (640, 480)])
def test_images_of_any_size_allowed(subject: Subject, size: tuple[int, int]) -> None:
    image = picture(5, size)
    text = f"A {MARKER} b"
    ids = subject.ids(text, [image])
    assert subject.model.vision is not None
    subject.model.vision.look(ids)
    if len(ids) <= subject.runner.context_length:
        np.testing.assert_allclose(subject.run(0, ids), subject.reference.logits(text, [image]), **CLOSE)


def test_what_was_seen_is_seen_again_when_it_was_forgotten(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_memory, "SEEN_KEPT_BYTES", 0)
    ids = subject.ids(TEXT, [FIRST, SECOND])
    assert subject.model.vision is not None
    subject.model.vision.look(ids)
    np.testing.assert_allclose(subject.run(0, ids), subject.reference.logits(TEXT, [FIRST, SECOND]), **CLOSE)


def test_an_image_whose_ids_are_gone_takes_no_memory(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_memory, "SEEN_KEPT_BYTES", 0)
    monkeypatch.setattr(image_memory, "FILES_KEPT_BYTES", 0)
    ids = subject.ids(MARKER, [picture(11)])
    held = weakref.ref(next(token.image for token in ids if isinstance(token, ImageToken)))
    other = subject.ids(MARKER, [picture(12)])
    assert held() is not None
    del ids
    assert held() is None
    assert any(isinstance(token, ImageToken) for token in other)


def test_an_unloaded_model_looks_at_nothing(tmp_path_factory: pytest.TempPathFactory) -> None:
    model = load_files(vision_files(tmp_path_factory.getbasetemp(), "llava"))
    assert model.vision is not None
    ids = model.vision.image_ids(FIRST)
    model.runner.close()
    for use in (lambda: model.vision.image_ids(SECOND), lambda: model.vision.look(ids), lambda: model.runner.forward([Row(0, 0, [*ids, 40])])):
        with pytest.raises(AppError, match="was unloaded; load it again"):
            use()


def test_image_tokens_are_limited_on_request(tmp_path_factory: pytest.TempPathFactory) -> None:
    files = vision_files(tmp_path_factory.getbasetemp(), "qwen2vl")
    counts = []
    for limit in (0, 128):
        model = load_files(files, image_tokens=limit)
        assert model.vision is not None
        counts.append(sum(isinstance(token, ImageToken) for token in model.vision.image_ids(picture(1, (1600, 1200)))))
        model.runner.close()
    assert counts[0] > 1000 and 64 < counts[1] <= 128


def test_an_image_that_no_step_can_hold_is_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    model = load_files(vision_files(tmp_path_factory.getbasetemp(), "gemma3"), ubatch_tokens=8)
    assert model.vision is not None
    with pytest.raises(InvalidRequest, match=r"16 tokens of an image at once.*loaded for 8.*ubatch_tokens"):
        model.vision.image_ids(FIRST)
    model.runner.close()


def test_which_projector_is_taken(tmp_path_factory: pytest.TempPathFactory) -> None:
    files = vision_files(tmp_path_factory.getbasetemp(), "llava")
    blind = load_files(files, mmproj="none")
    assert blind.vision is None and not blind.notes
    blind.runner.close()
    second = write_projector(files.projector.with_name("mmproj-other.gguf"), "llava", seed=9)
    try:
        unsure = load_files(files)
        assert unsure.vision is None and "mmproj-other.gguf" in unsure.notes[0]
        unsure.runner.close()
        chosen = load_files(files, mmproj="mmproj-other.gguf")
        assert chosen.vision is not None
        assert chosen.notes == ("Sees images, through mmproj-other.gguf.",)
        chosen.runner.close()
        with pytest.raises(NotFound, match=r"mmproj-none\.gguf.*there: mmproj-other\.gguf, mmproj-tiny\.gguf"):
            load_files(files, mmproj="mmproj-none.gguf")
        with pytest.raises(UnsupportedFormat, match="not a projector but a GGUF model"):
            load_files(files, mmproj=files.model.name)
        write_projector(second, "llava", text_width=32)
        with pytest.raises(UnsupportedFormat, match=r"mmproj-other\.gguf cannot be used with this model.*mismatch"):
            load_files(files, mmproj=second.name)
        second.write_bytes(files.projector.read_bytes()[:-4000])
        with pytest.raises(UnsupportedFormat, match="cut short"):
            load_files(files, mmproj=second.name)
    finally:
        second.unlink()


@pytest.mark.parametrize("fault", ["of another model", "cut short", "of another kind"])
def test_a_projector_that_only_lies_there_and_does_not_fit_is_left_out(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, fault: str) -> None:
    files = vision_files(tmp_path_factory.getbasetemp(), "llava")
    alone = VisionFiles(tmp_path / "model.gguf", tmp_path / "mmproj.gguf")
    alone.model.symlink_to(files.model)
    write_projector(alone.projector, "llava", text_width=32 if fault == "of another model" else 64)
    if fault == "cut short":
        alone.projector.write_bytes(alone.projector.read_bytes()[:-4000])
    if fault == "of another kind":
        alone.projector.write_bytes(alone.projector.read_bytes().replace(b"has_vision_encoder", b"has_sounds_encoder"))
    model = load_files(alone)
    assert model.vision is None
    assert "loaded without seeing images: mmproj.gguf" in model.notes[0]
    model.runner.close()


def test_a_projector_counts_where_memory_is_short(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    files = vision_files(tmp_path_factory.getbasetemp(), "llava")
    monkeypatch.setattr(memory, "available_bytes", lambda: memory.RESERVE_BYTES + memory.PROJECTOR_WORK_BYTES)
    blind = load_files(files, mmproj="none")
    blind.runner.close()
    with pytest.raises(OutOfMemory):
        load_files(files)


@pytest.mark.parametrize("name", ["../mmproj.gguf", "a/b.gguf", "C:mmproj.gguf", "..\\mmproj.gguf", "mmproj.bin", "a\0.gguf"])
def test_a_projector_is_never_looked_for_elsewhere(name: str) -> None:
    with pytest.raises(ValueError, match="name of a GGUF file beside the model"):
        LlamaCppOptions(mmproj=name)


def test_a_slot_with_an_image_is_not_saved_and_one_with_text_is(subject: Subject) -> None:
    ids = subject.ids(TEXT, [FIRST, SECOND])
    text = subject.ids("The little fox found a red ball", [])
    subject.run(0, ids)
    subject.run(1, text)
    assert subject.runner.state_bytes(0) == 0
    state = subject.runner.save_state(1)
    assert subject.runner.state_bytes(1) > 0
    expected = subject.run(1, [*text, 9], len(text))
    assert subject.runner.restore_state(2, state, len(text)) == len(text)
    np.testing.assert_allclose(subject.run(2, [*text, 9], len(text)), expected, **CLOSE)
    assert subject.runner.restore_state(0, state, len(text)) == len(text)  # where an image stood
    np.testing.assert_allclose(subject.run(0, [*text, 9], len(text)), expected, **CLOSE)


def test_text_that_is_read_beside_an_image_is_saved_too(subject: Subject) -> None:
    ids = subject.ids(TEXT, [FIRST, SECOND])
    text = subject.ids("The little fox found a red ball", [])
    for slot in range(2):
        subject.runner.truncate(slot, 0)
    subject.run(1, text)
    assert len(ids) < 128  # so both rows are one step
    subject.runner.forward([Row(0, 0, ids), Row(1, len(text), [9])])
    assert subject.runner.state_bytes(0) == 0
    assert subject.runner.state_bytes(1) > 0
