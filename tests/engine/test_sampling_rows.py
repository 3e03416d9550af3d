"""The cuts of a row, and that the whole vocabulary and a sorted list of it answer alike."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modules.core.params import GenerationParams
from modules.engine.candidates import Kept, NothingLeft
from modules.engine.few import Few
from modules.engine.logits import NumpyRow, PartialRow, as_row
from modules.engine.sampling import Sampler
from modules.engine.vocabulary import Whole

ODD = (np.nan, np.inf, -np.inf, -3.4e38)


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray:
    """Rows with ties, impossible tokens and what is no number."""
    size = draw(st.sampled_from([1, 2, 5, 64, 1023, 1024, 2048, 2049, 7000]))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    row = (random.standard_normal(size) * 3).astype(np.float32)
    if draw(st.booleans()):
        row = np.round(row)
    for value in draw(st.lists(st.sampled_from(ODD), max_size=4)):
        row[random.random(size) < draw(st.sampled_from([0.001, 0.1, 1.0]))] = value
    return row


def cleaned(row: np.ndarray) -> np.ndarray:
    row = np.where(np.isnan(row), -np.inf, row)
    return np.where(row == np.inf, np.float32(1e30), row).astype(np.float32)


@settings(max_examples=100, deadline=None)
@given(arrays(), st.sampled_from([0, 1, 2, 40, 300, 1000, 5000]), st.sampled_from([-np.inf, -1.0, 0.5, 2.0000001, 100.0]))
def test_a_cut_is_what_sorting_everything_gives(row: np.ndarray, k: int, threshold: float) -> None:
    before = row.copy()
    ids, logits = NumpyRow(row).cut(k, threshold)
    clean = cleaned(row)
    order = np.lexsort((np.arange(len(row)), -clean))[: k or None]
    want = [i for i in order.tolist() if float(clean[i]) >= threshold and clean[i] >= -1e30]
    assert ids.tolist() == sorted(ids.tolist())
    assert set(want) <= set(ids.tolist()) and len(ids) <= max(len(want), 2 * k) and (k != 1 or len(ids) <= 1)
    assert all(float(clean[i]) >= threshold for i in ids)
    if k and len(ids) > len(want):  # what is left out is smaller than what is there
        left_out = np.delete(clean, ids)
        assert not len(left_out) or left_out.max() < clean[ids].min()
    assert np.array_equal(logits, clean[ids])
    assert np.array_equal(row, before, equal_nan=True)


@settings(max_examples=100, deadline=None)
@given(arrays())
def test_the_statistics_of_a_row(row: np.ndarray) -> None:
    clean, one = cleaned(row), NumpyRow(row)
    assert one.max() == clean.max()
    assert np.array_equal(one.at(np.array([0, len(row) - 1])), clean[[0, -1]])
    assert np.array_equal(NumpyRow(row).full(), clean)
    if np.isfinite(clean.max()):
        total = np.exp(clean.astype(np.float64) - clean.max()).sum()
        assert one.logsumexp() == pytest.approx(clean.max() + np.log(total), abs=1e-6)


@settings(max_examples=100, deadline=None)
@given(arrays(), st.sampled_from([1.0, 0.5, 1.7]), st.lists(st.integers(0, 6999), max_size=200, unique=True), st.floats(0.001, 0.999))
def test_whole_and_kept_answer_alike(row: np.ndarray, factor: float, touched: list[int], share: float) -> None:
    clean = cleaned(row)
    clean[clean > 1e29] = 50  # infinities aside
    clean[clean < -1e29] = -np.inf
    ids = np.array(sorted(i for i in touched if i < len(row)), np.int64)
    change = np.linspace(-30, 4, len(ids))
    try:
        kept = Kept.sort(np.arange(len(row)), clean.astype(np.float64))
    except NothingLeft:
        return
    forms = [form.scaled(factor).adjust(ids, lambda x, place: x + change[place]) for form in (Whole(NumpyRow(clean)), kept)]
    forms = [form.adjust(ids[::3], lambda x, place: x * 0.5) for form in forms]
    whole, kept = forms
    if len(row) == 1 or clean.max() < -1e29:
        return
    assert whole.max() == pytest.approx(kept.max(), rel=1e-6)
    assert whole.log_total() == pytest.approx(kept.log_total(), rel=1e-6, abs=1e-6)
    for method, argument in (("top", 40), ("top", 3000), ("above", 1.3), ("nucleus", share), ("typical", share)):
        one, other = getattr(whole, method)(argument), getattr(kept, method)(argument)
        assert list(one.ids) == list(other.ids), method
        assert np.allclose(one.logits, other.logits), method
    drawn = int((kept.ids == whole.draw(share)).nonzero()[0][0])
    borders = np.concatenate(([0.0], kept.probabilities().cumsum()))
    assert borders[drawn] - 1e-6 <= share <= borders[drawn + 1] + 1e-6  # on a border, rounding decides


class DeviceRow:
    """A row as a device gives it."""

    def __init__(self, row: np.ndarray) -> None:
        self.row, self.size, self.moved = row, len(row), 0

    def max(self) -> float:
        return float(self.row.max())

    def logsumexp(self) -> float:
        return NumpyRow(self.row).logsumexp()

    def at(self, token_ids: np.ndarray) -> np.ndarray:
        return self.row[token_ids]

    def cut(self, k: int, threshold: float) -> tuple[np.ndarray, np.ndarray]:
        return NumpyRow(self.row).cut(k, threshold)

    def full(self) -> np.ndarray:
        self.moved += 1
        return self.row


@pytest.mark.parametrize("fields", [{"top_k": 40}, {"min_p": 0.05}, {"top_p": 0.3}, {"temperature": 0}, {"top_k": 9, "repetition_penalty": 1.2}])
def test_a_row_of_a_device_gives_the_same_tokens_without_leaving_it(fields: dict) -> None:
    row = (np.random.default_rng(1).standard_normal(5000) * 3).astype(np.float32)
    device, params = DeviceRow(row), GenerationParams(seed=4, **fields)
    samplers = [Sampler(params, vocab_size=5000, end_ids=set(), prompt_ids=[1, 2, 3]) for _ in range(2)]
    for _ in range(20):
        tokens = [one.sample(source) for one, source in zip(samplers, (as_row(device), as_row(row)), strict=True)]
        assert tokens[0] == tokens[1]
    assert device.moved == 0


@pytest.mark.parametrize("curve", [1.0, 4.0])
def test_smoothing_of_a_whole_large_vocabulary_is_as_that_of_all_its_tokens_sorted(curve: float) -> None:
    random = np.random.default_rng(4)
    row = (random.standard_normal(40_000) * 2).astype(np.float32)
    row[5] = -np.inf
    fields = {"smoothing_factor": 0.02, "smoothing_curve": curve, "seed": 3}
    whole = Sampler(GenerationParams(**fields), vocab_size=len(row), end_ids=frozenset(), prompt_ids=())
    cut = Sampler(GenerationParams(**fields, min_p=1e-300), vocab_size=len(row), end_ids=frozenset(), prompt_ids=())  # which sorts all of them
    (ids, shares), (same_ids, same_shares) = whole.distribution(NumpyRow(row)), cut.distribution(NumpyRow(row))
    assert sorted(ids.tolist()) == sorted(same_ids.tolist()) and 5 not in ids
    assert np.allclose(shares[ids.argsort()], same_shares[same_ids.argsort()], rtol=1e-4, atol=0)
    drawn = [(whole.sample(NumpyRow(row)), cut.sample(NumpyRow(row))) for _ in range(20)]
    assert sum(one == other for one, other in drawn) >= 18, "but for equal ones in single precision"


CHAINS = (
    {}, {"top_k": 7}, {"top_p": 0.8}, {"min_p": 0.02, "repetition_penalty": 1.3}, {"typical_p": 0.7}, {"top_n_sigma": 1.0}, {"temperature": 0},
    {"mirostat_mode": 2}, {"mirostat_mode": 1}, {"smoothing_factor": 0.3}, {"xtc_probability": 1.0, "xtc_threshold": 0.1}, {"dynamic_temperature_range": 0.5}, {"logit_bias": {3: 5.0, 11: -3.0}, "banned_tokens": (2,)},
)  # fmt: skip


@pytest.mark.parametrize("count", [1, 2, 40, 4990, 5000])
@pytest.mark.parametrize("fields", CHAINS, ids=lambda fields: next(iter(fields), "plain"))
def test_some_tokens_of_a_row_are_as_a_row_with_the_others_impossible(fields: dict, count: int) -> None:
    random = np.random.default_rng(count)
    row = (random.standard_normal(5000) * 3).astype(np.float32)
    ids = np.sort(random.choice(5000, count, replace=False))
    masked = np.full(5000, -np.inf, np.float32)
    masked[ids] = row[ids]
    device = DeviceRow(row)
    samplers = [Sampler(GenerationParams(seed=4, **fields), vocab_size=5000, end_ids=set(), prompt_ids=[1, 2, 3]) for _ in range(2)]
    one, other = (sampler.distribution(source) for sampler, source in zip(samplers, (PartialRow(device, ids), NumpyRow(masked)), strict=True))
    assert one[0].tolist() == other[0].tolist()
    assert np.allclose(one[1], other[1])
    for _ in range(5):
        tokens = [sampler.sample(source) for sampler, source in zip(samplers, (PartialRow(device, ids), NumpyRow(masked)), strict=True)]
        assert tokens[0] == tokens[1]
    assert device.moved == 0


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.one_of(st.integers(-3, 3).map(float), st.floats(-20, 20)), min_size=1, max_size=90), st.sampled_from([1.0, 0.5, 1.7]),
    st.integers(1, 100), st.floats(-30, 30), st.floats(0.001, 0.999), st.lists(st.integers(0, 89), max_size=8, unique=True),
)  # fmt: skip
def test_few_are_as_many(logits: list[float], factor: float, k: int, threshold: float, share: float, changed: list[int]) -> None:
    """In lists as in arrays."""
    ids = list(range(0, 3 * len(logits), 3))
    few, kept = Few.sort(ids, logits).scaled(factor), Kept.sort(np.array(ids), np.array(logits)).scaled(factor)
    touched = np.array(sorted(3 * place for place in changed), np.int64)
    steps = (
        lambda one: one.top(k), lambda one: one.above(threshold), lambda one: one.nucleus(share), lambda one: one.typical(share),
        lambda one: one.nucleus(share).top(k).scaled(factor).above(threshold), lambda one: one.without_first(min(k, one.count() - 1)),
        lambda one: one.adjust(touched, lambda values, _: values - 2),
    )  # fmt: skip
    for step in steps:
        one, other = step(few), step(kept)
        assert list(one.ids) == other.ids.tolist()
        np.testing.assert_allclose(one.logits, other.logits, rtol=1e-12, atol=1e-12)
        assert one.draw(share) == other.draw(share) or share == pytest.approx(other.probabilities().cumsum()[list(other.ids).index(one.draw(share))], abs=1e-9)
        for figure in ("max", "log_total", "entropy", "deviation", "count"):
            assert getattr(one, figure)() == pytest.approx(getattr(other, figure)(), rel=1e-9, abs=1e-9), figure
    with pytest.raises(NothingLeft):
        Few.sort([1, 2], [-np.inf, -np.inf])


@settings(max_examples=60, deadline=None)
@given(arrays(), st.integers(1, 50), st.dictionaries(st.integers(0, 6999), st.sampled_from([-np.inf, -1.0, 0.0, 2.5, 9.0]), max_size=20))
def test_a_few_biases_and_bans_are_as_a_changed_row(row: np.ndarray, k: int, own: dict[int, float]) -> None:
    clean = cleaned(row)
    own = {token_id: value for token_id, value in own.items() if token_id < len(row)}
    changed = clean.astype(np.float64)
    changed[list(own)] = list(own.values())
    changed[changed < -1e30] = -np.inf
    ids = np.array(sorted(own), np.int64)
    whole = Whole(NumpyRow(row), changed=ids, values=np.array([own[token_id] for token_id in sorted(own)]))
    try:
        other = Kept.sort(np.arange(len(row)), changed).prefix(k)
    except NothingLeft:
        with pytest.raises(NothingLeft):
            whole.top(k)
        return
    found = whole.top(k)
    assert list(found.ids) == other.ids.tolist()
    assert np.array_equal(found.logits, other.logits)


def test_half_precision_rows_are_read() -> None:
    assert as_row(np.array([1, 3, 2], np.float16)).cut(1, -np.inf)[0].tolist() == [1]


@settings(max_examples=150, deadline=None)
@given(
    arrays(), st.integers(1, 60), st.permutations(("top_p", "min_p", "temperature")), st.sampled_from([0.3, 0.95]), st.sampled_from([0.0, 0.05, 0.9]),
    st.sampled_from([0.2, 1.0, 1.7]), st.sets(st.integers(0, 4), max_size=3), st.floats(0, 1, exclude_max=True),
)  # fmt: skip
def test_a_short_list_chooses_what_the_chain_does(row, k, order, top_p, min_p, temperature, banned, uniform) -> None:
    params = GenerationParams(
        top_k=k, top_p=top_p, min_p=min_p, temperature=temperature, sampler_order=("top_k", *order), banned_tokens=tuple(i for i in banned if i < len(row)),
    )  # fmt: skip
    sampler = Sampler(params, vocab_size=len(row), end_ids=frozenset(), prompt_ids=[])
    assert sampler._shortlist is not None
    chosen = sampler._choose(NumpyRow(row), uniform)
    sampler._shortlist = None
    assert chosen == sampler._choose(NumpyRow(row), uniform)


@pytest.mark.parametrize("fields", [{"top_k": 0}, {"top_k": 97}, {"top_k": 40, "typical_p": 0.5}, {"top_k": 40, "logit_bias": {1: 2.0}}, {"top_k": 40, "temperature": 0},
                                    {"top_k": 40, "mirostat_mode": 2}, {"top_k": 40, "dynamic_temperature_range": 0.5}, {"top_k": 40, "repetition_penalty": 1.1}], ids=str)  # fmt: skip
def test_what_a_short_list_cannot_do_is_left_to_the_chain(fields) -> None:
    assert Sampler(GenerationParams(**fields), vocab_size=200, end_ids=frozenset(), prompt_ids=[])._shortlist is None
