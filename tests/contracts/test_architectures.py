"""Each architecture runs the fastest way that is right for it: in slots, alone with its own cache, or without any."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest

from modules.core.errors import OutOfMemory
from modules.core.model import Row
from modules.engine.logits import NumpyRow
from modules.loaders.transformers.agreement import choose_runner
from modules.loaders.transformers.network import Network
from modules.loaders.transformers.runner import SlotRunner, _groups
from modules.loaders.transformers.single_runner import SingleRunner
from modules.loaders.transformers.slot_cache import SlotCache
from tests.loaders.greedy import decode, generate
from tests.tiny_models import make_model

BATCHING = ("qwen2", "qwen3_moe", "mistral", "gemma2", "gemma3_text", "cohere2", "phi3", "gpt_oss", "gpt2", "gpt_neox", "opt")
ALONE = ("bloom", "gpt_neo", "lfm2", "mamba", "mamba2", "falcon_h1", "qwen3_next")


def prompts_of(count: int) -> tuple[list[list[int]], list[int]]:
    rng = random.Random(1)
    return [[rng.randrange(3, 320) for _ in range(rng.randint(1, 40))] for _ in range(count)], [rng.randint(1, 16) for _ in range(count)]


def runner_of(kind: str, slots: int = 4) -> tuple[Any, Any]:
    model = make_model(kind)
    return model, choose_runner(Network(model, 256), slots, 512)


@pytest.mark.parametrize("kind", BATCHING)
def test_batching_architectures_equal_generate(kind: str) -> None:
    """Prompts go beyond the sliding windows of 16, in ragged chunks."""
    model, runner = runner_of(kind)
    assert isinstance(runner, SlotRunner)
    prompts, counts = prompts_of(6)
    replies = decode(runner, prompts, counts, chunk=7)
    assert [reply.output for reply in replies] == [generate(model, prompt, count) for prompt, count in zip(prompts, counts, strict=True)]


@pytest.mark.parametrize("kind", ALONE)
def test_other_architectures_run_alone_and_equal_generate(kind: str) -> None:
    model, runner = runner_of(kind)
    assert isinstance(runner, SingleRunner)
    assert runner.n_slots == 1
    prompts, counts = prompts_of(3)
    replies = decode(runner, prompts, counts, chunk=50)
    assert [reply.output for reply in replies] == [generate(model, prompt, count) for prompt, count in zip(prompts, counts, strict=True)]


@pytest.mark.parametrize("kind", ALONE)
def test_cutting_back_alone_equals_a_fresh_start(kind: str) -> None:
    _, runner = runner_of(kind)
    ids = prompts_of(1)[0][0] * 3
    runner.forward([Row(0, 0, ids)])
    kept = runner.truncate(0, 20)
    assert kept in (0, 20)
    changed = [*ids[:20], 5, 6, 7]
    resumed = runner.forward([Row(0, kept, changed[kept:])])[0].copy()
    runner.truncate(0, 0)
    np.testing.assert_allclose(resumed, runner.forward([Row(0, 0, changed)])[0], atol=1e-3)


def test_the_check_refuses_a_wrong_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    """If a batch did not compute what the plain model computes, it would be noticed on load."""
    model = make_model("llama")
    monkeypatch.setattr(Network, "mask", lambda self, positions, length: self._as_mask(positions[:, None, :, None] >= -length + self.torch.arange(length) * 0))
    assert isinstance(choose_runner(Network(model, 256), 4, 512), SingleRunner)


def test_eager_attention_batches_too() -> None:
    model = make_model("llama")
    model.set_attn_implementation("eager")
    runner = choose_runner(Network(model, 256), 4, 512)
    assert isinstance(runner, SlotRunner)
    prompts, counts = prompts_of(4)
    replies = decode(runner, prompts, counts)
    assert [reply.output for reply in replies] == [generate(model, prompt, count) for prompt, count in zip(prompts, counts, strict=True)]


def test_the_cache_grows_as_needed_and_keeps_its_content() -> None:
    model = make_model("llama", max_position_embeddings=2048)
    runner = SlotRunner(Network(model, 2048), 2, 512)
    rng = random.Random(3)
    ids = [rng.randrange(3, 320) for _ in range(900)]
    sizes = []
    for begin in range(0, 900, 100):
        logits = runner.forward([Row(1, begin, ids[begin : begin + 100]), *([Row(0, 0, ids[:5])] if begin == 0 else [])])
        sizes.append(runner._cache.capacity)  # type: ignore[union-attr]
    assert sizes[0] == 256
    assert sizes[-1] == 1024
    plain = generate(model, ids, 1)[0]
    assert int(logits[0].argmax()) == plain


def fill_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the second layer of a cache has no room for more than 256 tokens."""
    room = SlotCache._room

    def small_room(cache: SlotCache, store: Any, layer: int, like: Any) -> Any:
        if layer == 1 and cache.capacity > 256:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return room(cache, store, layer, like)

    monkeypatch.setattr(SlotCache, "_room", small_room)


def test_a_cache_that_could_not_grow_asks_for_no_more_than_before(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model("llama", max_position_embeddings=2048)
    runner = SlotRunner(Network(model, 2048), 2, 512)
    rng = random.Random(3)
    ids = [rng.randrange(3, 320) for _ in range(260)]
    expected = runner.forward([Row(0, 0, ids[:20])])[0].copy()
    fill_memory(monkeypatch)
    with pytest.raises(OutOfMemory):
        runner.forward([Row(1, 0, ids)])
    runner.truncate(0, 19)
    np.testing.assert_allclose(runner.forward([Row(0, 19, ids[19:20])])[0], expected, atol=1e-3)
    both = runner.forward([Row(0, 20, ids[20:30]), Row(1, 0, ids[:30])])  # the first layer has grown, the second has not
    np.testing.assert_allclose(both[0], both[1], atol=1e-3)
    monkeypatch.undo()  # there is memory again
    runner.forward([Row(0, 30, ids[30:])])
    assert int(runner.forward([Row(1, 30, ids[30:])])[0].argmax()) == generate(model, ids, 1)[0]


def test_long_rows_do_not_pad_short_ones() -> None:
    assert _groups([1, 1, 1]) == [[0, 1, 2]]
    assert _groups([1, 300, 1, 290]) == [[0, 2], [3, 1]]
    assert _groups([8, 3, 5]) == [[1, 2, 0]]
    assert sorted(place for group in _groups(list(range(1, 40))) for place in group) == list(range(39))


def test_rows_on_a_device_answer_like_arrays() -> None:
    import torch

    from modules.loaders.transformers.logits import TorchRow

    values = np.random.default_rng(0).normal(size=500).astype(np.float32)
    row = TorchRow(torch.from_numpy(values))
    assert row.size == 500
    assert row.max() == values.max()
    assert row.logsumexp() == pytest.approx(float(np.log(np.exp(values.astype(np.float64)).sum())), abs=1e-5)
    np.testing.assert_array_equal(row.full(), values)
    np.testing.assert_array_equal(row.at(np.array([3, 400, 3])), values[[3, 400, 3]])
    for k, threshold in ((5, -100.0), (0, 1.0), (40, 1.5), (500, -0.5), (1000, 0.0)):
        ids, logits = row.cut(k, threshold)
        order = np.argsort(-values)[: k or None]
        assert sorted(ids.tolist()) == sorted(token for token in order.tolist() if values[token] >= threshold)
        np.testing.assert_array_equal(values[ids], logits)
        assert ids.dtype == np.int64
        assert logits.dtype == np.float32


def first(k: int, ids: np.ndarray, logits: np.ndarray) -> list[int]:
    """The k largest, of equal ones the lowest ids; a cut may bring some more."""
    return ids[np.lexsort((ids, -logits))][: k or None].tolist()


def test_rows_of_a_batch_on_a_device_answer_each_for_itself() -> None:
    import torch

    from modules.loaders.transformers.logits import TorchRows

    values = np.random.default_rng(2).normal(size=(3, 700)).astype(np.float32)
    for device, memory in zip(TorchRows(torch.from_numpy(values.copy())).rows(), map(NumpyRow, values), strict=True):
        assert device.max() == memory.max()
        assert device.logsumexp() == pytest.approx(memory.logsumexp(), abs=1e-5)
        for k, threshold in ((1, -math.inf), (40, -1.0), (0, 1.0), (0, -1.0), (256, -9.0), (300, -9.0)):
            ids, logits = device.cut(k, threshold)
            assert first(k, ids, logits) == first(k, *memory.cut(k, threshold))
            np.testing.assert_array_equal(logits, memory.full()[ids])


@pytest.mark.parametrize("odd", [(), (np.nan,), (np.inf,), (-np.inf, np.nan), (np.nan, np.inf, -np.inf, -3.4e38)], ids=str)
@pytest.mark.parametrize("share", [0.001, 0.1, 1.0])
def test_rows_on_a_device_have_ties_and_what_is_no_number_as_rows_in_main_memory(odd: tuple[float, ...], share: float) -> None:
    import torch

    from modules.loaders.transformers.logits import TorchRow

    rng = np.random.default_rng(0)
    values = np.round(rng.standard_normal(1000) * 3).astype(np.float32)
    for value in odd:
        values[rng.random(1000) < share] = value
    device, memory = TorchRow(torch.from_numpy(values.copy())), NumpyRow(values)
    assert device.max() == memory.max()
    assert device.logsumexp() == pytest.approx(memory.logsumexp(), abs=1e-5)
    np.testing.assert_array_equal(device.full(), memory.full())
    np.testing.assert_array_equal(device.at(np.arange(50)), memory.at(np.arange(50)))
    for k in (0, 1, 2, 40, 999, 1000, 5000):
        for threshold in (-math.inf, -1.0, 2.0, 2.00000001, 100.0):
            ids, logits = device.cut(k, threshold)
            assert first(k, ids, logits) == first(k, *memory.cut(k, threshold)), (k, threshold)
            np.testing.assert_array_equal(logits, memory.full()[ids])


def test_norms_that_compute_the_same_to_the_last_bit_compute_at_once() -> None:
    """Gemma's multiply by one more than their weights and stay as they are."""
    import torch

    from modules.loaders.transformers.norms import fuse_norms

    for kind, some in (("llama", True), ("gemma3_text", False)):
        model = make_model(kind)
        ids = torch.tensor([prompts_of(1)[0][0]])
        with torch.inference_mode():
            expected = model(ids).logits
            assert (fuse_norms(model) > 0) is some
            assert torch.equal(model(ids).logits, expected)


@pytest.mark.parametrize("kind", ALONE)
def test_going_back_to_a_mark_equals_a_fresh_start(kind: str) -> None:
    """Where the cache can be cut anywhere no mark is needed, and none made."""
    _, runner = runner_of(kind)
    _, fresh = runner_of(kind)
    assert runner.mark_within(80_000_000) < 80_000_000 or not runner.can_mark
    ids = (prompts_of(1)[0][0] * 90)[:80]
    runner.forward([Row(0, 0, ids[:30])])
    runner.mark(0)
    runner.forward([Row(0, 30, ids[40:60])])
    state = runner.save_state(0)
    form, parts = runner.pack_state(state)
    kept = runner.truncate(0, 35)
    assert runner.can_mark == bool(runner.cuts(0)) == (kind in ("lfm2", "falcon_h1", "qwen3_next"))
    assert kept == (30 if runner.cuts(0) else 35)
    for again in range(3):
        if again:
            runner.truncate(0, 0)
            assert not runner.cuts(0)
            assert runner.restore_state(0, state if again == 1 else runner.unpack_state(form, parts), 33) == (30 if kept == 30 else 33)
            kept = min(kept, 33)
        runner.truncate(0, 30)
        found = runner.forward([Row(0, 30, ids[30:])])[0].copy()
        fresh.truncate(0, 0)
        np.testing.assert_allclose(found, fresh.forward([Row(0, 0, ids)])[0], atol=2e-3)
