"""Rows of numbers with weights of each kind that has a way of its own (installer/headers/paddock_products.h): what the numbers themselves give, and the same together as alone."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest

from modules.core.model import LoadedModel, Row
from modules.loaders.llama_cpp.c_api import library
from modules.loaders.llama_cpp.random_model import RandomModel, write_random_gguf
from modules.loaders.registry import find_loader
from tests.llama_loops import has_products, takes_four_bits
from tests.loaders.greedy import row_of

IN_ANOTHER_ORDER = ("Q4_0", "Q4_K", "IQ4_NL", "MXFP4")  # in which llama.cpp puts them for its own ways where there are none of ours
OWN = ("Q8_0", "Q5_0", "Q5_K", "Q6_K", "Q3_K", "IQ4_XS", *(IN_ANOTHER_ORDER if takes_four_bits() else ()))
SOME_EXPERTS, ALL_EXPERTS = " with 2 of 8 experts", " with 4 of 4 experts"  # which are chosen hangs on the last digits, but not where all are
MIXED = tuple(f"{kind}{ALL_EXPERTS}" for kind in ("Q8_0", "Q4_K", "MXFP4", "Q6_K"))
KINDS = (*dict.fromkeys((*OWN, *IN_ANOTHER_ORDER)), *MIXED, "Q4_K_M")  # where those in another order are not ours the last one is computed in both ways
TWO_THREADS = ("Q5_0", "Q4_K", f"Q8_0{ALL_EXPERTS}", f"Q6_K{SOME_EXPERTS}")  # for all, test workers beside each other would wait for each other's threads
SIZES = RandomModel(2, 256, 768, 4, 2, 331, context_length=256, head_width=64)  # rows of whole units of 256; a vocabulary that sixteen does not divide
IDS = [(7 * place + 3) % 331 for place in range(100)]


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoadedModel]:
    kind, _, mixture = request.param.partition(" with ")
    used, experts = (int(word) for word in mixture.split() if word.isdigit()) if mixture else (2, 0)
    sizes = replace(SIZES, quantization=kind, experts=experts, experts_used=used)
    loaded = load(write_random_gguf(tmp_path_factory.mktemp("products") / f"{kind}.gguf", sizes), 1 + (request.param in TWO_THREADS))
    yield loaded
    loaded.runner.close()


def load(path: Path, threads: int = 1) -> LoadedModel:
    spec = find_loader(path)
    return spec.load(path, spec.options(slots=4, threads=1, threads_batch=threads, context_length=256, batch_tokens=128, widen_weights="off"), lambda stage, done: None)


def as_numbers(path: Path) -> Path:
    """The same model in plain numbers, by llama.cpp itself."""
    binding, target = library(), path.with_suffix(".plain.gguf")
    asked = binding.llama_model_quantize_default_params()
    asked.ftype, asked.allow_requantize = gguf.LlamaFileType.ALL_F32, True
    assert binding.llama_model_quantize(str(path).encode(), str(target).encode(), ctypes.byref(asked)) == 0
    return target


def step_by_step(model: LoadedModel, ids: list[int], step: int) -> np.ndarray:
    """The logits behind the last token, read so many at a time."""
    model.runner.truncate(0, 0)
    for start in range(0, len(ids), step):
        entry = model.runner.forward([Row(0, start, ids[start : start + step])])[0]
    return np.array(row_of(entry))


def assert_near(found: np.ndarray, expected: np.ndarray) -> None:
    """The same but for rounding, which the next layer's rounding to eight bits makes larger: a hundredth, and a number that is wrong is wrong by all of it."""
    assert expected.std() > 0.1
    assert np.sqrt(np.mean((found - expected) ** 2)) < 0.03 * expected.std()


@pytest.fixture(scope="module")
def alone(model: LoadedModel) -> np.ndarray:
    return step_by_step(model, IDS, 1)


@pytest.mark.parametrize("step", [1, 2, 3, 8, 20, 100])
def test_it_is_what_the_numbers_themselves_give(model: LoadedModel, step: int) -> None:
    plain = load(as_numbers(Path(model.info.path)))
    expected = step_by_step(plain, IDS, step)
    plain.runner.close()
    assert_near(step_by_step(model, IDS, step), expected)


@pytest.mark.parametrize("step", [2, 3, 4, 5, 6, 7, 8, 9, 16, 63, 64, 100])
def test_a_prompt_is_the_same_however_many_are_read_at_once(model: LoadedModel, alone: np.ndarray, step: int) -> None:
    assert_near(step_by_step(model, IDS, step), alone)


@pytest.mark.parametrize("together", [2, 3, 4])
def test_replies_beside_each_other_are_what_they_are_alone(model: LoadedModel, together: int) -> None:
    runner, prompts, expected = model.runner, [IDS[place : place + 20] for place in range(4)], []
    for slot, ids in enumerate(prompts):
        runner.truncate(slot, 0)
        runner.forward([Row(slot, 0, ids[:-1])])
        expected.append(np.array(row_of(runner.forward([Row(slot, 19, ids[-1:])])[0])))
        assert runner.truncate(slot, 19) == 19
    found = runner.forward([Row(slot, 19, prompts[slot][-1:]) for slot in range(together)])
    for entry, one in zip(found, expected, strict=False):
        assert_near(np.array(row_of(entry)), one)


@pytest.mark.skipif(not has_products(), reason="another processor, or a library without them")
@pytest.mark.parametrize("model", [*OWN, *(f"{kind}{SOME_EXPERTS}" for kind in OWN)], indirect=True)
@pytest.mark.parametrize("step", [2, 7, 8, 33, 63])
def test_with_these_ways_a_token_has_the_same_digits_however_many_are_read_with_it(model: LoadedModel, alone: np.ndarray, step: int) -> None:
    assert np.array_equal(step_by_step(model, IDS, step), alone)
