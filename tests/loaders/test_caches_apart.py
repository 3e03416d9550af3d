"""Slots of a GGUF model share one cache, or have one each, whatever numbers it has: the same logits, whatever stands in the others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from modules.core.errors import LoadFailed
from modules.core.generation import TokenLogprob
from modules.core.model import LoadedModel, Row
from modules.core.params import GenerationParams
from modules.engine.engine import Engine
from modules.loaders.llama_cpp.memory import KV_BYTES
from modules.loaders.registry import find_loader
from tests.engine.ties import assert_same_but_for_ties
from tests.fakes import Inbox

SLOTS, CONTEXT = 4, 256


def load(path: Path, **options: object) -> LoadedModel:
    spec = find_loader(path)
    given = {"slots": SLOTS, "context_length": CONTEXT, "threads": 1, "threads_batch": 1, **options}
    return spec.load(path, spec.options.model_validate(given), lambda _stage, _done: None)


@pytest.fixture(scope="module", params=["f16", "q8_0", "q4_0"])
def both(starter_gguf: Path, request: pytest.FixtureRequest) -> Iterator[tuple[LoadedModel, LoadedModel]]:
    """Caches apart, as there is room for each slot's whole context, and one that all share, as there is not."""
    models = load(starter_gguf, kv_type=request.param), load(starter_gguf, kv_type=request.param, cache_tokens=SLOTS * CONTEXT // 2)
    yield models
    for model in models:
        model.runner.close()


def ids_of(model: LoadedModel, count: int, seed: int) -> list[int]:
    return np.random.default_rng(seed).integers(3, model.runner.vocab_size, count).tolist()


def test_each_slot_has_a_cache_where_there_is_room(both: tuple[LoadedModel, LoadedModel], starter_gguf: Path) -> None:
    apart, shared = both
    assert [model.runner.mixes_slots for model in both] == [False, True]
    assert apart.runner.capacity_tokens == SLOTS * CONTEXT
    assert shared.runner.capacity_tokens == SLOTS * CONTEXT // 2
    alone = load(starter_gguf, slots=1)
    assert alone.runner.mixes_slots
    alone.runner.close()


def test_rows_of_any_slots_in_any_order_are_computed_alike(both: tuple[LoadedModel, LoadedModel]) -> None:
    found = []
    for model in both:
        runner, own = model.runner, []
        prompts = [ids_of(model, 40 + slot, slot) for slot in range(SLOTS)]
        for slot in (3, 0, 2):  # one after the other, with a gap
            runner.forward([Row(slot, 0, prompts[slot])])
        # decode and prefill in one step, slots neither in order nor all neighbours
        own += runner.forward([Row(2, 42, [7]), Row(0, 40, [8]), Row(3, 43, [9, 10, 11], 2)])
        own = [np.array(row) for row in own]
        own += [np.array(row) for row in runner.forward([Row(3, 46, [5]), Row(1, 0, prompts[1]), Row(0, 41, [6])])]
        found.append(own)
        for slot in range(SLOTS):
            runner.truncate(slot, 0)
    assert len(found[0]) == len(found[1]) == 7
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-2)


@pytest.mark.parametrize("length", [1, 33, 100])
def test_a_beginning_is_taken_over_from_another_slot(both: tuple[LoadedModel, LoadedModel], length: int) -> None:
    for model in both:
        runner, ids = model.runner, ids_of(model, 100, 5)
        runner.forward([Row(1, 0, ids)])
        assert runner.truncate(1, length) == length
        cut = np.array(runner.forward([Row(1, length, [7, 8])])[0])
        runner.truncate(1, 0)
        runner.forward([Row(0, 0, ids)])
        runner.forward([Row(2, 0, ids_of(model, 50, 6))])  # what stood there is gone afterwards
        assert runner.copy_prefix(0, 2, length)
        assert np.array_equal(runner.forward([Row(2, length, [7, 8])])[0], cut), "the copy is exact"
        goes_on = runner.forward([Row(0, 100, [9])])[0]  # the source is as it was
        assert np.isfinite(goes_on).all()
        assert not runner.copy_prefix(0, 3, 102)
        for slot in range(SLOTS):
            runner.truncate(slot, 0)


def test_every_slot_takes_its_whole_context_at_once(both: tuple[LoadedModel, LoadedModel]) -> None:
    runner = both[0].runner
    ids = ids_of(both[0], CONTEXT, 9)
    for slot in range(SLOTS):
        for start in range(0, CONTEXT, 64):
            runner.forward([Row(slot, start, ids[start : start + 64])])
    assert [runner.truncate(slot, 0) for slot in range(SLOTS)] == [0] * SLOTS


def test_the_numbers_of_a_cache_take_what_is_reckoned(starter_gguf: Path) -> None:
    """So that all the above was about these numbers."""
    sizes = {}
    for kv_type, _ in KV_BYTES:
        runner = load(starter_gguf, slots=1, kv_type=kv_type).runner
        runner.forward([Row(0, 0, list(range(3, 203)))])
        sizes[kv_type] = runner.state_bytes(0)
        runner.close()
    for kv_type, each in KV_BYTES:
        assert sizes[kv_type] == pytest.approx(sizes["f16"] * each / 2, rel=0.05)


@pytest.mark.parametrize("kv_type", ["q8_0", "q4_0"])
def test_heads_that_fit_into_no_block_are_refused_with_the_cure(testdata: Path, kv_type: str) -> None:
    with pytest.raises(LoadFailed, match=f"cannot have a {kv_type} cache .*set kv_type to f16"):
        load(testdata / "models" / "stories260K-q8_0.gguf", kv_type=kv_type)


@pytest.mark.parametrize("kv_type", ["f16", "q8_0", "q4_0"])
def test_who_comes_back_to_scattered_slots_goes_on_where_it_was(starter_gguf: Path, kv_type: str) -> None:
    """Places are changed until those who run stand side by side: nothing is read again, by them or by who rested meanwhile."""
    count, returning = 8, (0, 3, 4, 7)
    model = load(starter_gguf, slots=count, kv_type=kv_type)
    inbox = Inbox()
    engine = Engine(model.runner, model.tokenizer, inbox)
    params = GenerationParams(temperature=0, max_tokens=12, logprobs=5, ban_eos=True)

    def write(prompts: list[list[int]], *, together: bool) -> tuple[list[list[int]], list[list[TokenLogprob]], list[int]]:
        handles = []
        for prompt in prompts:
            handles.append(engine.submit(prompt, params))
            if not together:
                inbox.wait(handles[-1])
        inbox.wait(*handles)
        entries = [[entry for delta in inbox.deltas[one] for entry in delta.logprobs] for one in handles]
        return [inbox.ids(one) for one in handles], entries, [inbox.started[one].reused_tokens for one in handles]

    talks = [ids_of(model, 30 + place, 20 + place) for place in range(count)]
    for talk, reply in zip(talks, write(talks, together=False)[0], strict=True):
        talk += reply
    nexts = [[*talks[place], *ids_of(model, 5, 40 + place)] for place in returning]
    found, _, reused = write(nexts, together=True)
    assert reused == [len(talks[place]) - 1 for place in returning]
    rested = [[*talks[place], 9] for place in range(count) if place not in returning]
    assert write(rested, together=False)[2] == [len(prompt) - 2 for prompt in rested]
    engine.call(lambda: None)  # with that all slots are empty
    _, entries, again = write(nexts, together=False)
    assert max(again) < 30
    assert_same_but_for_ties(found, entries)
    assert engine.close()
