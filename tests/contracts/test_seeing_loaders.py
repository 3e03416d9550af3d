"""What every loader does alike with a model that sees. A new loader is one more row of `SUBJECTS`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modules.core.errors import InvalidRequest
from modules.core.model import DraftSource, ImageToken, LoadedModel, Row
from modules.core.params import GenerationParams
from modules.engine.engine import Engine
from modules.loaders.registry import find_loader
from tests.contracts.test_engines import Watched
from tests.engine.steady import steady
from tests.fakes import Inbox
from tests.loaders.greedy import row_of
from tests.tiny_image_text import image_text_folder
from tests.tiny_vision import picture, vision_files

SUBJECTS = ("llama.cpp llava", "llama.cpp gemma3", "llama.cpp qwen2vl", "transformers llava", "transformers gemma3", "transformers qwen2_vl")
FIRST, SECOND = picture(1), picture(2, (40, 90))


@pytest.fixture(scope="module", params=SUBJECTS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoadedModel]:
    base, (loader, kind) = tmp_path_factory.getbasetemp(), request.param.split()
    path: Path = vision_files(base, kind).model if loader == "llama.cpp" else image_text_folder(base / f"seeing-{kind}", kind)
    spec = find_loader(path)
    assert spec.name == loader
    options: dict[str, Any] = {"slots": 3, "threads": 1, "batch_tokens": 256, "context_length": 256}
    loaded = spec.load(path, spec.options(**options), lambda stage, done: None)
    yield loaded
    loaded.runner.close()


def prompt_of(model: LoadedModel, *images: bytes) -> list[int]:
    """Words, the images, words."""
    assert model.vision is not None
    ids = model.tokenizer.encode("The little fox", add_special=False, parse_special=False)
    for file in images:
        ids = [*ids, *model.vision.image_ids(file)]
    return [*ids, *model.tokenizer.encode(" sang in the morning", add_special=False, parse_special=False)]


def logits_of(model: LoadedModel, slot: int, ids: list[int], start: int = 0, chunk: int = 256) -> np.ndarray:
    for begin in range(start, len(ids), chunk):
        entry = model.runner.forward([Row(slot, begin, ids[begin : begin + chunk])])[0]
    return np.array(row_of(entry))


def test_an_image_is_positions_beyond_the_vocabulary(model: LoadedModel) -> None:
    first, again, second = (prompt_of(model, file) for file in (FIRST, FIRST, SECOND))
    places = [token for token in first if isinstance(token, ImageToken)]
    assert places and min(places) >= model.runner.vocab_size
    assert len(set(places)) == len(places)
    assert first == again and not set(places) & set(second)
    assert all(token < model.runner.vocab_size for token in first if not isinstance(token, ImageToken))


def test_chunks_prefixes_and_batches_change_nothing(model: LoadedModel) -> None:
    runner, ids, other = model.runner, prompt_of(model, FIRST, SECOND), prompt_of(model, SECOND)
    whole, alone = logits_of(model, 0, ids), logits_of(model, 1, other)
    assert np.abs(whole - alone).max() > 0.1
    runner.truncate(1, 0)
    np.testing.assert_allclose(logits_of(model, 1, ids, chunk=5), whole, atol=2e-2)
    middle = next(index for index, token in enumerate(ids) if isinstance(token, ImageToken)) + 2
    assert runner.truncate(0, middle) == middle
    assert runner.copy_prefix(1, 2, middle)
    for slot in (0, 2):
        np.testing.assert_allclose(logits_of(model, slot, ids, start=middle), whole, atol=2e-2)
    for slot in range(3):
        runner.truncate(slot, 0)
    together = runner.forward([Row(0, 0, ids), Row(1, 0, other), Row(2, 0, [5, 6, 7])])
    np.testing.assert_allclose(row_of(together[0]), whole, atol=2e-2)
    for slot in range(3):
        runner.truncate(slot, 0)


def test_half_an_image_in_the_wrong_place_is_refused(model: LoadedModel) -> None:
    ids = prompt_of(model, FIRST)
    middle = next(index for index, token in enumerate(ids) if isinstance(token, ImageToken)) + 2
    with pytest.raises(InvalidRequest):
        model.runner.forward([Row(0, 0, [*ids[:middle], *ids[middle + 1 :]])])
    expected = logits_of(model, 0, ids)
    model.runner.truncate(0, 0)
    np.testing.assert_allclose(logits_of(model, 0, ids, chunk=3), expected, atol=2e-2)
    model.runner.truncate(0, 0)


@pytest.mark.parametrize("careful", [True, False])
def test_behind_an_image_what_was_written_before_is_drafted_and_changes_nothing(model: LoadedModel, careful: bool) -> None:
    """Tokens that proved wrong are taken back behind positions that are no places, too."""
    assert model.draft == DraftSource(None, 16, is_careful=True)
    inbox = Inbox()
    engine = Engine(Watched(model.runner), model.tokenizer, inbox, draft=replace(model.draft, is_careful=careful))
    steady(engine, share=0.0)
    learned = model.tokenizer.encode("We bake bread from flour, water, salt and time. ", add_special=False, parse_special=False)
    liked = {str(token_id): 6.0 + place for place, token_id in enumerate(learned[:2])}  # so that it repeats itself, whatever chance made of its weights
    prompt, params = [*prompt_of(model, FIRST), *learned, *learned], GenerationParams(temperature=0, max_tokens=60, ban_eos=True, logit_bias=liked, no_repeat_ngram_size=12)
    written, drafted = [], []
    for more in ({"drafts": False}, {}):
        engine.call(lambda: None)  # empties the slots
        generation = engine.submit(prompt, params.model_copy(update=more))
        inbox.wait(generation)
        following = engine.submit([*prompt, *inbox.ids(generation), *learned], params.model_copy(update=more))
        inbox.wait(following)
        usages = [inbox.last(one).usage for one in (generation, following)]
        written.append([inbox.ids(generation), inbox.ids(following)])
        drafted.append(sum(usage.drafted_tokens for usage in usages if usage is not None))
        assert inbox.started[following].reused_tokens > len(prompt)
    assert written[0] == written[1]
    assert drafted[0] == 0 < drafted[1]
    assert engine.close()


def test_what_is_no_image_is_refused(model: LoadedModel) -> None:
    assert model.vision is not None
    for file in (b"", b"no image", FIRST[: len(FIRST) // 2]):
        with pytest.raises(InvalidRequest, match="cannot be read"):
            model.vision.image_ids(file)
