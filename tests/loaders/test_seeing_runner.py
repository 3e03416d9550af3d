"""Images in transformers: the runner's logits are those of the library's own pass, however a prompt is cut, batched, shared or taken up again."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from modules.core.errors import InvalidRequest
from modules.core.model import ImageToken, LoadedModel, Row
from modules.loaders.transformers.loader import load
from modules.loaders.transformers.options import TransformersOptions
from modules.loaders.transformers.seeing_runner import SeeingRunner
from tests.tiny_image_text import FAMILIES, image_text_folder
from tests.tiny_vision import picture

MARKER = "<here>"
TEXT = f"The little fox {MARKER} found {MARKER} under the old tree"
FIRST, SECOND, THIRD = picture(1), picture(2, (40, 90)), picture(3, (90, 30))
CLOSE = 2e-3


def assert_close(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(np.array(found), expected, rtol=0, atol=CLOSE)


def load_folder(folder: Path, **options: Any) -> LoadedModel:
    chosen = {"slots": 4, "threads": 1, "batch_tokens": 512} | options
    return load(folder, TransformersOptions(**chosen), lambda stage, done: None)


class Subject:
    """A loaded model that sees."""

    def __init__(self, folder: Path, family: str) -> None:
        self.family = family
        self.model = load_folder(folder)
        self.runner: Any = self.model.runner
        self.vision: Any = self.model.vision

    def ids(self, text: str, images: Sequence[bytes]) -> list[int]:
        ids: list[int] = []
        for number, part in enumerate(text.split(MARKER)):
            if number:
                ids += self.vision.image_ids(images[number - 1])
            ids += self.model.tokenizer.encode(part, add_special=False, parse_special=True)
        return ids

    def run(self, slot: int, ids: Sequence[int], start: int = 0, chunk: int = 512) -> NDArray[np.float32]:
        for begin in range(start, len(ids), chunk):
            logits = self.runner.forward([Row(slot, begin, ids[begin : begin + chunk])])[0]
        return np.array(logits)

    def plain(self, text: str, images: Sequence[bytes], then: Sequence[int] = ()) -> NDArray[np.float32]:
        """Last logits by one pass of the library over what its own processor makes of the text, without a cache."""
        import torch
        from PIL import Image

        processor, model = self.vision._processor, self.vision._network.model
        start, end = ("<|vision_start|>", "<|vision_end|>") if self.family.startswith("qwen") else ("", "")
        written = text.replace(MARKER, f"{start}{processor.image_token}{end}")
        files = [Image.open(io.BytesIO(file)).convert("RGB") for file in images]
        processor.tokenizer.backend_tokenizer.encode_special_tokens = False
        inputs = dict(processor(images=files or None, text=[written], add_special_tokens=False, return_tensors="pt"))
        more = torch.tensor([list(then)], dtype=torch.long)
        inputs["input_ids"] = torch.cat([inputs["input_ids"], more], dim=1)
        for name in ("attention_mask", "token_type_ids", "mm_token_type_ids"):
            if name in inputs:
                inputs[name] = torch.cat([inputs[name], (torch.ones_like if name == "attention_mask" else torch.zeros_like)(more)], dim=1)
        with torch.inference_mode():
            return model(**inputs, use_cache=False).logits[0, -1].numpy()


@pytest.fixture(scope="module", params=FAMILIES)
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    made = Subject(image_text_folder(tmp_path_factory.getbasetemp() / f"seeing-{request.param}", request.param), request.param)
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
    """A length that cuts through the image of that number."""
    at = [i for i, token in enumerate(ids) if isinstance(token, ImageToken) and not isinstance(ids[i - 1], ImageToken)]
    return at[number] + 2


def test_a_prompt_has_the_logits_of_the_library(subject: Subject) -> None:
    assert isinstance(subject.runner, SeeingRunner)
    assert not subject.model.notes
    expected = subject.plain(TEXT, [FIRST, SECOND])
    assert_close(subject.run(0, subject.ids(TEXT, [FIRST, SECOND])), expected)
    assert abs(subject.plain(TEXT, [SECOND, FIRST]) - expected).max() > 10 * CLOSE


@pytest.mark.parametrize("chunk", [1, 7, 16])
def test_prefill_in_chunks_that_cut_through_images(subject: Subject, chunk: int) -> None:
    ids = subject.ids(TEXT, [FIRST, SECOND])
    assert_close(subject.run(1, ids, chunk=chunk), subject.plain(TEXT, [FIRST, SECOND]))


def test_decoding_goes_on_at_the_right_positions(subject: Subject) -> None:
    ids, then = subject.ids(TEXT, [FIRST, SECOND]), [40, 41, 42]
    subject.run(0, ids)
    assert_close(subject.run(0, [*ids, *then], start=len(ids), chunk=1), subject.plain(TEXT, [FIRST, SECOND], then))


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
        assert_close(found[slot], subject.plain(text, images))


def test_images_of_several_slots_are_read_in_one_pass_and_written_on_together(subject: Subject) -> None:
    texts = [(TEXT, [FIRST, SECOND]), (f"{MARKER} and {MARKER} found a ball in the morning", [THIRD, FIRST])]
    prompts = [subject.ids(text, images) for text, images in texts]
    subject.runner.forward([Row(slot, 0, ids) for slot, ids in enumerate(prompts)])
    for count in (1, 2):
        logits = [np.array(row) for row in subject.runner.forward([Row(slot, len(ids) + count - 1, [40]) for slot, ids in enumerate(prompts)])]
    for entry, (text, images) in zip(logits, texts, strict=True):
        assert_close(entry, subject.plain(text, images, [40, 40]))


def test_a_prefix_is_used_again_up_to_an_image_and_into_it(subject: Subject) -> None:
    ids, other = subject.ids(TEXT, [FIRST, SECOND]), subject.ids(TEXT, [FIRST, THIRD])
    expected = subject.plain(TEXT, [FIRST, THIRD])
    shared = next(i for i, (a, b) in enumerate(zip(ids, other, strict=False)) if a != b)
    subject.run(0, ids)
    assert subject.runner.copy_prefix(0, 2, shared)
    assert subject.runner.truncate(0, shared) == shared
    for slot in (0, 2):
        assert_close(subject.run(slot, other, start=shared), expected)
    length = within_image(other, 1)
    assert subject.runner.copy_prefix(0, 3, length)
    assert subject.runner.truncate(0, length) == length
    assert subject.runner.truncate(0, length - 1) == length - 1
    for slot, start in ((3, length), (0, length - 1)):
        assert_close(subject.run(slot, other, start=start, chunk=5), expected)


def test_a_word_that_is_the_token_of_images_stays_a_word(subject: Subject) -> None:
    ids = subject.ids("The little fox", [])
    word = subject.vision.image_token
    alone = subject.run(0, [*ids, word, 40])
    assert np.isfinite(alone).all()
    beside = subject.runner.forward([Row(1, 0, [*ids, word, 40]), Row(2, 0, subject.ids(TEXT, [FIRST, SECOND]))])
    assert_close(beside[0], alone)
    assert_close(beside[1], subject.plain(TEXT, [FIRST, SECOND]))


def test_what_is_no_step_is_refused_and_changes_nothing(subject: Subject) -> None:
    ids = subject.ids(TEXT, [FIRST, SECOND])
    length = within_image(ids, 0)
    subject.run(0, ids[:length])
    for rows in ([Row(0, length - 1, ids[length:])], [Row(0, length, [*ids[:length], 5])], [Row(0, length, [subject.runner.vocab_size + 9])]):
        with pytest.raises(InvalidRequest):
            subject.runner.forward(rows)
    assert_close(subject.run(0, ids, start=length), subject.plain(TEXT, [FIRST, SECOND]))
    assert subject.runner.state_bytes(0) == 0
    assert subject.runner.truncate(0, 0) == 0
    subject.run(0, subject.ids("My hat", []))
    assert subject.runner.state_bytes(0) > 0


def test_what_was_read_at_images_is_read_once(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[Any] = []
    real = subject.vision._looked

    def counted(seen: Any) -> Any:
        looked.append(seen)
        return real(seen)

    monkeypatch.setattr(subject.vision, "_looked", counted)
    new = picture(17, (64, 64))
    ids = subject.ids(TEXT, [new, FIRST])
    subject.vision.look(ids)
    count = len(looked)
    subject.run(0, ids, chunk=9)
    assert ids == subject.ids(TEXT, [new, FIRST])
    assert len(looked) == count
    with pytest.raises(InvalidRequest, match="cannot be read"):
        subject.vision.image_ids(FIRST[:100])
