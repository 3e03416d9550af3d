"""Steps, micro-batches and rows: everything once an epoch, the same steps whatever the size of micro-batches, and packed rows that reckon as single ones."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modules.core.errors import InvalidRequest
from modules.training.options import TrainingOptions
from modules.training.packing import MicroBatch, accumulation, collate, packs_exactly, plan_epoch
from modules.training.samples import IGNORED, Encoded
from tests.tiny_models import VOCAB, make_model

PAD = 0


def sequence(length: int, number: int = 0, role: Any = "sample", pair: int = -1) -> Encoded:
    ids = tuple(3 + (number * 31 + place * 7 + place * place) % (VOCAB - 3) for place in range(length))
    return Encoded(ids, (IGNORED,) * (length // 3) + ids[length // 3 :], f"line {number}", role=role, pair=pair)


def sequences(lengths: list[int]) -> list[Encoded]:
    return [sequence(length, number) for number, length in enumerate(lengths)]


def places(plan: list[MicroBatch]) -> list[int]:
    return [place for micro_batch in plan for row in micro_batch for place in row]


sizes = st.lists(st.integers(2, 60), min_size=4, max_size=60)
any_options = st.builds(
    TrainingOptions, batch_size=st.integers(1, 20), micro_batch_size=st.integers(1, 6), packing=st.booleans(), batch_tokens=st.sampled_from([0, 0, 64, 200]),
    processes=st.integers(1, 4), seed=st.integers(0, 5),
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(lengths=sizes, options=any_options)
def test_everything_is_seen_once_in_every_epoch(lengths: list[int], options: TrainingOptions) -> None:
    encoded = sequences(lengths)
    plans = [plan_epoch(encoded, options, epoch) for epoch in range(3)]
    for plan in plans:
        assert sorted(places(plan)) == list(range(len(encoded)))
        assert all(micro_batch and all(micro_batch) for micro_batch in plan)
        assert len(plan) % options.processes == 0
    assert len({len(plan) for plan in plans}) == 1
    assert plan_epoch(encoded, options, 1) == plans[1]


def test_another_epoch_and_another_seed_have_another_order() -> None:
    encoded = sequences([5] * 40)
    orders = {tuple(places(plan_epoch(encoded, TrainingOptions(seed=seed), epoch))) for seed in (1, 2) for epoch in (0, 1)}
    assert len(orders) == 4


@settings(max_examples=100, deadline=None)
@given(count=st.integers(17, 80), batch=st.sampled_from([8, 12, 16]))
def test_steps_hold_the_same_samples_whatever_the_micro_batch(count: int, batch: int) -> None:
    encoded = sequences([2 + (number * 13) % 50 for number in range(count)])
    found = []
    for micro, packing in ((2, False), (4, False), (2, True), (3, True), (batch, False)):
        options = TrainingOptions(batch_size=batch, micro_batch_size=micro, packing=packing)
        per_step = accumulation(options, 1)
        plan = [micro_batch for epoch in range(2) for micro_batch in plan_epoch(encoded, options, epoch)]
        assert len(plan) % per_step == 0
        steps = [frozenset(places(plan[begin : begin + per_step])) for begin in range(0, len(plan), per_step)]
        assert max(map(len, steps)) <= batch and max(map(len, steps)) - min(map(len, steps)) <= 1
        assert max(sum(map(len, micro_batch)) for micro_batch in plan) <= micro
        found.append(steps)
    assert all(steps == found[0] for steps in found)


@pytest.mark.parametrize(("batch", "micro", "ranks", "wanted"), [(8, 2, 1, 4), (8, 2, 2, 2), (8, 3, 1, 3), (1, 4, 1, 1), (4, 1, 8, 1), (9, 2, 2, 3)])
def test_micro_batches_of_a_step(batch: int, micro: int, ranks: int, wanted: int) -> None:
    assert accumulation(TrainingOptions(batch_size=batch, micro_batch_size=micro), ranks) == wanted


def test_more_devices_than_samples_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="3 samples cannot be shared by 4 devices"):
        plan_epoch(sequences([5, 5, 5]), TrainingOptions(processes=2, nodes=2, rendezvous="a:1"), 0)


@settings(max_examples=80, deadline=None)
@given(lengths=sizes, tokens=st.integers(60, 300), packing=st.booleans())
def test_tokens_are_counted_with_what_fills_rows_up(lengths: list[int], tokens: int, packing: bool) -> None:
    encoded = sequences(lengths)
    plan = plan_epoch(encoded, TrainingOptions(batch_tokens=tokens, packing=packing), 0)
    for micro_batch in plan:
        rows = [sum(lengths[place] for place in row) for row in micro_batch]
        assert len(rows) * max(rows) <= tokens
        assert packing or all(len(row) == 1 for row in micro_batch)
    if packing:
        assert len(plan) <= 2 * sum(lengths) / tokens + 1  # first fit leaves no two rows that would go into one


def test_seven_single_groups_are_shared_by_four_devices() -> None:
    plan = plan_epoch(sequences([60] * 7), TrainingOptions(batch_tokens=64, processes=4), 0)
    assert sorted(len(micro_batch) for micro_batch in plan) == [1, 2, 2, 2]


def test_pairs_stay_together_and_are_not_packed() -> None:
    encoded = [sequence(5 + number, number, role, number // 2) for number in range(20) for role in [("chosen", "rejected")[number % 2]]]
    for options in (TrainingOptions(packing=True, micro_batch_size=3), TrainingOptions(packing=True, batch_tokens=70), TrainingOptions(batch_tokens=70)):
        plan = plan_epoch(encoded, options, 0)
        assert sorted(places(plan)) == list(range(20))
        for micro_batch in plan:
            assert all(len(row) == 1 for row in micro_batch)
            batch = collate(encoded, micro_batch, PAD)
            assert batch["roles"] == ("chosen", "rejected") * (len(micro_batch) // 2)
            assert batch["pairs"][::2] == batch["pairs"][1::2]


def test_rows_are_filled_up_at_their_end() -> None:
    encoded = sequences([5, 3])
    batch = collate(encoded, ((0,), (1,)), PAD)
    assert batch["input_ids"].tolist() == [list(encoded[0].token_ids), [*encoded[1].token_ids, PAD, PAD]]
    assert batch["labels"][1].tolist() == [*encoded[1].labels, IGNORED, IGNORED]
    assert batch["attention_mask"].tolist() == [[1] * 5, [1, 1, 1, 0, 0]]
    assert "roles" not in batch
    assert "attention_mask" not in collate(encoded, ((0,),), PAD)


def test_a_packed_row_starts_anew_with_each_sequence() -> None:
    encoded = [sequence(4), Encoded((7, 8, 9), (7, 8, 9), "x")]
    batch = collate(encoded, ((0, 1),), PAD)
    assert batch["input_ids"].tolist() == [[*encoded[0].token_ids, 7, 8, 9]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 0, 1, 2]]
    assert batch["labels"][0, 4:].tolist() == [IGNORED, 8, 9]  # the first would be learned from another sample
    assert "attention_mask" not in batch


@pytest.mark.parametrize("kind", ["llama", "gpt_neox", "qwen3", "gemma3_text"])
def test_a_packed_row_reckons_as_its_sequences_alone(kind: str) -> None:
    import torch

    model = make_model(kind)
    encoded = sequences([23, 9, 41])
    packed = collate(encoded, ((0, 1, 2),), PAD)
    with torch.no_grad():
        together = model(input_ids=packed["input_ids"], position_ids=packed["position_ids"], use_cache=False).logits[0]
        alone = [model(input_ids=torch.tensor([one.token_ids]), use_cache=False).logits[0] for one in encoded]
    assert float((together - torch.cat(alone)).abs().max()) < 1e-5 * float(together.abs().max())

    def loss(logits: Any, labels: Any) -> Any:
        return torch.nn.functional.cross_entropy(logits[:-1], labels[1:], ignore_index=IGNORED, reduction="sum")

    single = sum(loss(logits, torch.tensor(one.labels)) for logits, one in zip(alone, encoded, strict=True))
    assert float(loss(together, packed["labels"][0])) == pytest.approx(float(single), rel=1e-5)


@pytest.mark.parametrize(("kind", "exact"), [
    ("llama", True), ("gpt_neox", True), ("qwen3", True), ("gemma3_text", True), ("mistral", True), ("gpt2", True), ("qwen3_moe", True),
    ("bloom", False), ("mamba", False), ("lfm2", False),
])  # fmt: skip
def test_models_that_mix_packed_sequences_are_found_out(kind: str, exact: bool) -> None:
    model = make_model(kind)
    model.train()
    assert packs_exactly(model) is exact
    assert model.training
    assert packs_exactly(model.bfloat16()) is exact


def test_a_model_that_hides_its_positions_is_found_out() -> None:
    """One that takes position_ids and does not use them lets samples see each other."""
    model = make_model("llama")
    forward = model.forward
    model.forward = lambda position_ids=None, **more: forward(**more)
    assert not packs_exactly(model)
